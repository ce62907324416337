"""Comparisons in a terminal: the result table, convergence, overview, claims, and the table over many experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from client.rendering.tables import new_table
from common.durations import duration_text
from common.formatting import (
    NOTHING,
    convergence_text,
    count_text,
    difference_text,
    difference_unit,
    mean_text,
    median_epochs_text,
    p_text,
    signed,
    span_text,
    spread_text,
    target_text,
    value_text,
    within_sentence,
)
from core.protocol.comparisons import (
    EPOCH_CHOICES,
    TIMING_TEXT,
    Comparison,
    Overview,
    OverviewCell,
    PairedConvergence,
    PairedDifference,
    PaperClaims,
)
from core.protocol.costs import CostTable, cost_table
from core.protocol.result_tables import PublishedValue, ResultTable, TableCell

_VERDICTS = {"holds": "green", "does not hold": "red", "cannot tell": "yellow"}
_STYLES = {"better": "bold green", "worse": "red"}


@dataclass(frozen=True)
class ComparisonTable:
    """The table of a comparison as texts, one row for each method.

    Attributes:
        value: Title of the column of the metric.
        reach: Title of the column of the epochs to the target.
        difference: Title of the column of the differences to the baseline.
        rows: The cells: method, metric, n, epochs to the target, difference, p alone, p after Holm.
    """

    value: str
    reach: str
    difference: str
    rows: Sequence[Sequence[str]]


def comparison_table(comparison: Comparison) -> ComparisonTable:
    """Return the table of a comparison."""
    unit = f" ({comparison.unit})" if comparison.unit else ""
    unit_of_difference = f" ({difference_unit(comparison.unit)})" if comparison.unit else ""
    paired = {item.label: item for item in comparison.paired}
    rows = []
    for group in comparison.groups:
        pair = paired.get(group.label)
        rows.append(
            [
                group.label,
                mean_text(group.mean, group.sd),
                str(group.n),
                convergence_text(group.convergence),
                "baseline" if group.label == comparison.baseline else paired_text(pair),
                p_text(pair.sign_flip_p if pair else None),
                p_text(pair.sign_flip_p_holm if pair else None),
            ]
        )
    return ComparisonTable(
        value=f"{comparison.title or comparison.metric}{unit}",
        reach=f"epochs to {_target_text(comparison)}",
        difference=f"difference to {comparison.baseline}{unit_of_difference}, {comparison.interval_title}",
        rows=rows,
    )


def render_comparison(comparison: Comparison) -> RenderableType:
    """Return the result: one row per method, the convergence, then the conditions and conclusions."""
    content = comparison_table(comparison)
    p, p_holm = "p of this comparison alone", "p after Holm"
    titles = ("method", content.value, "n", content.reach, content.difference, p, p_holm)
    table = new_table(*titles, numbers=("n", content.reach, content.value, p, p_holm))
    for row in content.rows:
        table.add_row(*row)
    parts: list[RenderableType] = [table]
    if any(group.convergence and group.convergence.reached for group in comparison.groups):
        parts += [Text(), _convergence_table(comparison)]
    if costs := cost_table(comparison.costs):
        parts += [Text(), _cost_table(costs), *(Text(note) for note in costs.notes)]
    return Group(*parts, Text(), *(Text(line) for line in comparison_notes(comparison)))


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return the sentences below the table."""
    lines: list[str] = []
    if comparison.test_size:
        one = comparison.resolution
        resolution = "" if one is None else f", so that one image is {spread_text(one, '%')}"
        lines.append(f"Test set: {comparison.test_size:,} images{resolution}.")
    if comparison.teacher_top1 is not None:
        target = f"; target {comparison.target_words}" if comparison.target_words else ""
        subject = "Teachers, on average" if len(comparison.teachers) > 1 else "Teacher"
        lines.append(f"{subject}: {value_text(comparison.teacher_top1, comparison.headline_unit, 2)}{target}.")
    if comparison.condition:
        lines.append(f"Holds for {comparison.condition}; values {EPOCH_CHOICES[comparison.epoch]}.")
    for item in comparison.paired:
        lines.append(f"{item.label} against {item.baseline}: {item.sentence}")
        lines += _pair_details(item)
    for group in comparison.groups:
        missing = [run for run in group.runs if run.value is None]
        if group.missing and not missing:
            seeds = ", ".join(map(str, group.missing))
            lines.append(f"{group.label}: no value {'' if comparison.complete else 'yet '}for seed {seeds}.")
        lines += [
            f"{group.label} seed {run.seed}{_teacher_of(run.teacher_seed, comparison)}: no value, {run.reason} "
            f"(run {run.run_id})."
            for run in missing
        ]
    lines += comparison.notes
    if not comparison.complete:
        lines.append("Not every run has ended: these numbers will change.")
    return lines


