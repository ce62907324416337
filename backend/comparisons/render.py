"""Comparisons, overviews, claims and the table as sheets (for Markdown and LaTeX) and as records (for CSV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from backend.comparisons.sheets import Sheet, Text, fits_column
from common.formatting import (
    NOTHING,
    convergence_text,
    difference_text,
    difference_unit,
    interval_text,
    mean_text,
    median_epochs_text,
    p_text,
    point_text,
    target_text,
    value_text,
)
from core.protocol.comparisons import (
    EPOCH_CHOICES,
    Comparison,
    Convergence,
    Interval,
    Overview,
    OverviewCell,
    PairedDifference,
    PaperClaims,
)
from core.protocol.costs import CostTable, MethodCost, cost_table
from core.protocol.result_tables import PublishedValue, ResultTable, TableCell

_MOST_COLUMNS = 3
"""Number of methods that are columns of a table of few settings in LaTeX."""


def comparison_sheet(comparison: Comparison) -> Sheet:
    """Return a comparison as a sheet with one row per method."""
    pairs = {pair.label: pair for pair in comparison.paired}
    unit = f" ({comparison.unit})" if comparison.unit else ""
    points = f" ({difference_unit(comparison.unit)})" if comparison.unit else ""
    target = target_text(
        comparison.target, comparison.target_share, comparison.headline_unit, absolute=comparison.absolute_target
    )
    header = [
        "Method",
        f"{comparison.title}{unit}",
        "n",
        "95 % interval",
        f"Difference to {comparison.baseline}{points}",
        "Interval over all looks" if comparison.by_looks else "95 % interval",
        "p of this comparison alone",
        "p after Holm",
        f"Epochs to {target}",
    ]
    costs = cost_table(comparison.costs)
    header += costs.header[2:] if costs else []
    rows = []
    for group in comparison.groups:
        pair = pairs.get(group.label)
        rows.append(
            [
                Text(group.label),
                Text(mean_text(group.mean, group.sd)),
                Text(str(group.n)),
                Text(interval_text(group.interval, group.mean, signs=False)),
                Text("baseline" if pair is None else point_text(pair.mean_difference, pair.interval)),
                Text(interval_text(pair.interval, pair.mean_difference) if pair else NOTHING),
                Text(p_text(pair.sign_flip_p if pair else None)),
                Text(p_text(pair.sign_flip_p_holm if pair else None)),
                Text(convergence_text(group.convergence)),
                *map(Text, _costs_of(group.label, costs)),
            ]
        )
    notes = [
        f"Mean ± sample standard deviation, {EPOCH_CHOICES[comparison.epoch]}.",
        f"Holds for {comparison.condition}.",
        *(f"{pair.label} against {pair.baseline}: {pair.sentence}" for pair in comparison.paired),
        *comparison.notes,
        *(costs.notes if costs else ()),
    ]
    commented = [
        f"{group.label}: runs {' '.join(run.run_id for run in group.runs if run.value is not None)}"
        for group in comparison.groups
    ]
    return Sheet(comparison.experiment, header, rows, frozenset({1, 2}), notes, commented)


def _costs_of(label: str, costs: CostTable | None) -> Sequence[str]:
    """Return the cells of a method's costs."""
    if costs is None:
        return ()
    return next((row[2:] for row in costs.rows if row[0] == label), [NOTHING] * len(costs.header[2:]))


def compact_comparison_sheet(comparison: Comparison) -> Sheet:
    """Return a comparison as a sheet that fits into a column of a paper if this is possible without the epochs.

    Notes say what its headings mean.
    """
    complete = _compact(comparison, epochs=True)
    without_epochs = _compact(comparison, epochs=False)
    return complete if fits_column(complete) or not fits_column(without_epochs) else without_epochs


def _compact(comparison: Comparison, *, epochs: bool) -> Sheet:
    pairs = {pair.label: pair for pair in comparison.paired}
    unit = f" ({comparison.unit})" if comparison.unit else ""
    points = f" in {difference_unit(comparison.unit)}" if comparison.unit else ""
    target = target_text(
        comparison.target, comparison.target_share, comparison.headline_unit, absolute=comparison.absolute_target
    )
    interval = "interval over all looks" if comparison.by_looks else "95 % t interval"
    rows = []
    for group in comparison.groups:
        pair = pairs.get(group.label)
        difference = difference_text(pair.mean_difference, pair.interval) if pair else "baseline"
        rows.append(
            [
                Text(group.label),
                Text(mean_text(group.mean, group.sd)),
                Text(str(group.n)),
                Text(difference, bold=pair is not None and pair.verdict == "better"),
                Text(p_text(pair.sign_flip_p_holm if pair else None)),
                *([Text(_reached_text(group.convergence))] if epochs else ()),
            ]
        )
    notes = [
        f"Mean ± sample standard deviation of n seeds, {EPOCH_CHOICES[comparison.epoch]}.",
        f"Δ: mean paired difference to {comparison.baseline}{points}, with its {interval}.",
        "p: exact sign-flip test after Holm over the comparisons; bold: better.",
        *(
            [f"Epochs: median of the epochs to {target}, in brackets the share of runs that reached it."]
            if epochs
            else ()
        ),
        f"Holds for {comparison.condition}.",
        *comparison.notes,
    ]
    commented = [f"{pair.label} against {pair.baseline}: {pair.sentence}" for pair in comparison.paired]
    commented += [
        f"{group.label}: runs {' '.join(run.run_id for run in group.runs if run.value is not None)}"
        for group in comparison.groups
    ]
    header = ["Method", f"{comparison.title}{unit}", "n", "Δ", "p", *(["Epochs"] if epochs else ())]
    return Sheet(comparison.experiment, header, rows, frozenset(range(1, len(header))), notes, commented)


