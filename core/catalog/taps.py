"""Taps: the inner layers of a network whose outputs a method reads beside the logits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.catalog.suggestions import suggest_name

FEATURES = "features"
"""The tap of the penultimate features, the input of the last linear layer."""
STEM = "stem"
STAGES = "stages"
"""All stages of a network from shallow to deep, without the stem."""
LAST_STAGE = "last_stage"
"""The deepest stage of a network."""
LAST_MAP = "last_map"
"""The maps that global average pooling reads: the output of the deepest stage, or of layers between it and pooling."""
PREACTIVATION = ":preact"
"""Suffix of a stage: its map before the activation that ends it; its output if no activation ends it."""
STRONG_LOGITS = "strong_logits"
"""The logits of a second, strongly augmented view of the same samples. It is made for methods that read them."""
REGIONS = "regions:"
"""Prefix of the logits (B, N, C) of regions, see ``regions_tap``."""

_OF_ANY_NETWORK = (STAGES, LAST_STAGE, LAST_MAP, STRONG_LOGITS)


@dataclass(frozen=True)
class Taps:
    """The layers that a method reads.

    A name without a dot is a stage of the catalog's network (``stem``, ``stage1`` …, ``features``); a name with a dot
    is the path of any module in the network, such as ``layers.stage2.0.conv1``. ``stages`` and ``last_stage`` name the
    stages of whatever network it is; ``expand`` resolves them when it is known. ``last_map`` is what global average
    pooling reads. The suffix ``:preact`` of a stage means its map before the activation that ends it.
    ``strong_logits`` is no layer, but the logits of another view of the samples, and ``regions_tap`` names the logits
    of parts of each image.

    Attributes:
        student: Names of the student's taps.
        teacher: Names of the teacher's taps.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.student or self.teacher)

    @property
    def strong_view(self) -> bool:
        """Whether the method reads a second view of the samples."""
        return STRONG_LOGITS in (*self.student, *self.teacher)


@dataclass(frozen=True)
class TapShape:
    """What the catalog knows of the output of a tap.

    Attributes:
        channels: Channels of maps, or the width of a vector.
        stride: Side of the images divided by that of the maps; 0 for a vector.
    """

    channels: int
    stride: int


TapShapes = Mapping[str, TapShape]
"""Shapes of taps by name, in order."""


def pair_stages(student: Iterable[str], teacher: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of stages from shallow to deep: the deepest with the deepest, and so on backwards.

    If one network has more stages, its surplus shallow ones are in no pair.

    Args:
        student: The student's taps from shallow to deep.
        teacher: The teacher's taps from shallow to deep.
    """
    backwards = zip(reversed(list(student)), reversed(list(teacher)), strict=False)
    return list(backwards)[::-1]


def tap_choices(*, several: bool) -> dict[str, Any]:
    """Return the choices that a form offers for a parameter that names taps, besides the taps of the network.

    Args:
        several: Whether the parameter names several taps, so that one name may stand for several.

    Returns:
        ``wildcards``: names that every network has. ``suffix``: may follow the taps except ``without_suffix``.
    """
    stages = ([STAGES] if several else []) + [LAST_STAGE]
    return {
        "wildcards": [*stages, LAST_MAP, *(f"{name}{PREACTIVATION}" for name in stages)],
        "suffix": PREACTIVATION,
        "without_suffix": [STEM, FEATURES],
    }


def joined(all_taps: Iterable[Taps]) -> Taps:
    """Return the taps of several methods, each name once."""
    found = list(all_taps)
    student = dict.fromkeys(name for taps in found for name in taps.student)
    teacher = dict.fromkeys(name for taps in found for name in taps.teacher)
    return Taps(tuple(student), tuple(teacher))


def expand(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of taps with ``stages`` and ``last_stage`` replaced by the stages that they mean, each once.

    ``features`` beside other layers is left out if the network has none, as a detector has none.

    Args:
        names: The names.
        known: The taps of the network in order.
    """
    stages = [name for name in known if name not in (STEM, FEATURES)]
    expanded: dict[str, None] = {}
    for name in names:
        stage, suffix = split_suffix(name)
        if is_left_out(name, names, known):
            continue
        meant = {STAGES: stages, LAST_STAGE: stages[-1:]}.get(stage, [stage]) if known else [stage]
        expanded |= dict.fromkeys(f"{part}{suffix}" for part in meant)
    return tuple(expanded)


def is_left_out(name: str, names: Sequence[str], known: Collection[str]) -> bool:
    """Return whether a tap is read only of networks that have it.

    Args:
        name: The tap.
        names: All taps that are read of the network.
        known: The taps of the network; empty if the catalog does not know them.
    """
    return name == FEATURES and bool(known) and name not in known and len(names) > 1


def regions_tap(grids: Sequence[int]) -> str:
    """Return the tap of the logits (B, N, C) of regions: of each cell of a grid over the last map, grid by grid.

    They are what the last linear layer gives for the mean of the last map over a cell; a grid of 1 has one cell.

    Args:
        grids: The number of cells along a side of each grid.
    """
    return REGIONS + "-".join(map(str, grids))


def region_grids(name: str) -> tuple[int, ...]:
    """Return the grids of a tap of regions; none for any other tap."""
    numbers = name.removeprefix(REGIONS).split("-") if name.startswith(REGIONS) else []
    return tuple(map(int, numbers)) if all(number.isdecimal() for number in numbers) else ()


def is_logits(name: str) -> bool:
    """Return whether a tap is logits, of another view or of regions, and no inner layer."""
    return name == STRONG_LOGITS or bool(region_grids(name))


def split_suffix(name: str) -> tuple[str, str]:
    """Return a tap's name without its suffix, and the suffix; "" if it has none."""
    stage = name.removesuffix(PREACTIVATION)
    return stage, name[len(stage) :]


def wrong_kind(name: str, known: Collection[str], wanted: str) -> str | None:
    """Return what is wrong with a tap of a method that reads maps or vectors alone; None if it may be right.

    Args:
        name: The name.
        known: The taps of the network; empty if the catalog does not know them.
        wanted: ``maps`` or ``vectors``.
    """
    if name == FEATURES:
        return f"{name!r} gives vectors, and it needs maps: name a stage" if wanted == "maps" else None
    stage, _ = split_suffix(name)
    if wanted == "vectors" and known and stage in (STAGES, LAST_STAGE, LAST_MAP, *known):
        return f"{name!r} gives maps, and it needs vectors, such as {FEATURES!r}"
    return None


def unknown_tap(name: str, known: Collection[str]) -> str | None:
    """Return what is wrong with a tap's name; None if it may be right.

    Args:
        name: The name.
        known: The taps of the network; empty if the catalog does not know them.
    """
    stage, suffix = split_suffix(name)
    if suffix and ("." in stage or stage in (FEATURES, LAST_MAP, STRONG_LOGITS)):
        return f"{PREACTIVATION!r} follows the name of a stage, and {stage!r} is none"
    if known and stage in (STAGES, LAST_STAGE) and not set(known) - {STEM, FEATURES}:
        return f"there are no stages, only {' and '.join(known)}"
    if not known or "." in stage or stage in (*known, *_OF_ANY_NETWORK) or region_grids(name):
        return None
    return f"there is no tap {stage!r}; {suggest_name(stage, dict.fromkeys(known, ()))}"
