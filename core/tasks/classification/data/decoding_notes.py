"""Notes about the images of a data set, collected while they are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core.tasks.classification.data.decoding import ALPHA, AS_STORED, DARK, FRAMES, UPRIGHT
from core.undecodable import visible

_SENTENCES = {
    FRAMES: ("have several frames, of which only the first is used", True),
    ALPHA: ("are partly transparent; the colours without the transparency are used, as by torchvision's loaders", True),
    DARK: (
        "use at most 12 of their 16 bits, of which only the upper 8 are used: they are almost black",
        True,
    ),
    UPRIGHT: ("are rotated upright according to their EXIF orientation", False),
    AS_STORED: ("have an EXIF orientation, which is not applied: their boxes are of the pixels as stored", False),
}


@dataclass(frozen=True)
class DecodingNotes:
    """For each note, the number of images and the path of one of them.

    Attributes:
        counts: (note, number of images, path of an example).
    """

    counts: tuple[tuple[str, int, str], ...] = ()

    @classmethod
    def of(cls, kinds: Iterable[str], path: str) -> DecodingNotes:
        """Return the notes of one image."""
        return cls(tuple((kind, 1, path) for kind in sorted(kinds)))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> DecodingNotes:
        return cls(tuple((str(kind), int(count), str(example)) for kind, (count, example) in content.items()))

    def as_json(self) -> dict[str, Any]:
        return {kind: [count, visible(example)] for kind, count, example in self.counts}

    def __add__(self, other: DecodingNotes) -> DecodingNotes:
        if not other.counts:
            return self
        totals = {kind: (count, example) for kind, count, example in self.counts}
        for kind, count, example in other.counts:
            previous, first_example = totals.get(kind, (0, example))
            totals[kind] = previous + count, first_example
        return DecodingNotes(tuple((kind, *totals[kind]) for kind in sorted(totals)))

    def sentences(self) -> Iterator[tuple[str, bool]]:
        """Yield a sentence for each note, and whether it is a warning."""
        for kind, count, example in self.counts:
            if kind in _SENTENCES:
                text, is_warning = _SENTENCES[kind]
                yield f"{count} images {text} (for example {visible(example)})", is_warning
