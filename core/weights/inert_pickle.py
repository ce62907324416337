"""Pickles read as data: tensors, numbers and containers are restored, every other object becomes a placeholder.

A pickle is a program that may call any function it names. The unpickler in this module provides a short list of
functions that only build tensors, arrays and sets. Everything else that a file names becomes an ``Inert`` placeholder,
which keeps the stored state of the object and does nothing. No module named by the file is imported.
"""

from __future__ import annotations

import builtins
import collections
import io
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.weights.errors import WeightsError

_MAX_NESTED = 2  # levels of storages pickled inside a pickle, see ``_storage_from_bytes``

# Modules whose functions no checkpoint needs: a file that names one would run code, so it is refused.
_REFUSED = frozenset((
    "builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "ctypes", "pty", "socket",
    "code", "codecs", "io", "_io", "inspect", "webbrowser", "timeit", "pdb",
    "bdb", "marshal",
))  # fmt: skip
# Types of Python 2, constants, and functions that files name for a setting or an iterator. They become placeholders
# like any other name; none of them is called.
_HARMLESS_BUILTINS = frozenset((
    "long", "unicode", "xrange", "basestring", "Ellipsis", "NotImplemented", "iter", "reversed", "len",
    "abs", "all", "any", "divmod", "hash", "id", "max", "min", "pow", "print", "repr", "round", "sorted", "sum",
))  # fmt: skip


class Inert(dict[Any, Any]):
    """Placeholder of an object of an unknown class. Items and attributes are kept as data.

    Attributes:
        state: the stored state of the object, such as the attributes of an ``argparse.Namespace``.
        args: the arguments of its constructor.
        items_added: the items that the pickle appends or adds to it.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        placeholder = super().__new__(cls)
        placeholder.state, placeholder.args, placeholder.items_added = None, args, []
        return placeholder

    state: Any
    args: tuple[Any, ...]
    items_added: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert(*args)

    def append(self, item: Any) -> None:
        self.items_added.append(item)

    def extend(self, items: Any) -> None:
        self.items_added.extend(items)

    def add(self, item: Any) -> None:
        self.items_added.append(item)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class _AllowedFunction:
    """A function that a pickle may call. It has no attributes, so that a pickle cannot change the function."""

    __slots__ = ("_function",)

    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """Return a tensor of a subclass, or one with additional attributes, as a plain tensor."""
    if not isinstance(function, _AllowedFunction):
        raise pickle.UnpicklingError("it rebuilds a tensor with an unknown function")
    return function(*args)


def _parameter_with_state(data: Any, requires_grad: Any, hooks: Any, state: Any) -> Any:
    return data


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return bytes from the text by which Python 3 represents them in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes a text with {encoding!r}")
    return text.encode("latin1")


def _array(kind: Any, shape: Any, code: Any) -> Any:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("it creates an array of another type")
    return np._core.multiarray._reconstruct(np.ndarray, (0,), b"b")  # type: ignore[attr-defined]


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> Any:
    array = np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order if order in ("C", "F") else "C")
    return array if axis_order is None else array.transpose(axis_order)


def _scalar(dtype: Any, content: Any = None) -> Any:
    """Return a NumPy scalar as a Python number."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.kind not in "biufc":
        return Inert(dtype)
    data = content.encode("latin1") if isinstance(content, str) else content  # written by Python 2
    return np.frombuffer(data, dtype=dtype, count=1)[0].item()


def _set(items: Any = ()) -> Any:
    return set(items) if isinstance(items, list | tuple | set) else Inert(items)


def _bytearray(content: Any = b"", encoding: str = "latin1") -> bytearray:
    if isinstance(content, str):
        content = _encode(content, encoding)
    return bytearray(content) if isinstance(content, bytes | bytearray) else bytearray()


def _mapping(*_: Any) -> dict[Any, Any]:
    """Return a dict in place of a ``defaultdict``; the pickle sets its items afterwards."""
    return {}


# Marks a storage of bytes. It is not the class itself, whose attributes a pickle could set.
_BYTE_STORAGE = SimpleNamespace(dtype=torch.uint8)
_UTILS = torch._utils
_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _UTILS._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _UTILS._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _UTILS._rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter_with_state,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): lambda *_: torch.device("cpu"),
    ("collections", "defaultdict"): _mapping,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _set,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "complex"): lambda *_: Inert(),
}
for _module in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_module}.multiarray", "_reconstruct"] = _array
    _FUNCTIONS[f"{_module}.multiarray", "scalar"] = _scalar
    _FUNCTIONS[f"{_module}.numeric", "_frombuffer"] = _frombuffer


class InertUnpickler(pickle.Unpickler):
    """Unpickler for any protocol that raises UnpicklingError if the file names a function that would run code."""

    nested = 0

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _AllowedFunction(lambda data: _storage_from_bytes(data, self.nested + 1))
        if function := _FUNCTIONS.get((module, name)):
            return _AllowedFunction(function)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _BYTE_STORAGE
        root = module.partition(".")[0]
        if {module, root} & _REFUSED and not (module == "builtins" and _is_harmless(name)):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return type(name.rpartition(".")[2] or "Inert", (Inert,), {"__module__": module})


def _is_harmless(name: str) -> bool:
    """Return whether a built-in name is a type, a constant or a harmless function, and not one such as ``eval``."""
    return name in _HARMLESS_BUILTINS or isinstance(getattr(builtins, name, None), type)


def _storage_from_bytes(data: Any, depth: int) -> Any:
    """Load a storage from a plain pickle of a tensor, in which it is a nested file of ``torch.save``."""
    if depth > _MAX_NESTED or not isinstance(data, bytes):
        raise pickle.UnpicklingError("storages are nested too deeply")
    return load_torch(io.BytesIO(data), depth)


def load_torch(file: Any, nested: int = 0) -> Any:
    """Load a file of ``torch.save``, in the current or the older format (before 1.6), on the CPU.

    Args:
        file: a path or a binary file.
        nested: level of nesting of the file in other pickles.

    Raises:
        Exception: of any type, if the file is damaged.
    """
    unpickler = type("Unpickler", (InertUnpickler,), {"nested": nested})
    module = SimpleNamespace(
        __name__=__name__,
        Unpickler=unpickler,
        load=lambda stream, **options: unpickler(stream, **options).load(),
    )
    # Strings of Python 2 are bytes, which latin1 decodes and encodes without loss.
    return torch.load(file, map_location="cpu", pickle_module=module, weights_only=False, encoding="latin1")


def load_pickle(file: Any) -> Any:
    """Load a file of ``pickle.dump``.

    Raises:
        Exception: of any type, if the file is damaged.
    """
    return InertUnpickler(file, encoding="latin1").load()


def as_tensor(value: Any) -> Tensor | None:
    """Return a dense tensor of numbers from a tensor or a NumPy array; None for other values.

    Raises:
        WeightsError: the tensor is quantised, so that its integers are not weights.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, Tensor):
        return None
    if value.is_quantized:
        raise WeightsError("it contains quantised tensors; save the weights of the network before its quantisation")
    return value.detach() if value.layout is torch.strided and not value.is_meta else None
