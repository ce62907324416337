"""Search for the state dicts in a checkpoint.

Training scripts store the weights under various names, together with counters and optimisers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from core.weights.errors import WeightsError
from core.weights.inert_pickle import Inert, as_tensor

CONTAINERS = (
    "state_dict", "model_state_dict", "model_state", "model", "student", "net", "net_state_dict", "network", "module",
    "params", "weights", "student_state_dict", "model_weights", "backbone",
)  # fmt: skip
"""Names under which public training scripts store the weights, the most usual ones first."""

_MAX_DEPTH = 4
_MAX_DICT_SIZE = 10_000
MAX_NAMED = 6
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
COUNTERS = re.compile(r"(^|\.)(total_ops|total_params|n_averaged)$")
"""Counters of thop (operations and parameters of modules) and of torch's ``AveragedModel``, which are not weights."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name.

    Attributes:
        location: keys that lead to them in the checkpoint, joined with dots; "" for the top level.
        tensors: the tensors.
    """

    location: str
    tensors: dict[str, Tensor]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.location.split(".")) if self.location else ()

    @property
    def is_moving_average(self) -> bool:
        """Whether its name says that it is an exponential moving average of the weights."""
        return any("ema" in re.split(r"[_\W]", part.lower()) for part in self.parts)

    @property
    def has_usual_name(self) -> bool:
        """Whether it is at a usual location for weights."""
        return self.is_moving_average or not self.parts or any(part in CONTAINERS for part in self.parts)

    def sort_key(self) -> tuple[int, int, int]:
        """Return the sort key: averages before raw weights (as in timm), usual names before others."""
        ranks = [CONTAINERS.index(part) for part in self.parts if part in CONTAINERS]
        if self.is_moving_average:
            return 0, len(self.parts), 0
        if ranks and all(part in CONTAINERS or part.isdecimal() for part in self.parts):
            return 1, min(ranks), len(self.parts)
        return (2 if not self.parts else 3), len(self.parts), 0


def find_state_dicts(content: Any, container: str = "", drop: Sequence[str] = ()) -> list[StateDict]:
    """Return every state dict in a checkpoint, the most likely first.

    Args:
        content: the checkpoint.
        container: location of the required state dict, such as ``model_ema`` or ``checkpoint.model``; "" for all.
        drop: ``fnmatch`` patterns of keys to omit.

    Raises:
        WeightsError: there is no state dict, none at ``container``, or no key matches a pattern.
    """
    candidates = sorted(_walk(content, ()), key=StateDict.sort_key)
    if not candidates:
        raise WeightsError(
            f"no weights found: expected a state dict, or one under {', '.join(CONTAINERS[:6])} …; "
            f"the file contains {_describe(content)}"
        )
    if container:
        inside = [
            item for item in candidates if item.location == container or item.location.startswith(f"{container}.")
        ]
        if not inside:
            places = ", ".join(item.location or "(top)" for item in candidates[:MAX_NAMED])
            raise WeightsError(f"there are no weights under {container!r}, only under: {places}")
        candidates = inside
    for pattern in drop:
        if not any(fnmatch.fnmatchcase(key, pattern) for item in candidates for key in item.tensors):
            raise WeightsError(f"no key matches the pattern {pattern!r} of keys to omit")
    return [
        replace(
            item,
            tensors={
                key: tensor
                for key, tensor in item.tensors.items()
                if not any(fnmatch.fnmatchcase(key, pattern) for pattern in drop)
            },
        )
        for item in candidates
    ]


def strip_prefixes(item: StateDict) -> dict[str, Tensor]:
    """Return the tensors without the usual prefixes, to describe weights that match no network.

    Of a checkpoint with student and teacher (``student.``, ``teacher.``) only the student is returned.
    """
    tensors = {key: tensor for key, tensor in item.tensors.items() if not COUNTERS.search(key)}
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in tensors):
                tensors, stripped = below_prefix(tensors, prefix), True
        if any(key.startswith("student.") for key in tensors):
            tensors, stripped = below_prefix(tensors, "student."), True
    return tensors


def _walk(content: Any, location: tuple[str, ...]) -> Iterator[StateDict]:
    """Yield the state dicts at any level of a checkpoint."""
    if len(location) > _MAX_DEPTH:
        return
    if isinstance(content, list | tuple):
        for number, value in enumerate(content[:MAX_NAMED]):
            yield from _walk(value, (*location, str(number)))
        return
    if not isinstance(content, Mapping):
        return
    if isinstance(content, Inert) and isinstance(content.state, Mapping):
        if "_modules" in content.state and "_parameters" in content.state:  # a whole network, pickled
            if tensors := _module_tensors(content.state, 0):
                yield StateDict(".".join(location), tensors)
            return
        content = {**content.state, **content}
    if len(content) > _MAX_DICT_SIZE and not any(as_tensor(value) is not None for value in content.values()):
        return
    tensors = {str(key): tensor for key, value in content.items() if (tensor := as_tensor(value)) is not None}
    if tensors:
        yield StateDict(".".join(location), tensors)
    for key, value in content.items():
        if isinstance(value, Mapping | list | tuple) and key not in ("optimizer", "optimizers", "param_groups"):
            yield from _walk(value, (*location, str(key)))


def _module_tensors(state: Mapping[Any, Any], depth: int) -> dict[str, Tensor]:
    """Return the state dict of a network that was pickled as an object, from the attributes that torch uses."""
    if depth > 50:
        raise WeightsError("modules are nested too deeply")
    values = {**(state.get("_parameters") or {}), **(state.get("_buffers") or {})}
    non_persistent = state.get("_non_persistent_buffers_set") or set()
    tensors = {
        str(name): tensor
        for name, value in values.items()
        if name not in non_persistent and (tensor := as_tensor(value)) is not None
    }
    for name, module in (state.get("_modules") or {}).items():
        if isinstance(module, Inert) and isinstance(module.state, Mapping):
            inner = _module_tensors(module.state, depth + 1)
            tensors |= {f"{name}.{key}": tensor for key, tensor in inner.items()}
    return tensors


def below_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose keys begin with a prefix, without the prefix."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _describe(content: Any) -> str:
    """Return a short description of an object without weights."""
    if isinstance(content, Inert) and not content:
        kind = type(content)
        return f"an object of {kind.__module__}.{kind.__name__}"
    return (", ".join(map(str, content))[:200] or "nothing") if isinstance(content, Mapping) else type(content).__name__
