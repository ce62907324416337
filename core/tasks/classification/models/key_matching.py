"""Matching of the keys of a state dict with those of a network.

Wrappers put prefixes in front of every key, and training scripts add other tensors. If the network is known, no guess
is needed: a state dict and a prefix are right if the remaining keys are exactly those of the network, with the same
shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from core.tasks.classification.models.network import Network
from core.weights.errors import WeightsError
from core.weights.state_dicts import COUNTERS, MAX_NAMED, StateDict, below_prefix

_INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that wrappers insert into keys."""


@dataclass(frozen=True)
class MatchedWeights:
    """Weights that match a network.

    Attributes:
        tensors: the weights under the keys of the network.
        notes: choices and omissions, one sentence each.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


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
        places = ", ".join(other.location for other, _ in matches[:MAX_NAMED])
        raise WeightsError(
            f"several state dicts match this network: {places}; `python -m core convert --container NAME` selects one"
        )
    notes = list(chosen.notes)
    others = [other.location or "the top of the file" for other, _ in matches[1:]]
    if others:
        kind = "the moving average of the weights, as timm does, " if item.is_moving_average else ""
        notes.insert(
            0, f"used {kind}from {item.location!r}; {', '.join(others[:MAX_NAMED])} would match too (--container)"
        )
    elif item.location:
        notes.insert(0, f"used the weights under {item.location!r}")
    return replace(chosen, notes=tuple(notes))


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
    counters = [key for key in item.tensors if COUNTERS.search(key)]
    weights = {key: tensor for key, tensor in item.tensors.items() if key not in counters}
    for tensors in _without_infixes(weights):
        matches = [
            (prefix, matched)
            for prefix in _prefixes(tensors, len(target.required))
            if (matched := target.match(below_prefix(tensors, prefix))) is not None
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
    prefixes = ", ".join(repr(prefix) for prefix, _ in matches[:MAX_NAMED])
    raise WeightsError(
        f"the file contains the network's keys several times, under {prefixes}; "
        "`python -m core convert --drop 'PREFIX*'` omits some"
    )


def _same_memory(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts share their memory, as if one object is stored under two names."""
    return all(tensor.data_ptr() == other[key].data_ptr() for key, tensor in one.items() if key in other)


def _preview(keys: Sequence[str]) -> str:
    return ", ".join(keys[:MAX_NAMED]) + (f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else "")
