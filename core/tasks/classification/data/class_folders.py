"""Comparison of class folder names: spellings of the same class, and different classes that look the same."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from core.tasks.classification.data.errors import DatasetError
from core.undecodable import visible

_SHOWN = 5
# Invisible characters outside the Unicode category of format characters: fillers and the blank Braille pattern.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")


def fold_name(name: str) -> str:
    """Return a class name in NFC with spaces and hyphens as underscores, equal for all spellings of one class."""
    return unicodedata.normalize("NFC", visible(name)).replace(" ", "_").replace("-", "_")


def index_by_folded_name(names: Iterable[str], where: object) -> dict[str, str]:
    """Return names by their folded form.

    Args:
        names: names of class folders.
        where: the folder that contains them, for the error.

    Raises:
        DatasetError: two names have the same folded form.
    """
    by_fold: dict[str, str] = {}
    for name in names:
        other = by_fold.setdefault(fold_name(name), name)
        if other != name:
            how = "a space, a hyphen or an underscore"
            if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name):
                how = "how their accents are encoded (Unicode NFC and NFD)"
            raise DatasetError(
                f"{visible(str(where))}: two class folders differ only by {how}: {escape_non_ascii(other)} and "
                f"{escape_non_ascii(name)}; merge them or rename one"
            )
    return by_fold


def find_look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that differ only in case, in width or in invisible characters."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_skeleton(name)].append(name)
    return [(group[0], other) for group in groups.values() for other in group[1:]]


def check_class_folders(folders: Mapping[str, str], expected: Mapping[str, str], where: object) -> None:
    """Check that the class folders are the expected classes.

    Args:
        folders: names of the folders by their folded form.
        expected: names of the classes by their folded form.
        where: the folder that contains them, for the error.

    Raises:
        DatasetError: a folder is not a class, or a class has no folder.
    """
    unexpected = [name for key, name in folders.items() if key not in expected]
    absent = [name for key, name in expected.items() if key not in folders]
    absent_skeletons = {_skeleton(name): name for name in absent}
    similar = [(name, absent_skeletons[_skeleton(name)]) for name in unexpected if _skeleton(name) in absent_skeletons]
    hint = "".join(
        f"; {escape_non_ascii(name)} differs from {escape_non_ascii(other)} only in case or in invisible characters"
        for name, other in similar[:_SHOWN]
    )
    if unexpected:
        raise DatasetError(
            f"{visible(str(where))} has class folders that are not classes of the data set: {preview(unexpected)}{hint}"
        )
    if absent:
        raise DatasetError(f"{visible(str(where))} has no folder for {len(absent)} classes: {preview(absent)}")


def preview(names: Sequence[str]) -> str:
    """Return the first five names, separated by commas, with "…" if there are more."""
    return ", ".join(map(visible, names[:_SHOWN])) + (" …" if len(names) > _SHOWN else "")


def escape_non_ascii(name: str) -> str:
    """Return a quoted name; if it is not ASCII, followed by its escaped form, so that look-alikes differ."""
    return f"'{visible(name)}' ({ascii(visible(name))[1:-1]})" if not name.isascii() else repr(name)


def _skeleton(name: str) -> str:
    """Return a name without case, width and invisible characters: equal for names that look the same."""
    text = unicodedata.normalize("NFKC", visible(name)).casefold()
    visible_characters = (
        character
        for character in text
        if character not in _INVISIBLE
        and not character.isspace()
        and unicodedata.category(character) not in ("Cf", "Cc")
    )
    return fold_name("".join(visible_characters))
