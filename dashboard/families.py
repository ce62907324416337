"""Families of methods, by which lists, figures and tables group many methods.

The catalog names the family of each method. Up to ``MANY`` methods are shown side by side; more are grouped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MANY = 8
"""Largest number of methods that are shown without groups."""

ORDER = (
    *("labels", "logits", "decoupled", "features", "relations", "contrastive", "two_stage", "several_networks"),
    "boxes",
)
"""The families in the order in which they are shown. A family that is not named here follows them."""


@dataclass(frozen=True)
class Kind:
    """What the catalog knows about the method of a label.

    Attributes:
        method: Name of the method.
        family: Name of its family; empty if the catalog does not have the method.
    """

    method: str = ""
    family: str = ""


def family_title(family: str) -> str:
    """Return the name of a family for people: "Two stage" for ``two_stage``."""
    return family.replace("_", " ").capitalize() or "Other methods"


def families_of(methods: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the family of each method of the catalog, by its name."""
    return {entry["name"]: entry.get("family") or "" for entry in methods}


def family_of(method: str, known: Mapping[str, str]) -> str:
    """Return the family of a method; of a combination, whose names are joined by ``+``, that of its first method."""
    return known.get(method) or known.get(method.partition("+")[0], "")


def ordered(families: Iterable[str]) -> list[str]:
    """Return each family once, in the order in which families are shown."""
    present = dict.fromkeys(families)
    known = [family for family in ORDER if family in present]
    return [*known, *(family for family in present if family and family not in ORDER), *([""] if "" in present else [])]


def grouped(labels: Iterable[str], kinds: Mapping[str, Kind]) -> dict[str, list[str]]:
    """Return the labels by family: the families in the order of the catalog, the labels in the given order."""
    of_label = {label: kinds.get(label, Kind()).family for label in labels}
    return {
        family: [label for label, own in of_label.items() if own == family] for family in ordered(of_label.values())
    }


def by_family(labels: Sequence[str], kinds: Mapping[str, Kind], results: Mapping[str, float], better: str) -> list[str]:
    """Return the labels family by family, the best result first within each; labels without a result are last."""
    groups = grouped(labels, kinds)
    return [label for members in groups.values() for label in by_result(members, results, better)]


def by_result(labels: Sequence[str], results: Mapping[str, float], better: str) -> list[str]:
    """Return the labels, the best result first; labels without a result are last.

    Args:
        labels: The labels.
        results: The result of each label that has one.
        better: ``lower`` if a lower result is better.
    """
    sign = 1 if better == "lower" else -1
    return sorted(labels, key=lambda label: (label not in results, sign * results.get(label, 0.0)))


@dataclass(frozen=True)
class Folding:
    """Which methods of many are shown.

    Attributes:
        hidden: Families that are not shown.
        folded: Families of which only the best method is shown.
    """

    hidden: Collection[str] = ()
    folded: Collection[str] = ()

    def shown(
        self,
        labels: Sequence[str],
        kinds: Mapping[str, Kind],
        results: Mapping[str, float],
        better: str,
        *,
        always: Collection[str] = (),
    ) -> list[str]:
        """Return the labels that are shown, in their order.

        Args:
            labels: All labels.
            kinds: Method and family of each label.
            results: The result of each label that has one.
            better: ``lower`` if a lower result is better.
            always: Labels that are shown in any case, such as the baseline.
        """
        kept = set(always)
        for family, members in grouped(labels, kinds).items():
            if family not in self.hidden:
                kept.update(by_result(members, results, better)[: 1 if family in self.folded else None])
        return [label for label in labels if label in kept]
