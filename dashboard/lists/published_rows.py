"""Rows of published numbers beside measured ones, as pure functions. Cells are Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from common.formatting import NOTHING, mean_text, signed, value_text
from core.protocol.comparisons import EpochChoice
from core.protocol.result_tables import MeasuredResult, MeasuredValue, PublishedNumber, PublishedSetting
from dashboard import families
from dashboard.markup import escape

_EPOCHS: Mapping[EpochChoice, str] = {"last": "last", "best_val": "best validation", "oracle": "best test"}
_NO_BREAK_SPACE = "\u00a0"
TEACHER = "teacher"


def setting_title(setting: PublishedSetting) -> str:
    """Return data set, teacher and student for a list."""
    return f"{setting.dataset}: {setting.teacher} → {setting.student}"


def rows(
    numbers: Sequence[PublishedNumber],
    titles: Mapping[str, str],
    family_of: Mapping[str, str],
    metrics: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    """Return one row per number, sorted by metric, family and method.

    A cell of metric or family is empty if it is the same as in the row above.

    Args:
        numbers: The numbers of one setting.
        titles: Title of each method of the catalog, by name.
        family_of: Family of each method of the catalog, by name.
        metrics: Title of each metric of the catalog, by name; shown if the numbers have several metrics.
    """
    measured = list(dict.fromkeys(number.metric for number in numbers))
    order = families.ordered(family_of.get(number.method, "") for number in numbers)

    def place(number: PublishedNumber) -> tuple[int, bool, int, str, float]:
        family = family_of.get(number.method, "")
        in_metric = (number.method != TEACHER, order.index(family), _method(number, titles).lower(), number.value)
        return (measured.index(number.metric), *in_metric)

    shown: list[dict[str, str]] = []
    previous: tuple[str, str] | None = None
    for number in sorted(numbers, key=place):
        family = families.family_title(family_of.get(number.method, "")) if number.method != TEACHER else ""
        title = (metrics or {}).get(number.metric, number.metric)
        metric_column = {"Metric": escape(title) if previous is None or previous[0] != number.metric else ""}
        shown.append(
            {
                **(metric_column if len(measured) > 1 else {}),
                "Family": escape(family) if (number.metric, family) != previous else "",
                "Method": escape(_method(number, titles)),
                "Source": _source(number),
                "Published": value_text(number.value, decimals=2) + ("" if number.confirmed else " (unconfirmed)"),
                "Epoch": _EPOCHS[number.epoch] if number.epoch else NOTHING,
                "Runs": str(number.repeats) if number.repeats else NOTHING,
                "Here, last epoch": _here(number.measured, "last"),
                "Here, best test epoch": _here(number.measured, "oracle"),
                "Here − published": _difference(number),
            }
        )
        previous = (number.metric, family)
    return shown


def _method(number: PublishedNumber, titles: Mapping[str, str]) -> str:
    """Return the method as it was printed; a table that prints our names has our titles."""
    return titles.get(number.printed, number.printed)


def _source(number: PublishedNumber) -> str:
    count = len(number.reprinted)
    reprinted = f" (reprinted by {count}{_NO_BREAK_SPACE}{'other' if count == 1 else 'others'})" if count else ""
    return escape(number.source) + reprinted


def _value(result: MeasuredResult, epoch: EpochChoice) -> MeasuredValue | None:
    return result.oracle if epoch == "oracle" else result.last


def _here(measured: Sequence[MeasuredResult], epoch: EpochChoice) -> str:
    """Return every measured result with its method's label and its number of epochs, linked to its runs."""
    cells = []
    for result in measured:
        value = _value(result, epoch)
        if value is None:
            continue
        text = f"{mean_text(value.mean, value.sd)} ({value.n})".replace(" ", _NO_BREAK_SPACE)
        link = f"[{text}](compare?{urlencode([('run', run) for run in result.run_ids])})"
        training = f"{result.epochs:,}{_NO_BREAK_SPACE}epochs" if result.epochs else "not trained here"
        cells.append(f"{link} {escape(result.label)}, {training}")
    return "; ".join(cells) or NOTHING


def _difference(number: PublishedNumber) -> str:
    if number.epoch is None:
        return NOTHING
    values = [_value(result, number.epoch) for result in number.measured]
    return ", ".join(signed(value.mean - number.value, decimals=2) for value in values if value) or NOTHING
