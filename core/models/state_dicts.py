"""Search for the state dict in a checkpoint, and the mapping of its keys to those of a network.

Training scripts store the weights under various names, together with counters and optimisers, and wrappers put prefixes
in front of every key. If the network is known, no guess is needed: a state dict and a prefix are right if the remaining
keys are exactly those of the network, with the same shapes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from core.models.inert_pickle import Inert, as_tensor
from core.models.network import Network, WeightsError

CONTAINERS = (
    "state_dict", "model_state_dict", "model_state", "model", "student", "net", "net_state_dict", "network", "module",
    "params", "weights", "student_state_dict", "model_weights", "backbone",
)  # fmt: skip
"""Names under which public training scripts store the weights, the most usual ones first."""

_MAX_DEPTH = 4
_MAX_DICT_SIZE = 10_000
_MAX_NAMED = 6
_INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
_COUNTERS = re.compile(r"(^|\.)(total_ops|total_params|n_averaged)$")
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


@dataclass(frozen=True)
class MatchedWeights:
    """Weights that match a network.

    Attributes:
        tensors: the weights under the keys of the network.
        notes: choices and omissions, one sentence each.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def find_state_dicts(content: Any, container: str = "", drop: Sequence[str] = ()) -> list[StateDict]:
    """Return every state dict in a checkpoint, the most likely one first.

    Args:
        content: the checkpoint.
        container: location of the required state dict, such as ``model_ema`` or ``checkpoint.model``; "" for all.
        drop: ``fnmatch`` patterns of keys to omit.

    Raises:
        WeightsError: there is none, none at ``container``, or no key matches a pattern.
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
            places = ", ".join(item.location or "(top)" for item in candidates[:_MAX_NAMED])
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


def match_state_dict(
    network: Network, candidates: Sequence[StateDict], *, any_classes: bool = False
) -> MatchedWeights | None:
    """Return the first of the state dicts that matches the network; None if none does.

    Args:
        network: the network.
        candidates: state dicts, the most likely one first.
        any_classes: whether a last layer with another number of classes matches too.

    Raises:
        WeightsError: several match, and their names do not decide between them.
    """
    target = _Target(network, any_classes)
    matches: list[tuple[StateDict, MatchedWeights]] = []
    for candidate in candidates:
        matched = _match_one(target, candidate)
        if matched and not any(_same_memory(matched.tensors, other.tensors) for _, other in matches):
            matches.append((candidate, matched))
    if not matches:
        return None
    item, chosen = matches[0]
    if not item.has_usual_name and len(matches) > 1:
        places = ", ".join(other.location for other, _ in matches[:_MAX_NAMED])
        raise WeightsError(
            f"several state dicts match this network: {places}; `python -m core convert --container NAME` selects one"
        )
    notes = list(chosen.notes)
    others = [other.location or "the top of the file" for other, _ in matches[1:]]
    if others:
        kind = "the moving average of the weights, as timm does, " if item.is_moving_average else ""
        notes.insert(
            0, f"used {kind}from {item.location!r}; {', '.join(others[:_MAX_NAMED])} would match too (--container)"
        )
    elif item.location:
        notes.insert(0, f"used the weights under {item.location!r}")
    return replace(chosen, notes=tuple(notes))


def strip_prefixes(item: StateDict) -> dict[str, Tensor]:
    """Return the tensors without the usual prefixes, to describe weights that match no network.

    Of a checkpoint with student and teacher (``student.``, ``teacher.``) only the student is returned.
    """
    tensors = {key: tensor for key, tensor in item.tensors.items() if not _COUNTERS.search(key)}
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in tensors):
                tensors, stripped = _below_prefix(tensors, prefix), True
        if any(key.startswith("student.") for key in tensors):
            tensors, stripped = _below_prefix(tensors, "student."), True
    return tensors


class _Target:
    """The keys of a network with their shapes, and those that may have another number of classes."""

    def __init__(self, network: Network, any_classes: bool) -> None:
        self.network = network
        state = network.state_dict(keep_vars=True)
        self.shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        # Checkpoints from before PyTorch 0.4.1 have no such counters, and this program does not read them.
        self.required = {key for key in state if not key.endswith("num_batches_tracked")}
        last = {id(parameter) for parameter in network.linear.parameters()}
        self.any_shape = {key for key, tensor in state.items() if id(tensor) in last} if any_classes else set()

    def match(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the tensors under the network's keys, from these keys or those of published checkpoints; else None."""
        for mapped in (dict(tensors), {self.network.map_published_key(key): tensor for key, tensor in tensors.items()}):
            if len(mapped) != len(tensors) or mapped.keys() - self.shapes.keys() or self.required - mapped.keys():
                continue
            if all(tuple(t.shape) == self.shapes[key] or key in self.any_shape for key, t in mapped.items()):
                return mapped
        return None


