"""The networks of timm, by their names in timm."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.tasks.classification.models.network import Network, TapPoint
from core.weights.errors import WeightsError


class TimmNetwork(Network):
    """A module of timm (attribute ``network``) with timm's initialisation. Keys of checkpoints are those of timm.

    Args:
        name: name in timm, without the prefix ``timm:`` of the catalog, with or without the tag of its weights.
        num_classes: number of classes.
        in_channels: number of channels of an image.
        image_size: side of the images in pixels.
        patch_size: patch size of a vision transformer; None keeps that of the named model.
        drop_path_rate: rate of stochastic depth.

    Raises:
        ValueError: timm has no such model (the message suggests names), the model has no such option, or it does not
            accept such images.
        ImportError: timm is not installed.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check_name(name)
        self.name = name
        self._arguments: dict[str, Any] = {
            "num_classes": num_classes,
            "in_chans": in_channels,
        }
        if drop_path_rate:  # some networks refuse the option, even if it is 0
            self._arguments["drop_path_rate"] = drop_path_rate
        if patch_size is not None:
            self._arguments["patch_size"] = patch_size
        if _has_fixed_image_size(name):
            self._arguments["img_size"] = image_size
        self.network = _create(name, self._arguments)
        self._check(image_size)

    def _check(self, image_size: int) -> None:
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"timm:{self.name} does not return the outputs of its stages, which is required")
        if not isinstance(self.network.get_classifier(), nn.Linear):
            raise ValueError(f"timm:{self.name} does not end in a linear layer, so it has no penultimate features")
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", (1, 1))[0]
        if image_size % patch:
            raise ValueError(
                f"timm:{self.name} divides images into patches of {patch} px, and {image_size} px is no multiple of it"
            )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return features

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Return one map per stage; for a transformer without stages, one per block (tokens arranged as an image)."""
        maps = self.network.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        return {f"stage{number}": stage for number, stage in enumerate(maps, start=1)}

    def tap_points(self) -> dict[str, TapPoint]:
        stages = {
            f"stage{number}": TapPoint(self.network.get_submodule(info["module"]), convert=self._to_map)
            for number, info in enumerate(getattr(self.network, "feature_info", ()), start=1)
        }
        return stages | super().tap_points()

    def pooling_point(self) -> TapPoint | None:
        holders = (self.network, getattr(self.network, "head", None))
        pooling = (getattr(holder, "global_pool", None) for holder in holders)
        layer = next((layer for layer in pooling if isinstance(layer, nn.Module)), None)
        return TapPoint(layer, takes_input=True, convert=self._to_map) if layer else None

    def _to_map(self, output: Tensor) -> Tensor:
        """Return the output of a stage as a map (B, channels, height, width)."""
        if output.ndim == 3:  # tokens (B, N, D)
            patches = output[:, getattr(self.network, "num_prefix_tokens", 0) :]
            height, width = self.network.patch_embed.grid_size
            return patches.transpose(1, 2).reshape(len(patches), -1, height, width)
        return output.movedim(-1, 1) if getattr(self.network, "output_fmt", "NCHW") == "NHWC" else output

    @property
    def linear(self) -> nn.Linear:
        layer: nn.Linear = self.network.get_classifier()
        return layer

    def map_published_key(self, key: str) -> str:
        return f"network.{key}"

    def load_pretrained(self) -> None:
        # timm adapts position embeddings and a last layer with another number of classes.
        source = create_pretrained(self.name, self._arguments, self.allow_download)
        self.network.load_state_dict(source.state_dict())


FEATURES_ONLY: dict[str, Any] = {"features_only": True}
"""The argument by which timm leaves out a network's head and returns the maps of its stages."""


def create_pretrained(name: str, arguments: Mapping[str, Any], allow_download: bool) -> Any:
    """Build a network of timm with its published weights.

    Args:
        name: Name in timm, without the prefix ``timm:``.
        arguments: Further arguments for timm.
        allow_download: Whether to download the weights if they are not on this machine.

    Raises:
        WeightsError: There are no published weights, or they are not available; the message says where to get them.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsError(f"timm has no pretrained weights for {name}; timm.list_pretrained() lists those it has")
    address = f"huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    advice = (
        "Download them on a machine with network access and copy the folder that HF_HOME names, or convert them "
        "with `python -m core convert` and give that file in teacher.weights"
    )
    cached = _in_cache(config)
    if cached is None and not allow_download:
        raise WeightsError(
            f"the weights of timm:{name} are not on this machine, and downloads are off. They are at "
            f"{address}. {advice}; or set DKD_DOWNLOAD=1"
        )
    overlay = {"pretrained_cfg_overlay": {"file": cached}} if cached else {}
    try:
        return _create(name, {**arguments, "pretrained": True, **overlay})
    except (OSError, RuntimeError) as error:  # raised by the hub's client without network access
        raise WeightsError(f"cannot load the weights from {address}: {_first_line(error)}. {advice}") from error


def create_features(name: str) -> Any:
    """Build a network of timm that returns the maps of its stages, with their numbers in ``feature_info``.

    Args:
        name: Name in timm, without the prefix ``timm:``.

    Raises:
        ValueError: timm has no such model, or it does not return maps.
        ImportError: timm is not installed.
    """
    _check_name(name)
    try:
        return _create(name, FEATURES_ONLY)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"timm:{name} does not return the maps of its stages: {_first_line(error)}") from error


def _check_name(name: str) -> None:
    import timm

    base, _, tag = name.partition(".")
    models = timm.list_models()
    if base in models:
        tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{base}.*")]
        if tag and tag not in tags:
            raise ValueError(f"timm has no weights {tag!r} of {base}; it has: {', '.join(tags) or 'none'}")
        return
    similar = difflib.get_close_matches(base, models, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(f'timm:{model}' for model in similar)}?" if similar else "see timm.list_models()"
    raise ValueError(f"unknown timm model {name!r}; {hint}")


def _in_cache(config: Any) -> str | None:
    """Return the path of a file that was downloaded before; timm reads it without network access."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        return None
    path = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return path if isinstance(path, str) and path.endswith(".safetensors") else None


def _has_fixed_image_size(name: str) -> bool:
    """Return whether the network depends on the image size, for example through position embeddings."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _create(name: str, arguments: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, **arguments)
    except (TypeError, AssertionError) as error:
        options = ", ".join(f"{key} {value}" for key, value in arguments.items())
        raise ValueError(f"timm:{name} cannot be built with {options}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
