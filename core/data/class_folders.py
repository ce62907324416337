"""Class folders of one name in several spellings: which are the same class, and which only look so."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from core.data.errors import DatasetError
from core.undecodable import visible

_SHOWN = 5
# Seen as nothing, and not in the category of the format characters: fillers and the blank Braille pattern.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")


def fold_name(name: str) -> str:
    """What names of the same class have in common: NFC, and a space or a hyphen stands for an underscore."""
    return unicodedata.normalize("NFC", visible(name)).replace(" ", "_").replace("-", "_")


def index_by_folded_name(names: Iterable[str], where: object) -> dict[str, str]:
    """Names by what they fold to. Raises DatasetError if two fold to the same, which nobody could tell apart."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(fold_name(name), name)
        if other != name:
            how = "a space, a hyphen or an underscore"
            if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name):
                how = "how their accents are encoded (Unicode NFC and NFD)"
            raise DatasetError(
                f"{visible(str(where))}: two class folders differ only by {how}: {escape_non_ascii(other)} and "
                f"{escape_non_ascii(name)}; merge them or rename one"
            )
    return found


def find_look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, in width or in characters that are not seen."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_look(name)].append(name)
    return [(group[0], other) for group in groups.values() for other in group[1:]]


def check_class_folders(found: Mapping[str, str], wanted: Mapping[str, str], where: object) -> None:
    """Raises DatasetError unless the folders found are the classes wanted.

    Args:
        found, wanted: names by what they fold to.
    """
    strange = [name for key, name in found.items() if key not in wanted]
    absent = [name for key, name in wanted.items() if key not in found]
    looks = {_look(name): name for name in absent}
    alike = [(name, looks[_look(name)]) for name in strange if _look(name) in looks]
    hint = "".join(
        f"; {escape_non_ascii(name)} differs from {escape_non_ascii(other)} only in case or in "
        "characters that are not seen"
        for name, other in alike[:_SHOWN]
    )
    if strange:
        raise DatasetError(f"{visible(str(where))} has class folders that are no class: {preview(strange)}{hint}")
    if absent:
        raise DatasetError(f"{visible(str(where))} lacks folders of {len(absent)} classes: {preview(absent)}")


def preview(names: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(map(visible, names[:_SHOWN])) + (" …" if len(names) > _SHOWN else "")


def escape_non_ascii(name: str) -> str:
    """A name in which everything that is not plain ASCII is spelled out, so that two of one look differ."""
    return f"'{visible(name)}' ({ascii(visible(name))[1:-1]})" if not name.isascii() else repr(name)


def _look(name: str) -> str:
    text = unicodedata.normalize("NFKC", visible(name)).casefold()
    kept = (
        character
        for character in text
        if character not in _BLANK and not character.isspace() and unicodedata.category(character) not in ("Cf", "Cc")
    )
    return fold_name("".join(kept))
