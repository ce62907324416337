"""The published works that the platform takes protocols, results and claims from. Free of torch.

Everything that belongs to one work is in one module or folder here; the platform reads it through ``PAPERS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from core.papers import cifar100_tables, coco_table
from core.papers.decoupled_gradient_kd import PAPER as DECOUPLED_GRADIENT_KD
from core.papers.decoupled_kd import PAPER as DECOUPLED_KD
from core.papers.paper import (
    TEACHER,
    LossFinding,
    LossSetting,
    Paper,
    Preset,
    PublishedEpoch,
    PublishedNumber,
    PublishedRow,
    RunClaim,
)

__all__ = [
    "PAPERS",
    "PUBLISHED",
    "PUBLISHED_NUMBERS",
    "TEACHER",
    "LossFinding",
    "LossSetting",
    "Paper",
    "Preset",
    "PublishedEpoch",
    "PublishedNumber",
    "PublishedRow",
    "RunClaim",
    "published_for",
    "source_notes",
    "with_claims",
]

PAPERS: Mapping[str, Paper] = {paper.name: paper for paper in (DECOUPLED_KD, DECOUPLED_GRADIENT_KD)}

PUBLISHED: tuple[PublishedRow, ...] = tuple(row for paper in PAPERS.values() for row in paper.published)
"""The rows of the papers' own tables."""

_STANDARDISED = "standardise"  # the papers' own tables are without it


def _of_papers() -> Iterator[PublishedNumber]:
    for row in PUBLISHED:
        for method, value in row.values.items():
            yield PublishedNumber(
                source=row.source,
                dataset=row.dataset,
                teacher=row.teacher,
                student=row.student,
                printed=method,
                value=value,
                method=method,
                params={} if method in (TEACHER, "ce") else {_STANDARDISED: False},
                dataset_params=row.params,
                epoch=row.epoch.get(method),
                runs=row.repeats.get(method),
            )


def _without_reprints(numbers: Iterator[PublishedNumber]) -> tuple[PublishedNumber, ...]:
    """Return the numbers, each once: tables reprint those of earlier tables, in the order in which they are given."""
    first: dict[object, PublishedNumber] = {}
    for number in numbers:
        method = (number.method, number.combined, bool(number.params.get(_STANDARDISED)))
        networks = (number.teacher, _sorted(number.teacher_params), number.student, _sorted(number.student_params))
        setting = (number.dataset, networks, number.metric)
        key = (*setting, method if number.method else number.printed, number.value)
        known = first.get(key)
        if known is None:
            first[key] = number
        elif number.source not in (known.source, *known.reprinted):
            first[key] = replace(known, reprinted=(*known.reprinted, number.source))
    return tuple(first.values())


def _sorted(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def _in_order_of_printing() -> Iterator[PublishedNumber]:
    tables = list(cifar100_tables.numbers())
    oldest = tables[0].source
    yield from (number for number in tables if number.source == oldest)
    yield from _of_papers()
    yield from (number for number in tables if number.source != oldest)
    yield from coco_table.numbers()


PUBLISHED_NUMBERS: tuple[PublishedNumber, ...] = _without_reprints(_in_order_of_printing())
"""Every published number once, with the later sources that reprint it."""


def source_notes() -> dict[str, str]:
    """Return by source the statement of its authors about the epoch and the runs of its numbers."""
    return {name: source.note for name, source in cifar100_tables.SOURCES.items()} | {
        coco_table.SOURCE: coco_table.NOTE
    }


def with_claims() -> list[Paper]:
    """Return the papers whose claims the platform can judge."""
    return [paper for paper in PAPERS.values() if paper.run_claims]


def published_for(
    dataset: str,
    params: Mapping[str, Any],
    teacher: str,
    student: str,
    teacher_params: Mapping[str, Any] | None = None,
    student_params: Mapping[str, Any] | None = None,
) -> list[PublishedNumber]:
    """Return the published numbers of one setting.

    A parameter that a data set or a network does not have is not compared.

    Args:
        dataset: name in the catalog.
        params: parameters of the data set.
        teacher: name in the catalog.
        student: name in the catalog.
        teacher_params: parameters of the teacher's network.
        student_params: parameters of the student's network.
    """
    return [
        number
        for number in PUBLISHED_NUMBERS
        if (number.dataset, number.teacher, number.student) == (dataset, teacher, student)
        and _agree(params, number.dataset_params)
        and _agree(teacher_params or {}, number.teacher_params)
        and _agree(student_params or {}, number.student_params)
    ]


def _agree(params: Mapping[str, Any], needed: Mapping[str, Any]) -> bool:
    return all(params.get(name, value) == value for name, value in needed.items())
