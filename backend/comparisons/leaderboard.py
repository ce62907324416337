"""The leaderboard: methods × settings after the last epoch, mean ranks, and comparisons with a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from sqlalchemy.orm import Session

from backend.comparisons import leaderboard_ranking, leaderboard_sources, same_data, statistics
from backend.comparisons.comparison import teacher_summary
from backend.comparisons.leaderboard_cells import cells_of
from backend.comparisons.leaderboard_columns import Column, columns
from backend.comparisons.leaderboard_names import MethodRow, RowKey, choice_of, method_rows
from backend.comparisons.leaderboard_ranking import Ranked
from backend.comparisons.run_data import ImageData
from backend.comparisons.selection import names_of
from backend.comparisons.setting_differences import pooled
from backend.comparisons.tasks import other_tasks_note, task_named, task_of_experiment, tasks_of
from backend.db import models, now
from backend.errors import invalid
from common.formatting import SIGNIFICANCE, count_text, p_text
from core.catalog import METRICS
from core.catalog.datasets import task_of
from core.protocol.leaderboards import Leaderboard, LeaderboardCell, LeaderboardMethod, LeaderboardSetting
from core.protocol.public import ProblemField

MAX_METHODS = 100
_MAX_NAMED = 8
"""Number of names in a sentence."""


@dataclass(frozen=True)
class Selection:
    """What of the selected experiments a leaderboard shows.

    Attributes:
        task: Name of the task; empty for that of the first experiment.
        baseline: Row or label of the baseline; None for the method of most settings.
        without: Rows or labels that are left out.
    """

    task: str = ""
    baseline: str | None = None
    without: Sequence[str] = ()


def leaderboard(session: Session, experiments: Sequence[models.Experiment], selection: Selection) -> Leaderboard:
    """Return the leaderboard of experiments; their order does not matter.

    Raises:
        ApiError: 422 if the task, the baseline or a method that is left out is unknown or ambiguous, or there are too
            many methods.
    """
    ordered = sorted(dict.fromkeys(experiments), key=lambda item: item.id)
    available = tasks_of(ordered)
    task = task_named(selection.task) if selection.task else next(iter(available), task_of(""))
    of_task = [item for item in ordered if task_of_experiment(item).name == task.name]
    unchosen = [item for item in of_task if item.spec.get("tune") and choice_of(item) is None]
    used = [item for item in of_task if item not in unchosen]
    every_row = method_rows(used)
    without = {label for name in selection.without for label in _resolve(name, every_row, "without")}
    rows = {key: row for key, row in every_row.items() if row.label not in without}
    shown = {row.label: row for row in rows.values()}
    if len(shown) > MAX_METHODS:
        text = f"a leaderboard has at most {MAX_METHODS} methods, and there are {len(shown)}; select fewer experiments"
        raise invalid(text, ProblemField(path="tag", message=text))
    settings = [column for column in columns(session, used, rows) if column.methods]
    baseline = _baseline(settings, rows, selection.baseline)
    with_value = Counter(label for column in settings for label, method in column.methods.items() if method.values)
    compared = sorted(with_value)
    ranked = leaderboard_ranking.rank(settings, compared)
    cells = cells_of(settings, rows, baseline, ranked)
    tested = [cell for of_column in cells for cell in of_column if cell.p is not None]
    return Leaderboard(
        task=task.name,
        tasks=[item.name for item in available],
        baseline=baseline,
        methods=_methods(shown, ranked, with_value),
        settings=[
            _setting(column, of_column, ranked, compared) for column, of_column in zip(settings, cells, strict=True)
        ],
        ranking=ranked.tests if ranked else None,
        counted=len(ranked.columns) if ranked else 0,
        fewer=leaderboard_ranking.fewer_methods(settings, compared),
        without=sorted(without),
        tests=len(tested),
        notes=[
            *_notes(settings, compared, ranked, baseline, tested),
            *_budget_notes(settings, cells),
            *other_tasks_note("This leaderboard", task, [item for item in ordered if item not in of_task]),
            *_unchosen_note(unchosen),
        ],
        experiments=leaderboard_sources.experiments_of(session, used),
        runs=leaderboard_sources.runs_of(session, settings),
        version=version("dkd-lab"),
        made_at=now(session),
    )


def _resolve(name: str, rows: Mapping[RowKey, MethodRow], path: str) -> list[str]:
    """Return the rows that a person means by the name of a row, or by a label, which may stand for several.

    Raises:
        ApiError: 422 if there are none.
    """
    labels = {row.label for row in rows.values()}
    found = [name] if name in labels else sorted({row.label for (_, label), row in rows.items() if label == name})
    if not found:
        text = f"there is no method {name!r}; there are {_listed(sorted(labels))}"
        raise invalid(text, ProblemField(path=path, message=text))
    return found


def _baseline(settings: Sequence[Column], rows: Mapping[RowKey, MethodRow], name: str | None) -> str:
    """Return the row of the baseline: the named one, or that of most settings, of these the one most often first.

    Raises:
        ApiError: 422 if there is none of this name, or several.
    """
    if name is not None and rows:
        found = _resolve(name, rows, "baseline")
        if len(found) > 1:
            text = f"{name!r} stands for several methods: {_listed(found)}; name one of them"
            raise invalid(text, ProblemField(path="baseline", message=text))
        return found[0]
    count = Counter(label for column in settings for label in column.methods)
    keys = [(item.id, item.spec["methods"][0]["label"]) for column in settings for item in column.sample.experiments]
    first = Counter(rows[key].label for key in keys if key in rows)
    return min(count, key=lambda label: (-count[label], -first[label], label), default="")


def _methods(
    rows: Mapping[str, MethodRow], ranked: Ranked | None, with_value: Mapping[str, int]
) -> list[LeaderboardMethod]:
    """Return the methods in the order of their mean ranks; without ranks, those of most settings come first."""
    position = {label: index for index, label in enumerate(ranked.labels)} if ranked else {}
    intervals = ranked.intervals if ranked and ranked.intervals else [None] * len(position)
    order = sorted(rows, key=lambda label: (position.get(label, len(position)), -with_value.get(label, 0), label))
    return [
        LeaderboardMethod(
            label=label,
            method=rows[label].name,
            settings=with_value.get(label, 0),
            tuned=rows[label].tuned,
            mean_rank=ranked.mean_ranks[position[label]] if ranked and label in position else None,
            interval=intervals[position[label]] if label in position else None,
        )
        for label in order
    ]


def _setting(
    column: Column, cells: list[LeaderboardCell], ranked: Ranked | None, compared: Sequence[str]
) -> LeaderboardSetting:
    sample, metric = column.sample, column.spec.metric
    dataset, teacher, student = names_of(sample.spec)
    counted = ranked is not None and column in ranked.columns
    return LeaderboardSetting(
        title=column.title,
        metric=metric,
        metric_title=METRICS[metric].title if metric in METRICS else metric,
        unit=column.spec.unit,
        better=column.spec.better,
        dataset=dataset,
        teacher=teacher,
        student=student,
        epochs=int(sample.spec["training"]["epochs"]),
        images=same_data.describe(sample.data) if sample.data != ImageData() else "",
        condition=teacher_summary(sample),
        experiments=[item.id for item in sample.experiments],
        common_seeds=sorted({seed for _, seed in column.common_keys(compared)}) if counted else [],
        counted=counted,
        reason="" if counted else _reason(column, compared),
        cells=cells,
    )


def _reason(column: Column, compared: Sequence[str]) -> str:
    """Return why a setting does not count for the mean ranks."""
    if len(compared) < 2:
        return "there are no two methods to rank"
    missing = [label for label in compared if label not in column.methods or not column.methods[label].values]
    if missing:
        return f"without {_listed(missing)}"
    return "no seed has a value of every method"


def _notes(
    settings: Sequence[Column],
    compared: Sequence[str],
    ranked: Ranked | None,
    baseline: str,
    tested: Sequence[LeaderboardCell],
) -> list[str]:
    if not settings:
        return ["There is nothing to rank yet: train two methods or more with the same seeds in one or more settings."]
    notes = ["Values are after the last epoch, never of the best one: mean ± sample standard deviation (n seeds)."]
    notes += dict.fromkeys(text for column in settings for text in column.sample.misnamed)
    notes += _rank_notes(settings, compared, ranked)
    growing = [item.name for column in settings for item in column.sample.experiments if item.decides]
    if growing:
        notes.append(
            f"Seeds were added until the comparisons were decided in {_listed(growing)}: these settings are not "
            "tested against the baseline here, and dkd compare shows their verdicts."
        )
    if tested:
        notes.append(
            f"▲ better (bold) and ▼ worse than {baseline} over the same seeds: exact sign-flip test, p < 0.05 after "
            f"Holm over all {count_text(len(tested), 'comparison')} of this leaderboard. ★ is the best mean of a "
            "setting, which is not a test."
        )
        notes += _no_verdict_possible(tested)
    if not all(column.sample.complete for column in settings):
        notes.append("Not every run has ended: these numbers will change.")
    if any(column.sample.teachers and not column.sample.teachers_vary for column in settings):
        notes.append("A setting with one teacher is conditional on that teacher.")
    if any(column.sample.teachers_vary for column in settings):
        notes.append("If teachers vary, a teacher is the unit: its seeds are averaged before any test.")
    return notes + [
        f"{column.title}: {note}"
        for column in settings
        for note in (*same_data.notes(column.sample), *pooled(column.sample))
    ]


def _rank_notes(settings: Sequence[Column], compared: Sequence[str], ranked: Ranked | None) -> list[str]:
    if len(compared) < 2:
        return ["Ranks need at least two methods with values."]
    if ranked is None:
        return [
            "No setting has all methods over a common seed, so nothing is ranked: leave methods out, or train those "
            "that are missing."
        ]
    notes = leaderboard_ranking.sentences(ranked)
    left_out = len(settings) - len(ranked.columns)
    if left_out:
        notes.append(
            f"{left_out} of {count_text(len(settings), 'setting')} {'does' if left_out == 1 else 'do'} not count for "
            f"the ranks, because not all {len(compared)} methods have a value over a common seed there."
        )
    return notes


def _no_verdict_possible(tested: Sequence[LeaderboardCell]) -> list[str]:
    """Return a sentence with the number of seeds that could give a verdict, if these cannot."""
    units = max(cell.units for cell in tested)
    count = len(tested)
    if (statistics.smallest_p(units) or 1.0) * count < SIGNIFICANCE:
        return []
    needed = next(n for n in range(units, units + 64) if (statistics.smallest_p(n) or 1.0) * count < SIGNIFICANCE)
    return [
        f"No comparison with the baseline can be decided yet: {count_text(units, 'pair')} cannot show p < "
        f"{p_text(statistics.smallest_p(units), 3)}, and Holm over {count_text(count, 'comparison')} requires less "
        f"than {p_text(SIGNIFICANCE / count)} for the first; {needed} pairs could."
    ]


def _budget_notes(settings: Sequence[Column], cells: Sequence[Sequence[LeaderboardCell]]) -> list[str]:
    """Return sentences about methods that had different numbers of trials for the choice of their settings."""
    notes = []
    for column, of_column in zip(settings, cells, strict=True):
        budgets: dict[int, list[str]] = {}
        for cell in of_column:
            budgets.setdefault(cell.trials, []).append(cell.label)
        # A method without anything to search has one trial.
        if len(set(budgets) - {1}) > 1:
            parts = [f"{count_text(trials, 'trial')} for {_listed(budgets[trials])}" for trials in sorted(budgets)]
            notes.append(f"{column.title}: the budgets of tuning differ: {'; '.join(parts)}.")
    return notes


def _unchosen_note(experiments: Sequence[models.Experiment]) -> list[str]:
    if not experiments:
        return []
    names = _listed([item.name for item in experiments])
    return [f"Left out, because no settings have been chosen by trials yet: {names}."]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    return f"{shown} and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else shown