def render_overview(overview: Overview) -> RenderableType:
    """Return one row per metric: each method's mean, and its difference to the baseline."""
    labels = [cell.label for cell in overview.rows[0].cells] if overview.rows else []
    compared_labels = [label for label in labels if label != overview.baseline]
    columns = [f"{label} − {overview.baseline}" for label in compared_labels]
    table = new_table("metric", *labels, *columns, numbers=(*labels, *columns))
    for row in overview.rows:
        cells = {cell.label: cell for cell in row.cells}
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[row.better]
        table.add_row(
            f"{row.title}{f' ({row.unit})' if row.unit else ''}{arrow}",
            *(mean_text(cells[label].mean, cells[label].sd) for label in labels),
            *(_difference(cells[label]) for label in compared_labels),
        )
    notes = [
        "↑ higher is better, ↓ lower is better. Green: better, red: worse, over all comparisons of this table.",
        f"Holds for {overview.condition}.",
        *overview.notes,
    ]
    return Group(table, Text(), *(Text(note) for note in notes))


def render_claims(claims: PaperClaims) -> RenderableType:
    """Return one block per claim: the verdict first, then the numbers and the reason."""
    parts: list[RenderableType] = []
    printed_number = 0
    for claim in claims.claims:
        if claim.number != printed_number:
            parts += [*([Text()] if printed_number else []), Text(f"{claim.number}. {claim.claim}", style="bold")]
            printed_number = claim.number
        subject = claim.case or (f"{claim.label} against {claim.baseline}" if claim.label else "")
        pairs = f" ({count_text(claim.n, 'pair')})" if claim.n else ""
        head = f"{subject}{pairs}: " if subject else ""
        verdict = Text(f"   {claim.verdict}", style=_VERDICTS[claim.verdict])
        parts.append(Text.assemble(verdict, f"  {head}{claim.reason}."))
    notes = [f"Holds for {claims.condition}.", *claims.notes]
    return Group(*parts, Text(), *(Text(note) for note in notes))


def render_table(reply: ResultTable) -> RenderableType:
    """Return the table over many experiments, its missing seeds, and its notes."""
    unit = f" ({reply.unit})" if reply.unit else ""
    table = new_table("setting", "teacher", *reply.methods, numbers=("teacher", *reply.methods))
    for row in reply.rows:
        cells = {cell.label: cell for cell in row.cells}
        teacher = value_text(row.teacher_top1, decimals=2)
        table.add_row(
            row.title,
            f"{teacher}{_published(row.published)}",
            *(_cell(cells.get(label)) for label in reply.methods),
        )
    lines = [f"{reply.title}{unit}."]
    sources = dict.fromkeys(item.source for row in reply.rows for cell in row.cells for item in cell.published)
    if sources:
        lines.append(f"In brackets, as published: {'; '.join(sources)}.")
    lines += reply.notes
    for row in reply.rows:
        for cell in row.cells:
            lines += _missing(row.title, cell)
    return Group(table, Text(), *(Text(line) for line in lines))


def missing_run_commands(reply: ResultTable) -> list[str]:
    """Return the commands that queue the missing seeds. Print them without line breaks, so that they can be pasted."""
    return [command for row in reply.rows for command in row.commands]


def paired_text(paired: PairedDifference | None) -> str:
    """Return the mean difference with its t interval."""
    if paired is None or paired.mean_difference is None:
        return NOTHING
    return difference_text(paired.mean_difference, paired.interval)


def _target_text(comparison: Comparison) -> str:
    return target_text(
        comparison.target, comparison.target_share, comparison.headline_unit, absolute=comparison.absolute_target
    )


