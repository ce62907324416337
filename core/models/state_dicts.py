"""The state dict inside a checkpoint: where it lies, and which of its keys are the network's.

Training scripts put the weights under a name of their own, beside counters and optimisers, and wrappers put prefixes
in front of every key. Where the network is known, nothing of this needs to be guessed: a state dict and a prefix are
right if what is left has every key of the network in its shape, and no other key.
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
"""Names under which public training scripts keep the weights, the more usual ones first."""

_DEPTH = 4
_MOST_DICTS = 10_000
_NAMED = 6
_INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
_COUNTERS = re.compile(r"(^|\.)(total_ops|total_params|n_averaged)$")
"""Of thop (operations and parameters of each module) and of torch's ``AveragedModel``: no weights."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, with the place in the checkpoint where they lie ("" is its top)."""

    location: str
    tensors: dict[str, Tensor]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.location.split(".")) if self.location else ()

    @property
    def is_moving_average(self) -> bool:
        """Whether it is called an exponential moving average of the weights."""
        return any("ema" in re.split(r"[_\W]", part.lower()) for part in self.parts)

    @property
    def has_usual_name(self) -> bool:
        return self.is_moving_average or not self.parts or any(part in CONTAINERS for part in self.parts)

    def rank(self) -> tuple[int, int, int]:
        """Smaller is looked at first: an average before the raw weights (timm's rule), usual names before others."""
        known = [CONTAINERS.index(part) for part in self.parts if part in CONTAINERS]
        if self.is_moving_average:
            return 0, len(self.parts), 0
        if known and all(part in CONTAINERS or part.isdecimal() for part in self.parts):
            return 1, min(known), len(self.parts)
        return (2 if not self.parts else 3), len(self.parts), 0


@dataclass(frozen=True)
class MatchedWeights:
    """Weights that fit a network.

    Attributes:
        tensors: under the network's own keys.
        notes: what was chosen or left out, a sentence each.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def find_state_dicts(content: Any, container: str = "", drop: Sequence[str] = ()) -> list[StateDict]:
    """Every state dict in a checkpoint, the likeliest first.

    Args:
        container: the place of the only one that is wanted, as ``model_ema`` or ``checkpoint.model``; "" for all.
        drop: patterns of keys that are left out, as ``fnmatch`` knows them.

    Raises WeightsError where there is none, none at ``container``, or no key that matches a pattern.
    """
    found = sorted(_walk(content, ()), key=StateDict.rank)
    if not found:
        raise WeightsError(
            f"no weights found: a state dict, or one under {', '.join(CONTAINERS[:6])} …; found {_held(content)}"
        )
    if container:
        inside = [item for item in found if item.location == container or item.location.startswith(f"{container}.")]
        if not inside:
            places = ", ".join(item.location or "(top)" for item in found[:_NAMED])
            raise WeightsError(f"there are no weights under {container!r}; there are some under: {places}")
        found = inside
    for pattern in drop:
        if not any(fnmatch.fnmatchcase(key, pattern) for item in found for key in item.tensors):
            raise WeightsError(f"no key matches {pattern!r}, which is to be left out")
    return [
        replace(
            item,
            tensors={
                key: tensor
                for key, tensor in item.tensors.items()
                if not any(fnmatch.fnmatchcase(key, pattern) for pattern in drop)
            },
        )
        for item in found
    ]


def match_state_dict(
    network: Network, found: Sequence[StateDict], *, any_classes: bool = False
) -> MatchedWeights | None:
    """The first of the state dicts that fits the network, under its keys; None where none does.

    Args:
        any_classes: a last layer of another class count fits too, and is left as the network has it.

    Raises WeightsError where several fit and nothing tells which is meant.
    """
    target = _Target(network, any_classes)
    fitting: list[tuple[StateDict, MatchedWeights]] = []
    for item in found:
        one = _fit_one(target, item)
        if one and not any(_same(one.tensors, other.tensors) for _, other in fitting):
            fitting.append((item, one))
    if not fitting:
        return None
    item, chosen = fitting[0]
    if not item.has_usual_name and len(fitting) > 1:
        places = ", ".join(other.location for other, _ in fitting[:_NAMED])
        raise WeightsError(
            f"several state dicts fit this network: {places}; `python -m core convert --container NAME` takes one"
        )
    notes = list(chosen.notes)
    others = [other.location or "the top of the file" for other, _ in fitting[1:]]
    if others:
        kind = "the moving average of the weights, as timm does, " if item.is_moving_average else ""
        notes.insert(0, f"took {kind}from {item.location!r}; {', '.join(others[:_NAMED])} would fit too (--container)")
    elif item.location:
        notes.insert(0, f"took the weights under {item.location!r}")
    return replace(chosen, notes=tuple(notes))


def strip_prefixes(item: StateDict) -> dict[str, Tensor]:
    """The tensors without the usual prefixes, for what can be said of weights that fit no network.

    Of a whole distiller (``student.``, ``teacher.``) the student is taken.
    """
    tensors = {key: tensor for key, tensor in item.tensors.items() if not _COUNTERS.search(key)}
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in tensors):
                tensors, stripped = _inside(tensors, prefix), True
        if any(key.startswith("student.") for key in tensors):
            tensors, stripped = _inside(tensors, "student."), True
    return tensors


class _Target:
    """What a network needs: its keys with their shapes, and which of them may be of another class count."""

    def __init__(self, network: Network, any_classes: bool) -> None:
        self.network = network
        own = network.state_dict(keep_vars=True)
        self.shapes = {key: tuple(tensor.shape) for key, tensor in own.items()}
        # Checkpoints from before PyTorch 0.4.1 have no such counters, and nothing here reads them.
        self.needed = {key for key in own if not key.endswith("num_batches_tracked")}
        last = {id(parameter) for parameter in network.linear.parameters()}
        self.free = {key for key, tensor in own.items() if id(tensor) in last} if any_classes else set()

    def match(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors under the network's keys, given under these or under those of published checkpoints."""
        for mapped in (dict(tensors), {self.network.map_published_key(key): tensor for key, tensor in tensors.items()}):
            if len(mapped) != len(tensors) or mapped.keys() - self.shapes.keys() or self.needed - mapped.keys():
                continue
            if all(tuple(t.shape) == self.shapes[key] or key in self.free for key, t in mapped.items()):
                return mapped
        return None


