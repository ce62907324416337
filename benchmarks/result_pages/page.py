"""A page of results in Markdown with its figures, made from a record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy.orm import Session

from backend import comparisons
from backend.comparisons import leaderboard_page, leaderboard_render, render, sheets
from backend.comparisons.leaderboard import Selection
from backend.comparisons.sheets import Sheet
from backend.db import models
from benchmarks.result_pages import contrast, doses, figures
from benchmarks.result_pages.record import Record, RecordedExperiment
from benchmarks.result_pages.replay import replayed
from common import rank_figures
from common.formatting import count_text, difference_unit, value_text
from core.papers import PAPERS
from core.protocol.comparisons import Comparison, PaperClaims
from core.specs import ExperimentSpec, parse_experiment, student_title, teacher_title
from core.tuning.choice import Choice

DOCS = Path(__file__).parents[2] / "docs" / "results"
_LESS = {"commented": ()}


def build(record: Record) -> dict[str, str]:
    """Return the files of a page by their names: ``NAME.md``, and one SVG for each figure."""
    files: dict[str, str] = {}
    with replayed(record) as (session, experiments):
        parts = [_head(record)]
        several = len(experiments) > 1
        for index, (experiment, recorded) in enumerate(zip(experiments, record.experiments, strict=True), 1):
            prefix = f"{record.name}-{index}" if several else record.name
            parts.append(_experiment(session, experiment, recorded, record, prefix, files, several=several))
        if several:
            parts += _contrasts(session, experiments, record)
            parts.append(_over_settings(session, experiments, record.name, files))
        parts += [_limits(record), _provenance(record)]
    files[f"{record.name}.md"] = "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
    return files


def _head(record: Record) -> str:
    days = sorted(run.ended for item in record.experiments for run in item.runs)
    runs = sum(len(item.runs) for item in record.experiments)
    command = f"`python -m benchmarks results build {record.name}`"
    lines = [f"# {record.title}", ""]
    if record.question:
        lines += [f"**Question:** {_line(record.question)}", ""]
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    lines.append(
        f"{command} makes this page from the record of {count_text(runs, 'run')} in "
        f"[benchmarks/results/records/{record.name}](../../benchmarks/results/records/{record.name}/record.json), "
        f"which ended on {when}. [Comparisons](../comparisons.md) explains the numbers."
    )
    return "\n".join(lines)


def _experiment(
    session: Session,
    experiment: models.Experiment,
    recorded: RecordedExperiment,
    record: Record,
    prefix: str,
    files: dict[str, str],
    *,
    several: bool,
) -> str:
    comparison = comparisons.compare(session, [experiment])
    claims = _claims(session, experiment, comparison)
    level = "###" if several else "##"
    parts = [f"## {_escaped(experiment.name)}"] if several else []
    parts += [f"{level} Verdict", _verdict(comparison, claims), f"{level} What was trained"]
    parts.append(_trained(parse_experiment({**recorded.spec, "tune": None}), recorded, comparison))
    parts += [f"{level} Result", _table(render.comparison_sheet(comparison))]
    drawn = figures.all_of(comparison, _curves(recorded, record, comparison), difference_unit(comparison.unit))
    parts += [_figure(files, f"{prefix}-{name}.svg", figure, _CAPTIONS[name]) for name, figure in drawn.items()]
    parts += _doses(comparison, recorded, prefix, level, files)
    if claims:
        parts += [f"{level} Claims of the paper", _table(render.claims_sheet(claims))]
    overview = comparisons.overview(session, [experiment])
    if overview.rows:
        parts += [f"{level} All metrics", _table(render.overview_sheet(overview))]
    return "\n\n".join(part.strip("\n") for part in parts)


def _doses(
    comparison: Comparison, recorded: RecordedExperiment, prefix: str, level: str, files: dict[str, str]
) -> list[str]:
    """Return the section about methods that differ in one number; empty if there are none."""
    found = doses.find(recorded.spec["methods"])
    text, figure = doses.section(found, comparison) if found else ("", "")
    if not text:
        return []
    caption = "Mean paired difference at each dose, with its 95 % t interval."
    return [f"{level} Dose and response", text, _figure(files, f"{prefix}-doses.svg", figure, caption)]


_CAPTIONS = {
    "curves": "The compared metric over the epochs: the mean of the seeds, and faint each run. No epoch is selected.",
    "values": "The value of every run after its last epoch; below the points the mean with its 95 % t interval.",
    "differences": "Paired differences after the last epoch, each with its 95 % t interval.",
}


def _claims(session: Session, experiment: models.Experiment, comparison: Comparison) -> PaperClaims | None:
    """Return the claims of a paper, if the experiment has its method and the method that it is compared with."""
    methods = {group.method for group in comparison.groups}
    name = next((name for name, paper in PAPERS.items() if {paper.method, paper.baseline} <= methods), None)
    return comparisons.judge(session, [experiment], paper=name) if name else None


def _verdict(comparison: Comparison, claims: PaperClaims | None) -> str:
    """Return what the runs show, in plain sentences."""
    lines = []
    for pair in comparison.paired:
        verdict = pair.verdict if pair.verdict not in (None, "unclear") else "not shown to differ"
        word = f"{verdict} than" if verdict != "not shown to differ" else f"{verdict} from"
        lines.append(f"- **{_escaped(pair.label)} is {word} {_escaped(pair.baseline)}.** {_line(pair.sentence)}")
    judged = [claim for claim in claims.claims if claim.label] if claims else []
    for claim in judged:
        subject = f"{claim.label} against {claim.baseline}"
        lines.append(f"- Claim {claim.number}, “{_line(claim.claim)}”, {_escaped(subject)}: **{claim.verdict}**.")
    return "\n".join(lines) if lines else "There is one method, so there is nothing to compare."


def _trained(spec: ExperimentSpec, recorded: RecordedExperiment, comparison: Comparison) -> str:
    data = spec.model_dump(mode="json")
    teacher = teacher_title(data)
    training = spec.training
    sizes = next(((run.train_size, run.test_size) for run in recorded.runs if run.train_size), (0, 0))
    params = ", ".join(f"{name} {value}" for name, value in data["dataset"]["params"].items())
    lines = [
        f"- Data: {spec.dataset.name}{f' ({params})' if params else ''}, {sizes[0]:,} training and {sizes[1]:,} test "
        "images.",
        f"- Teacher: {teacher or 'none'}"
        + (
            f", {value_text(comparison.teacher_top1, comparison.headline_unit, 2)} after its last epoch."
            if comparison.teacher_top1 is not None
            else "."
        ),
        f"- Student: {student_title(data)}, {training.epochs} epochs, batch {training.batch_size}, "
        f"{training.optimizer.name}.",
        f"- Seeds: {', '.join(str(seed) for seed in sorted({r.seed for r in recorded.runs if r.role == 'student'}))}.",
    ]
    for choice in data["methods"]:
        settings = ", ".join(f"{name} {value}" for name, value in choice["params"].items() if value is not None)
        lines.append(
            f"- {_escaped(choice['label'])}: {choice['name']}{f' ({_escaped(settings)})' if settings else ''}."
        )
    if recorded.choice:
        lines += [f"- {_line(sentence)}" for sentence in Choice.from_json(recorded.choice).sentences()]
    return "\n".join(lines)


def _curves(
    recorded: RecordedExperiment, record: Record, comparison: Comparison
) -> dict[str, list[list[tuple[float, float]]]]:
    """Return the points of the compared metric of each student, by label."""
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for run in recorded.runs:
        curve = record.curves[run.curve]
        column = curve.values.get(comparison.metric)
        if run.role == "student" and column is not None:
            points = [(epoch, value) for epoch, value in zip(curve.epoch, column, strict=True) if value is not None]
            found.setdefault(run.label, []).append(points)
    return found


def _contrasts(session: Session, experiments: Sequence[models.Experiment], record: Record) -> list[str]:
    """Return what one setting changes, for each experiment that differs from the first in it alone."""
    parts = []
    for experiment, recorded in zip(experiments[1:], record.experiments[1:], strict=True):
        setting = contrast.find(record.experiments[0].spec, recorded.spec)
        if setting is not None:
            compared = [comparisons.compare(session, [one]) for one in (experiments[0], experiment)]
            text = contrast.section(setting, compared[0], compared[1])
            parts += [f"## What `{setting.path}` changes", text] if text else []
    return parts


def _over_settings(session: Session, experiments: Sequence[models.Experiment], name: str, files: dict[str, str]) -> str:
    """Return the leaderboard of several experiments of one task; empty if nothing can be ranked."""
    board = comparisons.leaderboard(session, experiments, Selection())
    if board.ranking is None:
        return ""
    labels = leaderboard_page.ranked_labels(board)
    sheet = replace(leaderboard_render.sheet(board), notes=board.notes)
    parts = ["## Over all settings", _table(sheet)]
    parts.append(
        _figure(
            files,
            f"{name}-ranks.svg",
            rank_figures.mean_ranks(labels, background="white"),
            "Mean ranks with 95 % bootstrap intervals.",
        )
    )
    if board.ranking.pairs:
        drawn = rank_figures.critical_difference(
            labels, board.ranking.cliques, board.ranking.critical_difference, background="white"
        )
        caption = "Bars join methods of which no pair is shown to differ (signed-rank test, Holm)."
        parts.append(_figure(files, f"{name}-critical-differences.svg", drawn, caption))
    return "\n\n".join(parts)


def _limits(record: Record) -> str:
    """Return what the page does not show."""
    lines = ["## What this does not show", "", *(f"- {_line(note)}" for note in record.notes)]
    for item in record.experiments:
        spec = parse_experiment({**item.spec, "tune": None})
        data = spec.model_dump(mode="json")
        networks = f"{teacher_title(data)} → {student_title(data)}" if teacher_title(data) else student_title(data)
        name = f"{_escaped(spec.name)}: " if len(record.experiments) > 1 else ""
        lines.append(
            f"- {name}Other networks than {networks}, other data than {spec.dataset.name}, and other trainings than "
            f"{spec.training.epochs} epochs of this recipe."
        )
    if any(item.spec.get("teacher") for item in record.experiments):
        lines.append("- Other teachers: all students of an experiment have the same one.")
    lines += [
        "- Equality: a comparison that is not shown to differ excludes only differences outside its interval.",
        "- The best epoch: no result is selected on test images.",
    ]
    missing = [
        f"{run.label} seed {run.seed} ({_line(run.reason)})"
        for item in record.experiments
        for run in item.runs
        if run.state == "failed"
    ]
    if missing:
        lines.append(f"- Runs that failed, which have no value: {_escaped('; '.join(missing))}.")
    if not any(item.choice for item in record.experiments):
        lines.append("- Each method at its best: its parameters are those of the spec, and were not searched here.")
    return "\n".join(lines)


def _provenance(record: Record) -> str:
    lines = ["## Provenance", "", "| setting | value |", "|---|---|"]
    names = list(dict.fromkeys(name for environment in record.environments for name in environment))
    for name in names:
        values = dict.fromkeys(environment.get(name, "not recorded") for environment in record.environments)
        lines.append(f"| {_escaped(name)} | {_escaped('; '.join(values))} |")
    devices = dict.fromkeys(run.device for item in record.experiments for run in item.runs if run.device)
    lines += [f"| device | {_escaped('; '.join(devices))} |", ""]
    lines += [
        "| experiment | run | seed | fingerprint of the spec | SHA-256 of the weights |",
        "|---|---|---:|---|---|",
    ]
    for item in record.experiments:
        lines += [
            f"| {_escaped(item.spec['name'])} | {_escaped(run.label)} | {run.seed} | `{run.fingerprint}` | "
            f"{f'`{run.weights[:16]}…`' if run.weights else 'failed'} |"
            for run in item.runs
        ]
    return "\n".join(lines)


def _table(sheet: Sheet) -> str:
    """Return a sheet without its title, which the heading has, and without the ids of its runs."""
    text = sheets.markdown(replace(sheet, commented=()))
    return text.partition("\n\n")[2]


def _figure(files: dict[str, str], name: str, figure: str, caption: str) -> str:
    files[name] = figure + "\n"
    return f"![{caption}]({name})\n\n*{caption}*"


def _line(text: str) -> str:
    return _escaped(" ".join(text.split()).rstrip())


def _escaped(text: str) -> str:
    return sheets.escape_markdown(text)


def index(records: Mapping[str, Record]) -> str:
    """Return the page that lists all pages."""
    lines = [
        "# Results",
        "",
        "Each page is made by `python -m benchmarks results build` from a committed record: the specs, the "
        "fingerprints and the metrics of each epoch of every run, and the environments. Nothing else is read, and a "
        "test builds all pages again and compares every byte.",
        "",
    ]
    if not records:
        return "\n".join([*lines, "There are no records yet."]) + "\n"
    lines += ["| page | question | data | runs |", "|---|---|---|---:|"]
    for name, record in sorted(records.items()):
        data = ", ".join(dict.fromkeys(item.spec["dataset"]["name"] for item in record.experiments))
        runs = sum(len(item.runs) for item in record.experiments)
        lines.append(f"| [{_escaped(record.title)}]({name}.md) | {_line(record.question)} | {data} | {runs} |")
    return "\n".join(lines) + "\n"