def _match_one(target: _Target, item: StateDict) -> MatchedWeights | None:
    counters = [key for key in item.tensors if _COUNTERS.search(key)]
    weights = {key: tensor for key, tensor in item.tensors.items() if key not in counters}
    for tensors in _without_infixes(weights):
        matches = [
            (prefix, matched)
            for prefix in _prefixes(tensors, len(target.required))
            if (matched := target.match(_below_prefix(tensors, prefix))) is not None
        ]
        if not matches:
            continue
        prefix, matched = _select_prefix(matches)
        notes = []
        if counters:
            notes.append(f"omitted counters, which are not weights: {_preview(counters)}")
        if outside := [key for key in tensors if not key.startswith(prefix)]:
            notes.append(f"used the keys under {prefix!r} and omitted {len(outside)} other keys: {_preview(outside)}")
        return MatchedWeights(matched, tuple(notes))
    return None


def _without_infixes(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors with their keys unchanged, then without the parts that wrappers insert into keys."""
    yield tensors
    for parts in (_INFIXES, (*_INFIXES, "module")):
        shorter = {".".join(p for p in key.split(".") if p not in parts): tensor for key, tensor in tensors.items()}
        if len(shorter) == len(tensors) and shorter.keys() != tensors.keys():
            yield shorter


def _prefixes(tensors: Mapping[str, Tensor], required: int) -> list[str]:
    """Return prefixes, up to a dot, that at least ``required`` keys share; "" first, then by length."""
    counts: dict[str, int] = {"": len(tensors)}
    for key in tensors:
        parts = key.split(".")
        for end in range(1, min(len(parts), 12)):
            prefix = ".".join(parts[:end]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted((prefix for prefix, count in counts.items() if count >= required), key=len)


def _select_prefix(matches: Sequence[tuple[str, dict[str, Tensor]]]) -> tuple[str, dict[str, Tensor]]:
    """Return the match of the student, or of the moving average, if several prefixes match.

    Raises:
        WeightsError: the prefixes do not decide.
    """
    if len(matches) == 1:
        return matches[0]
    for word in ("student", "ema"):
        named = [match for match in matches if word in re.split(r"[_.]", match[0].lower())]
        if len(named) == 1:
            return named[0]
    prefixes = ", ".join(repr(prefix) for prefix, _ in matches[:_MAX_NAMED])
    raise WeightsError(
        f"the file contains the network's keys several times, under {prefixes}; "
        "`python -m core convert --drop 'PREFIX*'` omits some"
    )


def _walk(content: Any, location: tuple[str, ...]) -> Iterator[StateDict]:
    """Yield the state dicts at any level of a checkpoint."""
    if len(location) > _MAX_DEPTH:
        return
    if isinstance(content, list | tuple):
        for number, value in enumerate(content[:_MAX_NAMED]):
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


def _below_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _same_memory(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts share their memory, as if one object is stored under two names."""
    return all(tensor.data_ptr() == other[key].data_ptr() for key, tensor in one.items() if key in other)


def _preview(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_MAX_NAMED]) + (f" and {len(keys) - _MAX_NAMED} more" if len(keys) > _MAX_NAMED else "")


def _describe(content: Any) -> str:
    """Return a short description of an object without weights."""
    if isinstance(content, Inert) and not content:
        kind = type(content)
        return f"an object of {kind.__module__}.{kind.__name__}"
    return (", ".join(map(str, content))[:200] or "nothing") if isinstance(content, Mapping) else type(content).__name__
