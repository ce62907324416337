"""Matching of the keys of a state dict with those of a network.

Wrappers put prefixes in front of every key, and training scripts add other tensors. If the network is known, no guess
is needed: a state dict and a prefix are right if the remaining keys are exactly those of the network, with the same
shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from torch import Tensor, nn

from core.weights.errors import WeightsError
from core.weights.state_dicts import COUNTERS, MAX_NAMED, StateDict, below_prefix, strip_prefixes

KeyMap = Callable[[str], str]
"""Maps a key of a published checkpoint to the key of the network."""

_INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that wrappers insert into keys."""

_MAX_KEYS = 4  # named per kind of mismatch


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
    network: nn.Module, candidates: Sequence[StateDict], rename: KeyMap, any_shape: AbstractSet[str] = frozenset()
) -> MatchedWeights | None:
    """Return the first of the state dicts that matches the network; None if none does.

    Args:
        network: the network.
        candidates: state dicts, the most likely first.
        rename: maps keys of published checkpoints.
        any_shape: keys whose tensors may have another shape, such as those of a last layer for other classes.

    Raises:
        WeightsError: several match, and their names do not decide between them.
    """
    target = _Target(network, rename, any_shape)
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
    """The keys of a network with their shapes, and those of which any shape matches."""

    def __init__(self, network: nn.Module, rename: KeyMap, any_shape: AbstractSet[str]) -> None:
        state = network.state_dict()
        self.rename, self.any_shape = rename, any_shape
        self.shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        # Checkpoints from before PyTorch 0.4.1 have no such counters, and this program does not read them.
        self.required = {key for key in state if not key.endswith("num_batches_tracked")}

    def match(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the tensors under the network's keys, from these keys or those of published checkpoints; else None."""
        for mapped in (dict(tensors), {self.rename(key): tensor for key, tensor in tensors.items()}):
            if len(mapped) != len(tensors) or mapped.keys() - self.shapes.keys() or self.required - mapped.keys():
                continue
            if all(tuple(t.shape) == self.shapes[key] or key in self.any_shape for key, t in mapped.items()):
                return mapped
        return None


def _match_one(target: _Target, item: StateDict) -> MatchedWeights | None:
    counters = [key for key in item.tensors if COUNTERS.search(key)]
    weights = {key: tensor for key, tensor in item.tensors.items() if key not in counters}
    for tensors in _without_infixes(weights):
        matches: list[tuple[str, dict[str, Tensor]]] = []
        for prefix in _prefixes(tensors, len(target.required)):
            matched = target.match(below_prefix(tensors, prefix))
            # A prefix that renaming puts back gives the same weights once more.
            if matched is not None and not any(_same_memory(matched, other) for _, other in matches):
                matches.append((prefix, matched))
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


def mismatch_error(
    network: nn.Module, candidates: Sequence[StateDict], rename: KeyMap, any_shape: AbstractSet[str] = frozenset()
) -> WeightsError:
    """Return the error that names the keys of the most likely state dict that do not match.

    Args:
        network: the network.
        candidates: see ``match_state_dict``, as the following.
        rename: maps keys of published checkpoints.
        any_shape: keys whose tensors may have another shape.
    """
    state = network.state_dict()
    tensors = strip_prefixes(candidates[0])
    if len(state.keys() & tensors.keys()) < len(state.keys() & {rename(key) for key in tensors}):
        tensors = {rename(key): tensor for key, tensor in tensors.items()}
    shapes = {key: (tuple(tensors[key].shape), tuple(state[key].shape)) for key in state if key in tensors}
    differing = {key for key, (theirs, ours) in shapes.items() if theirs != ours and key not in any_shape}
    missing = [key for key in state if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in state]
    problems = [
        _list_keys("missing", missing),
        _list_keys("not in this network", unknown),
        _list_keys("of another shape", [f"{k} {shapes[k][0]}, not {shapes[k][1]}" for k in shapes if k in differing]),
    ]
    text = f"the weights do not match the network: {'; '.join(filter(None, problems))}"
    if not missing and not differing and unknown:
        text += ". `python -m core convert --drop KEY` omits keys that are not weights"
    if len(candidates) > 1:
        places = ", ".join(repr(item.location) for item in candidates[:_MAX_KEYS])
        text += f". This refers to {candidates[0].location!r}; there are weights under {places} (--container)"
    return WeightsError(text)


def check_usable(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Check that weights can be used; a training would report them as a bad learning rate.

    Args:
        state: the network's own weights.
        tensors: the weights that replace some or all of them.

    Raises:
        WeightsError: The weights are NaN, infinite, integers or constant.
    """
    floating = {key: tensor for key, tensor in tensors.items() if state[key].is_floating_point()}
    if integers := [f"{key} ({t.dtype})" for key, t in floating.items() if not t.is_floating_point()]:
        raise WeightsError(f"the weights are quantised or not weights: {_list_keys('not floating-point', integers)}")
    # Eight-bit floats have no arithmetic.
    wide = {key: tensor.float() if tensor.element_size() == 1 else tensor for key, tensor in floating.items()}
    if broken := _list_keys("not finite", [key for key, tensor in wide.items() if not tensor.isfinite().all()]):
        raise WeightsError(f"the weights are damaged: {broken}")
    layers = [tensor for tensor in wide.values() if tensor.dim() > 1 and tensor.numel() > 1]
    if layers and all(bool((tensor == tensor.flatten()[0]).all()) for tensor in layers):
        value = "zero" if all(not bool(tensor.any()) for tensor in layers) else "constant"
        raise WeightsError(f"the weights are damaged: every layer is {value}")


def _list_keys(title: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _MAX_KEYS} more" if len(keys) > _MAX_KEYS else ""
    return f"{title}: {', '.join(keys[:_MAX_KEYS])}{more}"
