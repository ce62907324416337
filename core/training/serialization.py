"""Nested state as safetensors can hold it: the tensors by name, and everything else as JSON that refers to them.

So a checkpoint is data and nothing else: unlike with pickle, reading one can run no code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def flatten(tree: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """JSON of a tree of dicts, lists, tuples, numbers, strings, None and tensors; its tensors are added to ``tensors``.

    Args:
        tensors: gets each tensor on the CPU, contiguous, sharing memory with no other of them.
        name: what the names of the tensors begin with.

    Raises TypeError for anything else in the tree.
    """
    if isinstance(tree, Tensor):
        while name in tensors:  # {"a": {"b.c": …}} and {"a.b": {"c": …}} would have one name
            name += "_"
        tensors[name] = _own(tree)
        return {"tensor": name}
    if isinstance(tree, dict):
        # As pairs: JSON would make strings of an optimiser's integer keys.
        return {"dict": [[_key(key), flatten(value, tensors, f"{name}.{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [flatten(value, tensors, f"{name}.{index}") for index, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{name} is of type {type(tree).__name__}, which a checkpoint cannot hold")


def unflatten(described: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree again. Raises KeyError, TypeError or ValueError where ``described`` is not what ``flatten`` makes."""
    if not isinstance(described, dict):
        return described
    ((kind, content),) = described.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(value, tensors) for key, value in content}
    values = [unflatten(value, tensors) for value in content]
    return values if kind == "list" else tuple(values)


def _key(key: Any) -> int | str:
    if isinstance(key, int | str):
        return key
    raise TypeError(f"a key is of type {type(key).__name__}, which a checkpoint cannot hold")


def _own(tensor: Tensor) -> Tensor:
    # A view or tied weights would share memory with another tensor, and networks may store theirs in other orders.
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
