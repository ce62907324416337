"""Nested state as safetensors can hold it: the tensors by name, and the rest as JSON that refers to them.

A checkpoint is therefore pure data: unlike with pickle, reading one can run no code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def flatten(tree: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Turn a tree of dicts, lists, tuples, numbers, strings, None and tensors into JSON and named tensors.

    Args:
        tree: The state.
        tensors: Receives each tensor on the CPU, contiguous; no two of them share memory.
        name: The prefix of the names of the tensors.

    Returns:
        The tree as JSON that refers to the tensors by name.

    Raises:
        TypeError: The tree contains something else.
    """
    if isinstance(tree, Tensor):
        while name in tensors:  # {"a": {"b.c": …}} and {"a.b": {"c": …}} would have the same name
            name += "_"
        tensors[name] = _copy(tree)
        return {"tensor": name}
    if isinstance(tree, dict):
        # As pairs, because JSON would turn an optimiser's integer keys into strings.
        return {"dict": [[_key(key), flatten(value, tensors, f"{name}.{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [flatten(value, tensors, f"{name}.{index}") for index, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{name} is of type {type(tree).__name__}, which a checkpoint cannot hold")


def unflatten(description: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree that ``flatten`` was given.

    Args:
        description: What ``flatten`` returned.
        tensors: The tensors by name.

    Raises:
        KeyError: A tensor is missing.
        TypeError, ValueError: ``description`` is not a result of ``flatten``.
    """
    if not isinstance(description, dict):
        return description
    ((kind, content),) = description.items()
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


def _copy(tensor: Tensor) -> Tensor:
    # A view or tied weights would share memory with another tensor, and networks may store tensors in other orders.
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