def _convergence_table(comparison: Comparison) -> RenderableType:
    reached = [(group.label, group.convergence) for group in comparison.groups if group.convergence]
    time = f"median time{TIMING_TEXT[comparison.timing]}"
    on_gpus = any(item.median_gpu_seconds is not None for _, item in reached)
    numbers = (
        "reached",
        "median epochs",
        time,
        *((f"median GPU time{TIMING_TEXT[comparison.timing]}",) if on_gpus else ()),
        "mean over epochs",
    )
    first = f"first to reach it, against {comparison.baseline}"
    fast = "times as fast in epochs"
    table = new_table(f"to {_target_text(comparison)}", *numbers, first, fast, numbers=numbers)
    pairs = {pair.label: pair.convergence for pair in comparison.paired}
    for label, item in reached:
        pair = pairs.get(label)
        table.add_row(
            label,
            f"{item.reached} of {item.of}",
            median_epochs_text(item),
            duration_text(item.median_seconds),
            *((duration_text(item.median_gpu_seconds),) if on_gpus else ()),
            mean_text(item.area, item.area_sd),
            _first_to_reach(pair),
            f"{pair.speed_up:.2f} (n = {pair.both_reached})" if pair and pair.speed_up is not None else "",
        )
    return table


def _cost_table(costs: CostTable) -> RenderableType:
    table = new_table(*(within_sentence(title) for title in costs.header), numbers=("runs",))
    for cells in costs.rows:
        table.add_row(*cells)
    return table


def _first_to_reach(pair: PairedConvergence | None) -> str:
    """Return the counts of pairs and their p value, which by itself does not support a verdict."""
    if pair is None:
        return ""
    p = f"p of this comparison alone {p_text(pair.sign_p)}"
    return f"{pair.earlier} earlier, {pair.later} later, {pair.equal} equal; {p}"


def _pair_details(pair: PairedDifference) -> list[str]:
    """Return the numbers behind a comparison's sentence, as indented lines."""
    facts = []
    if pair.correlation is not None:
        facts.append(f"correlation of the pairs {signed(pair.correlation, decimals=2)}")
    if pair.welch_interval is not None:
        facts.append(f"Welch, as if unpaired: {span_text(pair.welch_interval)}")
    lines = [f"  {'; '.join(facts)}."] if facts else []
    lines += [
        f"  under the teacher of seed {item.teacher_seed}: {signed(item.mean_difference)} "
        f"({count_text(item.n, 'pair')})."
        for item in pair.teachers
    ]
    lines += [
        f"  no pair for seed {item.seed}: {item.label} is {item.state}{f', {item.reason}' if item.reason else ''}."
        for item in pair.missing
        if not item.run_id
    ]
    lines += [
        f"  {item.setting} differs in seed {', '.join(map(str, item.seeds))}: {item.values}." for item in pair.unlike
    ]
    return lines


def _teacher_of(seed: int | None, comparison: Comparison) -> str:
    return f", teacher seed {seed}" if seed is not None and len(comparison.teachers) > 1 else ""


def _missing(title: str, cell: TableCell) -> list[str]:
    if not cell.missing:
        return []
    several = len({item.teacher_seed for item in cell.missing}) > 1
    seeds = ", ".join(
        f"{item.seed}{f' under teacher {item.teacher_seed}' if several else ''} ({item.state})" for item in cell.missing
    )
    return [f"{title}, {cell.label}: no value for seed {seeds}."]


def _cell(cell: TableCell | None) -> Text:
    if cell is None:
        return Text("")
    if cell.mean is None:
        return Text(f"{NOTHING}{_published(cell.published)}")
    mark = " ↓" if cell.verdict == "worse" else ""
    text = f"{mean_text(cell.mean, cell.sd)} ({cell.n}){mark}{_published(cell.published)}"
    return Text(text, style=_STYLES.get(cell.verdict or "", ""))


def _published(published: list[PublishedValue]) -> str:
    return f" [{', '.join(item.text for item in published)}]" if published else ""


def _difference(cell: OverviewCell) -> Text:
    if cell.mean_difference is None:
        return Text(NOTHING)
    return Text(difference_text(cell.mean_difference, cell.interval), style=_STYLES.get(cell.verdict or "", ""))
