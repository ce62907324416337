"""Metadata of weight files: the classes of the logits, the expected input, the accuracy and the form of the head.

It is stored in the metadata of a safetensors file under keys that begin with ``dkd_``. Weights from other sources have
none of it.
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

from core.undecodable import openable
from core.weights.errors import WeightsError
from core.weights.inert_pickle import Inert

Interpolation = Literal["bilinear", "bicubic", "nearest"]

_CLASSES, _CONTENT, _DATASET, _INPUT, _TOP1, _TAKEN_FOR, _NOTES, _HEAD = (
    f"dkd_{name}" for name in ("classes", "content", "dataset", "input", "top1", "taken_for", "notes", "head")
)
_MOST_CHANNELS = 1 << 20


@dataclass(frozen=True)
class InputFormat:
    """The images that a network expects.

    Attributes:
        mean: per channel, of images scaled to 0–1.
        std: standard deviation per channel, of images scaled to 0–1.
        image_size: side of the square images in pixels.
        interpolation: method by which images of another size are resized.
        known_from: "training" (a run of this program), "given" (in a spec or to ``convert``), "published" (by
            torchvision or timm), or "assumed" (taken from the data set, because it is unknown).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    interpolation: Interpolation = "bilinear"
    known_from: str = "training"

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if not self.mean or len(self.mean) != len(self.std) or not all(math.isfinite(n) for n in numbers):
            raise ValueError("mean and std need one finite number per channel")
        if min(self.std) <= 0 or self.image_size < 1:
            raise ValueError("std and image size must be above 0")

    def same_images(self, other: InputFormat) -> bool:
        """Return whether both give a network the same pixel values."""
        return (self.mean, self.std, self.image_size) == (other.mean, other.std, other.image_size)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"mean ({mean}), std ({std}), {self.image_size} px"


@dataclass(frozen=True)
class HeadForm:
    """What SimKD puts in place of a network's own head: a projector, global average pooling, the teacher's classifier.

    Attributes:
        channels: of the last stage's map, which the projector reads.
        hidden: channels between the projector's convolutions.
        features: channels of its output, the input of the classifier.
        size: (height, width) to which the map is averaged before the projector; None if it keeps its size.
    """

    channels: int
    hidden: int
    features: int
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        numbers = (self.channels, self.hidden, self.features, *(self.size or ()))
        if not all(0 < number <= _MOST_CHANNELS for number in numbers):
            raise ValueError(f"the numbers of channels and positions are from 1 to {_MOST_CHANNELS}")


