"""A network that returns the outputs of inner layers beside its logits, from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from core.catalog.suggestions import suggest_name
from core.catalog.taps import LAST_MAP, STRONG_LOGITS, expand, region_grids, split_suffix, unknown_tap
from core.errors import TrainingError
from core.tasks.classification.models.network import Network, TapPoint
from core.tasks.classification.models.regions import check_regions, regions_point
from core.tasks.classification.teacher_input import InputAdapter


class Tapped(nn.Module):
    """A network with hooks on the tapped layers.

    With the tap ``strong_logits`` it takes two views of the samples, (2·B, channels, H, W), the strong ones last. The
    network computes them one after the other, as the public code of MLKD does, so that batch norm normalises each view
    by its own statistics and counts both in its running ones. The other taps are of the first view.

    Args:
        network: A network of the catalog, behind an ``InputAdapter`` or not.
        names: The taps, see ``core.catalog.taps.Taps``.

    Attributes:
        names: The taps in the order in which they are returned, each the name of one layer.
        versions: The version counters of the taps in the last pass, when their layers had run.

    Raises:
        TrainingError: The network has no such layer.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._points: dict[str, TapPoint] = {}
        self._captured: dict[str, Tensor] = {}
        self._first: GradientEdge | None = None
        self.versions: dict[str, int] = {}
        self._hooks: list[RemovableHandle] = []
        self._records_first = False
        self._active = False  # a pass of the network alone, such as an evaluation, captures nothing
        inner = network.network if isinstance(network, InputAdapter) else network
        known = inner.tap_points() if isinstance(inner, Network) else {}
        self.names = expand(names, tuple(known))
        self._layers = tuple(name for name in self.names if name != STRONG_LOGITS)
        for name in self._layers:
            point = self._points[name] = _point_at(inner, name, known)
            if point.takes_input:
                self._hooks.append(point.module.register_forward_pre_hook(partial(self._capture_input, name)))
            else:
                self._hooks.append(point.module.register_forward_hook(partial(self._capture_output, name)))

    def _capture_input(self, name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._active:
            self._capture(name, inputs[0])

    def _capture_output(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._active:
            self._capture(name, output)

    def _capture(self, name: str, value: Any) -> None:
        if self._records_first and self._first is None and value.requires_grad:
            # The tensor is handed over at once, because a later layer may change it in place.
            self._first = get_gradient_edge(value)
        tensor = self._captured[name] = self._points[name].convert(value)
        if not torch.compiler.is_compiling():
            self.versions[name] = tensor._version

    def forward(self, images: Tensor, *, first: bool = False) -> tuple[Any, ...]:
        """Return the logits (B, C), and the taps in the order of their names.

        Args:
            images: (B, channels, H, W).
            first: Whether to return, at the end, also where the output of the tapped layer that ran first is in the
                graph.

        Raises:
            TrainingError: A layer did not run.
        """
        strong = None
        if len(self._layers) < len(self.names):
            images, strong = images.chunk(2)
        self._active, self._records_first, self._first = True, first, None
        try:
            logits: Tensor = self.network(images)
        finally:
            self._active = False
        missing = [name for name in self._layers if name not in self._captured]
        if missing:
            raise TrainingError("spec", f"the layer {missing[0]!r} does not run in a forward pass, so it has no output")
        if strong is not None:
            self._captured[STRONG_LOGITS] = self.network(strong)
        taps = tuple(self._captured[name] for name in self.names)
        self._captured.clear()
        return (logits, *taps, self._first) if first else (logits, *taps)

    def remove_hooks(self) -> None:
        """Leave the network as it was before it was tapped."""
        for hook in self._hooks:
            hook.remove()


def tap_once(network: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return the taps of one forward pass by name. The network has no hooks afterwards.

    Args:
        network: In eval mode.
        names: The taps.
        images: (B, channels, H, W), or two views of the samples for the logits of the second one.

    Raises:
        TrainingError: The network has no such layer, or a later layer changes its output in place.
    """
    tapped = Tapped(network, names)
    try:
        logits, *taps = tapped(images)
    finally:
        tapped.remove_hooks()
    result = dict(zip(tapped.names, taps, strict=True))
    for name, tensor in result.items():
        if grids := region_grids(name):
            check_regions(tensor, grids, logits)
        if tensor._version != tapped.versions.get(name, tensor._version):
            text = f"a later layer changes the output of {name!r} in place; tap that later layer instead"
            raise TrainingError("spec", text)
    return result


def _point_at(network: nn.Module, name: str, known: Mapping[str, TapPoint]) -> TapPoint:
    """Return the point in a network of the tap with a name.

    Raises:
        TrainingError: There is no such tap.
    """
    if problem := unknown_tap(name, tuple(known)):
        raise TrainingError("spec", problem)
    if name == LAST_MAP and isinstance(network, Network):
        return _pooling_point(network)
    if grids := region_grids(name):
        return regions_point(network, grids)
    stage, suffix = split_suffix(name)
    if suffix and stage in known and isinstance(network, Network):
        return network.preactivation_point(stage)
    return known.get(name) or TapPoint(_module_at(network, name, tuple(known)))


def _pooling_point(network: Network) -> TapPoint:
    """Return the input of a network's global average pooling.

    Raises:
        TrainingError: The network has no global average pooling.
    """
    if point := network.pooling_point():
        return point
    raise TrainingError("spec", f"the network has no global pooling of maps, so it has no {LAST_MAP!r}")


def _module_at(network: nn.Module, name: str, known: Sequence[str]) -> nn.Module:
    """Return the module at a path.

    Raises:
        TrainingError: There is no such module.
    """
    try:
        return network.get_submodule(name)
    except AttributeError:
        paths = [path for path, _ in network.named_modules() if path and not unknown_tap(path, known)]
        hint = suggest_name(name, dict.fromkeys([*known, *paths], ()))
        raise TrainingError("spec", f"the network has no layer {name!r}; {hint}") from None
