"""What a file of weights says of itself: the classes of its logits, the input that it expects, how good it was.

The facts are in the metadata of a safetensors file, under keys that begin with ``dkd_``. Weights from elsewhere have
none of them.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
from torch import Tensor

from core.models.inert_pickle import Inert
from core.models.network import WeightsError
from core.undecodable import openable

Interpolation = Literal["bilinear", "bicubic", "nearest"]

_CLASSES, _CONTENT, _DATASET, _INPUT, _TOP1, _TAKEN_FOR, _NOTES = (
    f"dkd_{name}" for name in ("classes", "content", "dataset", "input", "top1", "taken_for", "notes")
)


@dataclass(frozen=True)
class InputFormat:
    """The images that a network expects.

    Attributes:
        mean, std: per channel, of images scaled to 0–1.
        image_size: side of the square, pixels.
        interpolation: how images of another size are brought to it.
        known_from: "training" (ours), "given" (in a spec or to ``convert``), "published" (by torchvision or timm), or
            "assumed" (the data set's own, since nobody knows).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    interpolation: Interpolation = "bilinear"
    known_from: str = "training"

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if not self.mean or len(self.mean) != len(self.std) or not all(math.isfinite(n) for n in numbers):
            raise ValueError("mean and std need one finite number for each channel")
        if min(self.std) <= 0 or self.image_size < 1:
            raise ValueError("std and image size must be above 0")

    def same_images(self, other: InputFormat) -> bool:
        """Whether both show a network the same numbers."""
        return (self.mean, self.std, self.image_size) == (other.mean, other.std, other.image_size)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"mean ({mean}), std ({std}), {self.image_size} px"


@dataclass(frozen=True)
class Metadata:
    """What a file says of its weights; each field is empty where it says nothing.

    Attributes:
        classes: names of the logits, in their order.
        content_hash: SHA-256 of the images of training and test, see ``core.data.packing.Pack``.
        dataset: name of the data set in the catalog.
        input: the images it expects.
        top1: its accuracy on its own test images, or as the file claims it, %.
        taken_for: classes that a run took the logits of weights without names for. Nobody knows whether that is right.
        notes: warnings of the run that wrote the file, for those who use the weights.
    """

    classes: tuple[str, ...] = ()
    content_hash: str = ""
    dataset: str = ""
    input: InputFormat | None = None
    top1: float | None = None
    assumed_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Metadata:
        """From a file's metadata. Raises WeightsError where what it says makes no sense."""
        try:
            told = json.loads(texts[_INPUT]) if _INPUT in texts else None
            top1 = float(texts[_TOP1]) if _TOP1 in texts else None
            return cls(
                classes=_names(texts.get(_CLASSES)),
                content_hash=texts.get(_CONTENT, ""),
                dataset=texts.get(_DATASET, ""),
                input=_input(told) if told else None,
                top1=top1 if top1 is None or math.isfinite(top1) else None,
                assumed_classes=_names(texts.get(_TAKEN_FOR)),
                notes=_names(texts.get(_NOTES)),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WeightsError(f"what the file says of itself (dkd_…) cannot be read: {error}") from error

    def texts(self) -> dict[str, str]:
        """As a safetensors file keeps it."""
        lists = {_CLASSES: self.classes, _TAKEN_FOR: self.assumed_classes, _NOTES: self.notes}
        found = {key: json.dumps(names) for key, names in lists.items() if names}
        found |= {key: text for key, text in ((_CONTENT, self.content_hash), (_DATASET, self.dataset)) if text}
        if self.input:
            found[_INPUT] = json.dumps(asdict(self.input))
        if self.top1 is not None:
            found[_TOP1] = repr(self.top1)
        return found


def serialise(tensors: Mapping[str, Tensor], metadata: Metadata) -> bytes:
    """A safetensors file with its metadata: equal content, equal bytes, which the library's own order does not give."""
    data = safetensors.torch.save(dict(tensors))
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": metadata.texts(), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]))


def read_metadata(path: Path) -> Metadata:
    """Of a safetensors file, without reading its tensors; nothing where it cannot be read, which its reader says."""
    try:
        with openable(path) as name, safetensors.safe_open(name, framework="pt") as file:
            return Metadata.parse(file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return Metadata()


def _names(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("a list of texts is expected")
    return tuple(names)


def interpolation(name: str | None) -> Interpolation:
    """A known way to resize by its name; bilinear for None. Raises ValueError."""
    found: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest"}
    if name is not None and name not in found:
        raise ValueError(f"unknown interpolation {name!r}")
    return found[name or "bilinear"]


def _input(told: Any) -> InputFormat:
    mean, std = (tuple(float(number) for number in told[name]) for name in ("mean", "std"))
    return InputFormat(
        mean,
        std,
        int(told["image_size"]),
        interpolation(told.get("interpolation")),
        str(told.get("known_from", "given")),
    )


def describe_class_differences(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """How the classes of weights differ from a data set's, with the first that do; "" where they are the same.

    A space, a hyphen and an underscore are one, as in the names of class folders, and so are the two ways in which
    Unicode spells an accented letter.
    """
    one, other = ([_plain(name) for name in names] for names in (theirs, ours))
    if one == other:
        return ""
    if not ours:
        return f"the weights are of {len(theirs)} classes, {_some(theirs)}; this data set's classes have no names"
    parts = [f"{len(theirs)} classes, not {len(ours)}"] if len(theirs) != len(ours) else []
    if sorted(one) == sorted(other):
        parts.append("the same classes in another order")
    places = [number for number, (name, our) in enumerate(zip(one, other, strict=False)) if name != our]
    parts += [f"class {number} is {theirs[number]!r} there and {ours[number]!r} here" for number in places[:3]]
    missing = [name for name, key in zip(theirs, one, strict=True) if key not in set(other)]
    new = [name for name, key in zip(ours, other, strict=True) if key not in set(one)]
    changes = [f"{word} {_some(names)}" for word, names in (("without", missing), ("with", new)) if names]
    if changes:
        parts.append(f"these are {' and '.join(changes)}")
    return "; ".join(parts)


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", unicodedata.normalize("NFC", name))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


# Names under which training scripts keep a top-1 accuracy beside the weights.
_CLAIMS = re.compile(
    r"(best|test|val|valid|eval)?_?(acc|accuracy|acc1|acc_1|acc@1|top1|top_1|top1_acc|acc_top1|prec1|prec@1)(_best)?"
)
_TIMMS = "metric"
_NUMBER = r"\d{2,3}(?:\.\d+)?|\d?\.\d+"
_IN_NAME = re.compile(
    r"(?<![a-z])(?:acc(?:uracy)?(?:[@_-]?1(?![\d.]))?|(?:top|prec)[@_-]?1(?![\d.]))(?:[_-]?acc)?[_=@:-]{0,2}"
    rf"(?P<a>{_NUMBER})(?!\d)|(?<![\d.])(?P<b>{_NUMBER})(?:%|pct|percent)",
    re.IGNORECASE,
)


def claimed_top1(content: Any, name: str) -> float | None:
    """The top-1 accuracy, %, that a checkpoint or its file's name claims; None where neither does.

    Shares of 1 count as such. Of several numbers in a checkpoint the best accuracy is taken.
    """
    claims: dict[str, float] = {}
    if isinstance(content, Mapping):
        for key, value in content.items():
            number = _number(value)
            if number is None or not isinstance(key, str):
                continue
            if _CLAIMS.fullmatch(key.lower()) and (0 < number <= 100):
                claims[key.lower()] = number if number > 1 else 100 * number
            elif key.lower() == _TIMMS and 1 < number <= 100:  # below, it may be a loss
                claims[_TIMMS] = number
    if claims:
        best = [number for key, number in claims.items() if "best" in key]
        return max(best or claims.values())
    found = [match["a"] or match["b"] for match in _IN_NAME.finditer(Path(name).name)]
    numbers = [float(text) if float(text) > 1 else 100 * float(text) for text in found if 0 < float(text) <= 100]
    return max(numbers, default=None)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, list | tuple) and value and not isinstance(value, Inert):  # (top1, top5)
        value = value[0].item() if isinstance(value[0], Tensor) and value[0].numel() == 1 else value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
