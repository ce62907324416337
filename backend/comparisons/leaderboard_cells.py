"""Cells of a leaderboard: a method's values in a setting, and its paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from backend.comparisons import ranks, statistics, verdicts
from backend.comparisons.groups import Method, summarize_method
from backend.comparisons.leaderboard_columns import Column
from backend.comparisons.leaderboard_names import MethodRow, RowKey, choice_of
from backend.comparisons.leaderboard_ranking import Ranked
from core.protocol.leaderboards import LeaderboardCell

_VERDICTS: Mapping[str, Literal["better", "worse"]] = {"better": "better", "worse": "worse"}


def cells_of(
    columns: Sequence[Column], rows: Mapping[RowKey, MethodRow], baseline: str, ranked: Ranked | None
) -> list[list[LeaderboardCell]]:
    """Return the cells of each column, with verdicts that hold over all comparisons of the leaderboard."""
    cells = [_of_column(column, rows, baseline, ranked) for column in columns]
    tests = [
        [
            verdicts.Test(
                cell.units,
                cell.mean_difference,
                cell.p,
                statistics.smallest_p(cell.units),
                cell.difference_interval,
                column.spec.better,
            )
            for cell in of_column
        ]
        for column, of_column in zip(columns, cells, strict=True)
    ]
    decisions = iter(verdicts.decide([test for of_column in tests for test in of_column]))
    return [[_decided(cell, next(decisions)) for cell in of_column] for of_column in cells]


def _decided(cell: LeaderboardCell, decision: verdicts.Decision) -> LeaderboardCell:
    if decision.verdict is None:
        return cell
    return cell.model_copy(update={"p_holm": decision.p_holm, "verdict": _VERDICTS.get(decision.verdict, "unclear")})


def _of_column(
    column: Column, rows: Mapping[RowKey, MethodRow], baseline: str, ranked: Ranked | None
) -> list[LeaderboardCell]:
    mean_ranks: dict[str, float] = {}
    if ranked and column in ranked.columns:
        mean_ranks = dict(zip(ranked.labels, ranks.mean_row(column.unit_ranks(ranked.labels)), strict=True))
    cells = [_cell(column, label, rows, baseline, mean_ranks.get(label)) for label in sorted(column.methods)]
    means = [cell.mean for cell in cells if cell.mean is not None]
    best = (max if column.higher_is_better else min)(means, default=None)
    return [cell.model_copy(update={"best": best is not None and cell.mean == best}) for cell in cells]


def _cell(
    column: Column, label: str, rows: Mapping[RowKey, MethodRow], baseline: str, mean_rank: float | None
) -> LeaderboardCell:
    method = column.methods[label]
    values = method.values
    summary = summarize_method(method, column.sample)
    keys = [key for key in column.sample.keys if key in values]
    places = [
        (item, choice["label"])
        for item in column.sample.experiments
        for choice in item.spec["methods"]
        if (item.id, choice["label"]) in rows and rows[item.id, choice["label"]].label == label
    ]
    chosen = [(choice, own) for item, own in places if (choice := choice_of(item))]
    cell = LeaderboardCell(
        label=label,
        n=summary.n,
        mean=summary.mean,
        sd=summary.sd,
        interval=summary.interval,
        mean_rank=mean_rank,
        trials=max((one.trials for choice, own in chosen for one in choice.methods if one.label == own), default=0),
        seeds=sorted({seed for _, seed in keys}),
        run_ids=[method.runs[key].run_id for key in keys],
        experiments=list(dict.fromkeys(item.id for item, _ in places)),
        reason="" if values else _reason(method),
    )
    base = column.methods.get(baseline)
    if base is None or label == baseline:
        return cell
    by_pair = {key: values[key] - base.values[key] for key in keys if key in base.values}
    test = verdicts.Test.of(statistics.by_block(by_pair), column.spec.better)
    changes: dict[str, Any] = {"pairs": len(by_pair), "units": test.n, "mean_difference": test.mean}
    if column.spec.tested and test.n:
        changes |= {"difference_interval": test.interval, "p": test.p}
    return cell.model_copy(update=changes)


def _reason(method: Method) -> str:
    """Return why no run of a method has a value: the most usual reason."""
    if not method.runs:
        return "no run yet"
    reasons = [method.selected[run.run_id].reason for run in method.runs.values()]
    return max(sorted(set(reasons)), key=reasons.count)