def _reached_text(convergence: Convergence | None) -> str:
    """Return the median epochs, with how many runs reached the target unless all did."""
    if convergence is None or convergence.reached == convergence.of:
        return median_epochs_text(convergence)
    return f"{median_epochs_text(convergence)} ({convergence.reached}/{convergence.of})"


def comparison_records(comparison: Comparison) -> list[dict[str, Any]]:
    pairs = {pair.label: pair for pair in comparison.paired}
    return [
        {
            "experiment": comparison.experiment,
            "metric": comparison.metric,
            "title": comparison.title,
            "unit": comparison.unit,
            "epoch": comparison.epoch,
            "label": group.label,
            "method": group.method,
            "n": group.n,
            "mean": group.mean,
            "sd": group.sd,
            "se": group.se,
            **_ends("mean", group.interval),
            "baseline": comparison.baseline,
            **_pair_record(pairs.get(group.label)),
            **_convergence_record(group.convergence),
            "timing": comparison.timing,
            **_cost_record(next((item for item in comparison.costs if item.label == group.label), None)),
            "missing_seeds": " ".join(map(str, group.missing)),
            "run_ids": " ".join(run.run_id for run in group.runs if run.value is not None),
        }
        for group in comparison.groups
    ]


def overview_sheet(overview: Overview) -> Sheet:
    """Return an overview as a sheet: one row per metric, and per method a column of means and one of differences."""
    labels = [cell.label for cell in overview.rows[0].cells] if overview.rows else []
    compared_labels = [label for label in labels if label != overview.baseline]
    header = ["Metric", *labels, *(f"{label} − {overview.baseline}" for label in compared_labels)]
    rows = []
    for row in overview.rows:
        cells = {cell.label: cell for cell in row.cells}
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[row.better]
        title = f"{row.title}{f' ({row.unit})' if row.unit else ''}{arrow}"
        rows.append(
            [
                Text(title),
                *(Text(mean_text(cells[label].mean, cells[label].sd)) for label in labels),
                *(_difference(cells[label]) for label in compared_labels),
            ]
        )
    notes = ["↑: higher is better; ↓: lower is better.", f"Holds for {overview.condition}.", *overview.notes]
    return Sheet(f"{overview.experiment}: all metrics", header, rows, frozenset(range(1, len(header))), notes)


def overview_records(overview: Overview) -> list[dict[str, Any]]:
    return [
        {
            "metric": row.metric,
            "title": row.title,
            "unit": row.unit,
            "better": row.better or "",
            "epoch": overview.epoch,
        }
        | {"baseline": overview.baseline, "label": cell.label, "n": cell.n, "mean": cell.mean, "sd": cell.sd}
        | {"pairs": cell.pairs, "difference": cell.mean_difference, **_ends("difference", cell.interval)}
        | {"sign_flip_p": cell.sign_flip_p, "sign_flip_p_holm": cell.sign_flip_p_holm, "verdict": cell.verdict or ""}
        for row in overview.rows
        for cell in row.cells
    ]


def claims_sheet(claims: PaperClaims) -> Sheet:
    """Return the claims as a sheet with one row per claim and case."""
    rows = [
        [
            Text(f"{claim.number}. {claim.claim}"),
            Text(claim.case or f"{claim.label} against {claim.baseline}" if claim.case or claim.label else ""),
            Text(claim.verdict, bold=claim.verdict != "cannot tell"),
            Text(str(claim.n) if claim.n else NOTHING),
            Text(claim.reason),
        ]
        for claim in claims.claims
    ]
    header = ["Claim", "Case", "Verdict", "Pairs", "Reason"]
    title = f"Claims of {claims.paper_title} in {claims.experiment}"
    widths = {0: 0.26, 1: 0.18, 4: 0.34}
    return Sheet(title, header, rows, frozenset({3}), claims.notes, widths=widths)


def claims_records(claims: PaperClaims) -> list[dict[str, Any]]:
    return [claim.model_dump(mode="json", exclude={"numbers"}) for claim in claims.claims]