@dataclass(frozen=True)
class Metadata:
    """Metadata of a weight file; a field is empty if the file does not contain it.

    Attributes:
        classes: class names of the logits, in order.
        content_hash: SHA-256 of the training and test images, see ``core.tasks.classification.data.packing.Pack``.
        dataset: name of the data set in the catalog.
        input: the expected images.
        top1: accuracy in %, measured on the test images of the training, or claimed by the file.
        assumed_classes: classes that a run assigned to the logits of weights without class names, without proof.
        notes: warnings of the run that wrote the file, for users of the weights.
        head: what the network has in place of its own head; None for its own.
    """

    classes: tuple[str, ...] = ()
    content_hash: str = ""
    dataset: str = ""
    input: InputFormat | None = None
    top1: float | None = None
    assumed_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    head: HeadForm | None = None

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Metadata:
        """Parse the metadata of a file.

        Raises:
            WeightsError: the metadata is invalid.
        """
        try:
            input_fields = json.loads(texts[_INPUT]) if _INPUT in texts else None
            top1 = float(texts[_TOP1]) if _TOP1 in texts else None
            return cls(
                classes=_parse_names(texts.get(_CLASSES)),
                content_hash=texts.get(_CONTENT, ""),
                dataset=texts.get(_DATASET, ""),
                input=_parse_input(input_fields) if input_fields else None,
                top1=top1 if top1 is None or math.isfinite(top1) else None,
                assumed_classes=_parse_names(texts.get(_TAKEN_FOR)),
                notes=_parse_names(texts.get(_NOTES)),
                head=_parse_head(json.loads(texts[_HEAD])) if _HEAD in texts else None,
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise WeightsError(f"the metadata of the file (dkd_…) is invalid: {error}") from error

    def texts(self) -> dict[str, str]:
        """Return the metadata as a safetensors file stores it."""
        lists = {_CLASSES: self.classes, _TAKEN_FOR: self.assumed_classes, _NOTES: self.notes}
        texts = {key: json.dumps(names) for key, names in lists.items() if names}
        texts |= {key: text for key, text in ((_CONTENT, self.content_hash), (_DATASET, self.dataset)) if text}
        if self.input:
            texts[_INPUT] = json.dumps(asdict(self.input))
        if self.top1 is not None:
            texts[_TOP1] = repr(self.top1)
        if self.head:
            texts[_HEAD] = json.dumps(asdict(self.head))
        return texts


def serialise(tensors: Mapping[str, Tensor], metadata: Metadata) -> bytes:
    """Return the bytes of a safetensors file; equal content gives equal bytes, unlike the library's own function."""
    data = safetensors.torch.save(dict(tensors))
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": metadata.texts(), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]))


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a safetensors file without its tensors; it is empty if the file cannot be read."""
    try:
        with openable(path) as name, safetensors.safe_open(name, framework="pt") as file:
            return Metadata.parse(file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return Metadata()


def _parse_names(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("a list of strings is expected")
    return tuple(names)


def interpolation(name: str | None) -> Interpolation:
    """Return a supported interpolation by name; bilinear for None.

    Raises:
        ValueError: the name is unknown.
    """
    supported: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest"}
    if name is not None and name not in supported:
        raise ValueError(f"unknown interpolation {name!r}")
    return supported[name or "bilinear"]


def _parse_input(fields: Any) -> InputFormat:
    mean, std = (tuple(float(number) for number in fields[name]) for name in ("mean", "std"))
    return InputFormat(
        mean,
        std,
        int(fields["image_size"]),
        interpolation(fields.get("interpolation")),
        str(fields.get("known_from", "given")),
    )


def _parse_head(fields: Any) -> HeadForm:
    channels, hidden, features = (int(fields[name]) for name in ("channels", "hidden", "features"))
    size = None
    if fields["size"] is not None:
        height, width = fields["size"]
        size = int(height), int(width)
    return HeadForm(channels, hidden, features, size)


def describe_class_differences(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Return how the classes of weights differ from those of a data set, with examples; "" if they are equal.

    As in the names of class folders, space, hyphen and underscore are equivalent, and so are the Unicode forms NFC and
    NFD.

    Args:
        theirs: class names of the weights.
        ours: class names of the data set.
    """
    one, other = ([_normalise(name) for name in names] for names in (theirs, ours))
    if one == other:
        return ""
    if not ours:
        return f"the weights have {len(theirs)} classes, {_preview(theirs)}; the classes of this data set have no names"
    parts = [f"{len(theirs)} classes, not {len(ours)}"] if len(theirs) != len(ours) else []
    if sorted(one) == sorted(other):
        parts.append("the same classes in another order")
    differing = [number for number, (name, our) in enumerate(zip(one, other, strict=False)) if name != our]
    parts += [
        f"class {number} is {theirs[number]!r} in the weights and {ours[number]!r} in the data set"
        for number in differing[:3]
    ]
    missing = [name for name, key in zip(theirs, one, strict=True) if key not in set(other)]
    new = [name for name, key in zip(ours, other, strict=True) if key not in set(one)]
    groups = (("in the weights", missing), ("in the data set", new))
    parts += [f"only {where}: {_preview(names)}" for where, names in groups if names]
    return "; ".join(parts)


def _normalise(name: str) -> str:
    return re.sub(r"[ -]", "_", unicodedata.normalize("NFC", name))


def _preview(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


# Keys under which training scripts store a top-1 accuracy in the checkpoint.
_ACCURACY_KEYS = re.compile(
    r"(best|test|val|valid|eval)?_?(acc|accuracy|acc1|acc_1|acc@1|top1|top_1|top1_acc|acc_top1|prec1|prec@1)(_best)?"
)
_TIMM_METRIC = "metric"
_NUMBER = r"\d{2,3}(?:\.\d+)?|\d?\.\d+"
_ACCURACY_IN_NAME = re.compile(
    r"(?<![a-z])(?:acc(?:uracy)?(?:[@_-]?1(?![\d.]))?|(?:top|prec)[@_-]?1(?![\d.]))(?:[_-]?acc)?[_=@:-]{0,2}"
    rf"(?P<a>{_NUMBER})(?!\d)|(?<![\d.])(?P<b>{_NUMBER})(?:%|pct|percent)",
    re.IGNORECASE,
)


def claimed_top1(content: Any, name: str) -> float | None:
    """Return the top-1 accuracy in % that a checkpoint or its file name claims; None if neither does.

    Numbers up to 1 are taken as fractions. Of several numbers in a checkpoint the best accuracy is returned.

    Args:
        content: the checkpoint.
        name: name or path of the file.
    """
    claims: dict[str, float] = {}
    if isinstance(content, Mapping):
        for key, value in content.items():
            number = _number(value)
            if number is None or not isinstance(key, str):
                continue
            if _ACCURACY_KEYS.fullmatch(key.lower()) and (0 < number <= 100):
                claims[key.lower()] = number if number > 1 else 100 * number
            elif key.lower() == _TIMM_METRIC and 1 < number <= 100:  # below, it may be a loss
                claims[_TIMM_METRIC] = number
    if claims:
        best = [number for key, number in claims.items() if "best" in key]
        return max(best or claims.values())
    texts = [match["a"] or match["b"] for match in _ACCURACY_IN_NAME.finditer(Path(name).name)]
    numbers = [float(text) if float(text) > 1 else 100 * float(text) for text in texts if 0 < float(text) <= 100]
    return max(numbers, default=None)


def _number(value: Any) -> float | None:
    """Return a finite number from a number, a tensor with one element, or the first item of a list; else None."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, list | tuple) and value and not isinstance(value, Inert):  # (top1, top5)
        value = value[0].item() if isinstance(value[0], Tensor) and value[0].numel() == 1 else value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