def _fit_one(target: _Target, item: StateDict) -> MatchedWeights | None:
    counters = [key for key in item.tensors if _COUNTERS.search(key)]
    weights = {key: tensor for key, tensor in item.tensors.items() if key not in counters}
    for tensors in _spellings(weights):
        matches = [
            (prefix, matched)
            for prefix in _prefixes(tensors, len(target.needed))
            if (matched := target.match(_inside(tensors, prefix))) is not None
        ]
        if not matches:
            continue
        prefix, matched = _chosen(matches)
        notes = []
        if counters:
            notes.append(f"left out counters that are no weights: {_some(counters)}")
        if outside := [key for key in tensors if not key.startswith(prefix)]:
            notes.append(f"took what is under {prefix!r} and left out {len(outside)} other keys: {_some(outside)}")
        return MatchedWeights(matched, tuple(notes))
    return None


def _spellings(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The keys as they are, then without what wrappers put in their middle."""
    yield tensors
    for parts in (_INFIXES, (*_INFIXES, "module")):
        shorter = {".".join(p for p in key.split(".") if p not in parts): tensor for key, tensor in tensors.items()}
        if len(shorter) == len(tensors) and shorter.keys() != tensors.keys():
            yield shorter


def _prefixes(tensors: Mapping[str, Tensor], needed: int) -> list[str]:
    """Beginnings of keys, up to a dot, that enough keys share; "" first, then by length."""
    counts: dict[str, int] = {"": len(tensors)}
    for key in tensors:
        parts = key.split(".")
        for end in range(1, min(len(parts), 12)):
            prefix = ".".join(parts[:end]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted((prefix for prefix, count in counts.items() if count >= needed), key=len)


def _chosen(matches: Sequence[tuple[str, dict[str, Tensor]]]) -> tuple[str, dict[str, Tensor]]:
    """Of several prefixes that fit: a student's (of a whole distiller), or the average's beside the raw weights.

    Raises WeightsError where neither tells which is meant.
    """
    if len(matches) == 1:
        return matches[0]
    for word in ("student", "ema"):
        named = [match for match in matches if word in re.split(r"[_.]", match[0].lower())]
        if len(named) == 1:
            return named[0]
    prefixes = ", ".join(repr(prefix) for prefix, _ in matches[:_NAMED])
    raise WeightsError(
        f"the network's keys are there several times, under {prefixes}; "
        "`python -m core convert --drop 'PREFIX*'` leaves some out"
    )


def _walk(content: Any, place: tuple[str, ...]) -> Iterator[StateDict]:
    if len(place) > _DEPTH:
        return
    if isinstance(content, list | tuple):
        for number, value in enumerate(content[:_NAMED]):
            yield from _walk(value, (*place, str(number)))
        return
    if not isinstance(content, Mapping):
        return
    if isinstance(content, Inert) and isinstance(content.state, Mapping):
        if "_modules" in content.state and "_parameters" in content.state:  # a whole network, pickled
            if tensors := _of_module(content.state, 0):
                yield StateDict(".".join(place), tensors)
            return
        content = {**content.state, **content}
    if len(content) > _MOST_DICTS and not any(as_tensor(value) is not None for value in content.values()):
        return
    found = {str(key): tensor for key, value in content.items() if (tensor := as_tensor(value)) is not None}
    if found:
        yield StateDict(".".join(place), found)
    for key, value in content.items():
        if isinstance(value, Mapping | list | tuple) and key not in ("optimizer", "optimizers", "param_groups"):
            yield from _walk(value, (*place, str(key)))


def _of_module(state: Mapping[Any, Any], depth: int) -> dict[str, Tensor]:
    """The state dict of a network that was pickled whole, from the attributes in which torch keeps it."""
    if depth > 50:
        raise WeightsError("modules are nested too deeply")
    own = {**(state.get("_parameters") or {}), **(state.get("_buffers") or {})}
    passing = state.get("_non_persistent_buffers_set") or set()
    found = {
        str(name): tensor
        for name, value in own.items()
        if name not in passing and (tensor := as_tensor(value)) is not None
    }
    for name, module in (state.get("_modules") or {}).items():
        if isinstance(module, Inert) and isinstance(module.state, Mapping):
            inner = _of_module(module.state, depth + 1)
            found |= {f"{name}.{key}": tensor for key, tensor in inner.items()}
    return found


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are the same memory, as where one object is kept under two names."""
    return all(tensor.data_ptr() == other[key].data_ptr() for key, tensor in one.items() if key in other)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")


def _held(content: Any) -> str:
    if isinstance(content, Inert) and not content:
        kind = type(content)
        return f"an object of {kind.__module__}.{kind.__name__}"
    return (", ".join(map(str, content))[:200] or "nothing") if isinstance(content, Mapping) else type(content).__name__
