"""What a person should know of the images of a data set, found out as they are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core.data.decoding import ALPHA, DARK, FRAMES, UPRIGHT
from core.undecodable import visible

_SENTENCES = {
    FRAMES: ("have several frames, of which only the first is shown", True),
    ALPHA: ("are partly transparent; the colours beneath are shown, as torchvision's loaders do", True),
    DARK: (
        "use at most 12 of their 16 bits, of which the upper 8 are kept: they are almost black",
        True,
    ),
    UPRIGHT: ("are turned upright as their EXIF orientation says", False),
}


@dataclass(frozen=True)
class DecodingNotes:
    """How many images each note is about, with the path of one of them."""

    counts: tuple[tuple[str, int, str], ...] = ()

    @classmethod
    def of(cls, kinds: Iterable[str], path: str) -> DecodingNotes:
        """The notes of one image."""
        return cls(tuple((kind, 1, path) for kind in sorted(kinds)))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> DecodingNotes:
        return cls(tuple((str(kind), int(count), str(example)) for kind, (count, example) in content.items()))

    def as_json(self) -> dict[str, Any]:
        return {kind: [count, visible(example)] for kind, count, example in self.counts}

    def __add__(self, other: DecodingNotes) -> DecodingNotes:
        if not other.counts:
            return self
        found = {kind: (count, example) for kind, count, example in self.counts}
        for kind, count, example in other.counts:
            before, first = found.get(kind, (0, example))
            found[kind] = before + count, first
        return DecodingNotes(tuple((kind, *found[kind]) for kind in sorted(found)))

    def sentences(self) -> Iterator[tuple[str, bool]]:
        """A sentence for each, and whether it is a warning."""
        for kind, count, example in self.counts:
            if kind in _SENTENCES:
                text, warns = _SENTENCES[kind]
                yield f"{count} images {text} (as {visible(example)})", warns