def table_sheet(table: ResultTable) -> Sheet:
    """Return the table as a sheet: one row per setting, one column per method, published values in brackets."""
    header = ["Setting", "Teacher", *table.methods]
    rows = []
    for row in table.rows:
        cells = {cell.label: cell for cell in row.cells}
        top1 = value_text(row.teacher_top1, decimals=2)
        rows.append(
            [
                Text(row.title),
                Text(f"{top1}{_brackets(row.published)}"),
                *(_table_cell(cells.get(label)) for label in table.methods),
            ]
        )
    notes = list(table.notes)
    sources = dict.fromkeys(item.source for row in table.rows for cell in row.cells for item in cell.published)
    if sources:
        notes.append(f"In brackets, as published: {'; '.join(sources)}.")
    unit = f" ({table.unit})" if table.unit else ""
    commented = []
    for row in table.rows:
        commented += [f"{row.title}, {cell.label}: runs {' '.join(cell.run_ids) or NOTHING}" for cell in row.cells]
        commented += [f"missing, queue with: {command}" for command in row.commands]
    return Sheet(f"{table.title}{unit}", header, rows, frozenset(range(1, len(header))), notes, commented)


def by_method(sheet: Sheet) -> Sheet:
    """Return a table of many methods with one row per method and one column per setting, as papers have them."""
    settings = [cells[0].text for cells in sheet.rows]
    if len(sheet.header) - 2 <= max(_MOST_COLUMNS, len(settings)):
        return sheet
    columns = zip(*(cells[1:] for cells in sheet.rows), strict=True)
    rows = [[Text(name), *cells] for name, cells in zip(sheet.header[1:], columns, strict=True)]
    numbers = frozenset(range(1, len(settings) + 1))
    return replace(sheet, header=["Method", *settings], rows=rows, numbers=numbers)


def table_records(table: ResultTable) -> list[dict[str, Any]]:
    return [
        {
            "setting": row.title,
            "dataset": row.dataset,
            "teacher": row.teacher,
            "student": row.student,
            "teacher_top1": row.teacher_top1,
            "metric": table.metric,
            "epoch": table.epoch,
            "label": cell.label,
            "n": cell.n,
            "mean": cell.mean,
            "sd": cell.sd,
            **_ends("mean", cell.interval),
            "baseline": table.baseline,
            "pairs": cell.pairs,
            "difference": cell.mean_difference,
            **_ends("difference", cell.difference_interval),
            "test": table.test,
            "p": cell.p,
            "p_holm": cell.p_holm,
            "verdict": cell.verdict or "",
            **_cost_record(cell.cost),
            "missing_seeds": " ".join(str(item.seed) for item in cell.missing),
            "run_ids": " ".join(cell.run_ids),
            "published": "; ".join(
                f"{item.value} ({item.source}{'' if item.confirmed else ', unconfirmed'})" for item in cell.published
            ),
        }
        for row in table.rows
        for cell in row.cells
    ]


def _table_cell(cell: TableCell | None) -> Text:
    if cell is None:
        return Text("")
    if cell.mean is None:
        return Text(f"{NOTHING}{_brackets(cell.published)}")
    mark = " ↓" if cell.verdict == "worse" else ""
    text = f"{mean_text(cell.mean, cell.sd)} ({cell.n}){mark}{_brackets(cell.published)}"
    return Text(text, bold=cell.verdict == "better")


def _brackets(published: Sequence[PublishedValue]) -> str:
    values = dict.fromkeys(item.text for item in published)
    return f" [{', '.join(values)}]" if values else ""


def _difference(cell: OverviewCell) -> Text:
    return Text(difference_text(cell.mean_difference, cell.interval), bold=cell.verdict in ("better", "worse"))


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _pair_record(pair: PairedDifference | None) -> dict[str, Any]:
    return {
        "pairs": pair.n if pair else None,
        "difference": pair.mean_difference if pair else None,
        **_ends("difference", pair.interval if pair else None),
        "sign_flip_p": pair.sign_flip_p if pair else None,
        "sign_flip_p_holm": pair.sign_flip_p_holm if pair else None,
        "correlation": pair.correlation if pair else None,
        **_ends("welch", pair.welch_interval if pair else None),
        "verdict": (pair.verdict or "") if pair else "",
        "sentence": pair.sentence if pair else "",
    }


def _convergence_record(convergence: Convergence | None) -> dict[str, Any]:
    return {
        "target": convergence.target if convergence else None,
        "reached": convergence.reached if convergence else None,
        "reached_of": convergence.of if convergence else None,
        "median_epochs": convergence.median_epochs if convergence else None,
        "median_seconds": convergence.median_seconds if convergence else None,
        "median_gpu_seconds": convergence.median_gpu_seconds if convergence else None,
        "area": convergence.area if convergence else None,
    }


def _cost_record(cost: MethodCost | None) -> dict[str, float | None]:
    """Return the mean costs of a run; empty what was not measured."""
    values = {
        "seconds": cost and cost.seconds,
        "seconds_without_teacher": cost and cost.student_seconds,
        "teacher_seconds": cost and cost.teacher_seconds,
        "gpu_hours": cost and cost.gpu_hours,
        "teacher_gpu_hours": cost and cost.teacher_gpu_hours,
        "gpu_energy_wh": cost and cost.gpu_energy,
        "teacher_gpu_energy_wh": cost and cost.teacher_gpu_energy,
        "cpu_energy_wh": cost and cost.cpu_energy,
    }
    return {name: value.mean if value else None for name, value in values.items()}
