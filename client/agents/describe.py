"""Replies of the API as the short answers of the tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from client import referee
from client.agents import answers, short
from common.durations import duration_text
from core.protocol.comparisons import Comparison, PaperClaims
from core.protocol.public import (
    TERMINAL,
    Catalog,
    Experiment,
    ExperimentSummary,
    LogsReply,
    MethodResult,
    PairedDifference,
    Preview,
    Run,
    RunSummary,
    StateCounts,
)
from core.protocol.result_tables import ResultTable, TableRow

_SUMMARY_LENGTH = 100
_LOG_LINE_LENGTH = 300
_SENTENCE_LENGTH = 700


def catalog_list(catalog: Catalog, part: str, search: str) -> answers.CatalogAnswer:
    """Return the names of a part of the catalog, of which ``search`` selects some by name or summary."""
    lines = [
        answers.CatalogLine(name=name, summary=short.text(summary, _SUMMARY_LENGTH))
        for name, summary in _names(catalog, part)
        if search.casefold() in f"{name} {summary}".casefold()
    ]
    shown, omitted = short.first(lines, short.MOST_NAMES)
    return answers.CatalogAnswer(part=part, entries=shown, omitted=omitted)


def catalog_entry(catalog: Catalog, part: str, name: str) -> answers.CatalogAnswer | None:
    """Return one entry of the catalog with its parameters; None if there is no such entry."""
    if part == "spec":
        entry = _spec_field(catalog.experiment_schema, name)
    else:
        entry = next((dict(item) for item in _entries(catalog, part) if item["name"] == name), None)
    if entry is None:
        return None
    if not short.fits(entry):
        entry = {"name": name, "omitted": "the entry is too long; read it with `dkd catalog --json`"}
    return answers.CatalogAnswer(part=part, entry=entry)


def _names(catalog: Catalog, part: str) -> Iterable[tuple[str, str]]:
    if part == "spec":
        for name, field in catalog.experiment_schema["properties"].items():
            yield name, str(field.get("description") or field.get("title") or "")
        return
    for entry in _entries(catalog, part):
        yield str(entry["name"]), str(entry.get("summary") or entry.get("title") or "")


def _entries(catalog: Catalog, part: str) -> list[dict[str, Any]]:
    if part == "examples":
        return [example.model_dump(mode="json") for example in catalog.examples]
    entries: list[dict[str, Any]] = getattr(catalog, part)
    return entries


def _spec_field(schema: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the JSON schema of a field of a spec or of a definition, with the definitions that it refers to.

    If these are too long, only their names are given; each can be read by its name.
    """
    field = schema["properties"].get(name) or schema["$defs"].get(name)
    if field is None:
        return None
    definitions: dict[str, Any] = {}
    pending = [field]
    while pending:
        for reference in _references(pending.pop()):
            if reference not in definitions:
                definitions[reference] = schema["$defs"][reference]
                pending.append(definitions[reference])
    complete = {"name": name, "schema": field, "$defs": definitions}
    return complete if short.fits(complete) else {"name": name, "schema": field, "definitions": sorted(definitions)}


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def preview(reply: Preview) -> answers.PreviewAnswer:
    """Return a preview in short."""
    students = [run for run in reply.runs if run.role == "student"]
    times = [
        f"{duration_text(time.seconds)} on {time.device} for {time.runs} run(s), by {time.based_on} past run(s)"
        for time in reply.estimate.times
    ]
    if reply.estimate.unknown:
        times.append(f"unknown for {reply.estimate.unknown} run(s) without a comparable run in the past")
    return answers.PreviewAnswer(
        new_runs=sum(not run.shared for run in reply.runs),
        shared_runs=sum(run.shared for run in reply.runs),
        methods=short.texts((run.label for run in students), short.MOST_ITEMS),
        seeds=short.first(dict.fromkeys(run.seed for run in students))[0],
        teachers=short.texts(reply.teacher_sentences),
        estimate=short.texts(times),
        warnings=short.texts(f"{item.path}: {item.message}" for item in reply.warnings),
    )


def submitted(experiment: Experiment) -> answers.SubmitAnswer:
    """Return a created experiment in short."""
    return answers.SubmitAnswer(
        id=experiment.id,
        name=experiment.name,
        runs=len(experiment.runs),
        warnings=short.texts(f"{item.path}: {item.message}" for item in experiment.warnings),
    )


def experiment_status(experiment: Experiment) -> answers.StatusAnswer:
    """Return the state of an experiment; its failed runs come first, and those that succeeded last."""
    order = {"failed": 0, "running": 1, "cancelling": 2, "succeeded": 9}
    runs = sorted(experiment.runs, key=lambda run: order.get(run.state, 5))
    shown, omitted = short.first(runs)
    return answers.StatusAnswer(
        kind="experiment",
        id=experiment.id,
        name=experiment.name,
        state=experiment.state,
        ended=experiment.state != "active",
        progress=round(experiment.progress, 3),
        counts=_counts(experiment.counts),
        metric=experiment.runs[0].headline if experiment.runs else "",
        runs=[_run_line(run) for run in shown],
        omitted=omitted,
    )


def run_status(run: Run) -> answers.StatusAnswer:
    """Return the state of a run."""
    done = run.step / run.total_steps if run.total_steps else 0.0
    return answers.StatusAnswer(
        kind="run",
        id=run.id,
        name=f"{run.experiment}: {run.label} seed {run.seed}",
        state=run.state,
        ended=run.state in TERMINAL,
        progress=1.0 if run.state == "succeeded" else round(done, 3),
        counts={run.state: 1},
        metric=run.headline,
        runs=[_run_line(run)],
    )


def lab_status(
    experiments: Sequence[ExperimentSummary], counts: StateCounts, workers_online: int
) -> answers.StatusAnswer:
    """Return the newest experiments, the number of all runs by state, and the number of workers."""
    shown, omitted = short.first(experiments)
    lines = [
        answers.ExperimentLine(
            id=item.id,
            name=item.name,
            state=item.state,
            progress=round(item.progress, 3),
            methods=short.texts(item.methods),
        )
        for item in shown
    ]
    return answers.StatusAnswer(
        kind="lab", counts=_counts(counts), experiments=lines, workers_online=workers_online, omitted=omitted
    )


def _run_line(run: RunSummary) -> answers.RunLine:
    newest = run.latest.get(run.headline)
    return answers.RunLine(
        id=run.id,
        label=run.label,
        seed=run.seed,
        state=run.state,
        epoch=f"{run.epoch:g}/{run.total_epochs}" if run.total_epochs else "",
        value=short.number(newest.value) if newest else None,
        reason=short.text(run.reason, 200),
    )


def _counts(counts: StateCounts) -> dict[str, int]:
    return {state: count for state, count in counts.model_dump().items() if count}


def logs(run: Run, reply: LogsReply) -> answers.LogsAnswer:
    """Return log lines in short."""
    lines = [f"{line.level}: {short.text(line.message, _LOG_LINE_LENGTH)}" for line in reply.lines]
    return answers.LogsAnswer(run_id=run.id, state=run.state, reason=short.text(run.reason), lines=lines)


def comparison(reply: Comparison) -> answers.CompareAnswer:
    """Return a comparison in short, with the referee's ruling on each method."""
    rulings = referee.rule(reply)
    pairs, omitted = short.first(zip(reply.paired, rulings, strict=True), short.MOST_ROWS)
    return answers.CompareAnswer(
        experiments=short.first(reply.experiments or [reply.experiment])[0],
        metric=reply.metric,
        unit=reply.unit,
        better=reply.better,
        epoch=reply.epoch,
        complete=reply.complete,
        condition=short.text(reply.condition),
        methods=[_method_line(group) for group in reply.groups[: short.MOST_ROWS + 1]],
        pairs=[_pair_line(pair, ruling) for pair, ruling in pairs],
        notes=short.texts(reply.notes),
        omitted=omitted,
    )


def _method_line(group: MethodResult) -> answers.MethodLine:
    return answers.MethodLine(
        label=group.label,
        n=group.n,
        mean=short.number(group.mean),
        sd=short.number(group.sd, 3),
        missing_seeds=group.missing[: short.MOST_NOTES],
    )


def _pair_line(pair: PairedDifference, ruling: referee.Ruling) -> answers.PairLine:
    return answers.PairLine(
        label=pair.label,
        baseline=pair.baseline,
        n=pair.n,
        difference=short.number(pair.mean_difference, 4),
        low=short.number(pair.interval.low, 4) if pair.interval else None,
        high=short.number(pair.interval.high, 4) if pair.interval else None,
        p=short.number(pair.sign_flip_p_holm, 4),
        decision=ruling.decision,
        referee=short.text(ruling.sentence, _SENTENCE_LENGTH),
    )


def claims(reply: PaperClaims) -> answers.ClaimsAnswer:
    """Return the verdicts on claims in short."""
    shown, omitted = short.first(reply.claims)
    lines = [
        answers.ClaimLine(
            number=claim.number,
            claim=short.text(claim.claim, 200),
            case=short.text(claim.case, 100),
            label=claim.label,
            baseline=claim.baseline,
            verdict=claim.verdict,
            referee=short.text(f"{claim.verdict}: {claim.reason}."),
            n=claim.n,
            p=short.number(claim.p_holm, 4),
        )
        for claim in shown
    ]
    return answers.ClaimsAnswer(
        paper=short.text(reply.paper_title or reply.paper),
        experiments=short.first(reply.experiments)[0],
        condition=short.text(reply.condition),
        claims=lines,
        notes=short.texts(reply.notes),
        omitted=omitted,
    )


def table(reply: ResultTable) -> answers.TableAnswer:
    """Return a table in short, with the sentence that says what it supports."""
    shown, omitted = short.first(reply.rows, short.MOST_ROWS)
    return answers.TableAnswer(
        metric=reply.metric,
        unit=reply.unit,
        baseline=reply.baseline,
        referee=short.text(referee.table_sentence(reply), _SENTENCE_LENGTH),
        rows=[_row_line(row) for row in shown],
        notes=short.texts(reply.notes),
        omitted=omitted,
    )


def _row_line(row: TableRow) -> answers.RowLine:
    cells = [
        answers.CellLine(
            label=cell.label,
            n=cell.n,
            mean=short.number(cell.mean),
            sd=short.number(cell.sd, 3),
            p=short.number(cell.p_holm, 4),
            verdict=cell.verdict,
        )
        for cell in short.first(row.cells, short.MOST_CELLS)[0]
    ]
    return answers.RowLine(
        title=short.text(row.title),
        seeds=short.first(row.seeds)[0],
        cells=cells,
        omitted=max(0, len(row.cells) - len(cells)),
    )


def cancelled(target: Experiment | Run) -> answers.CancelAnswer:
    """Return a cancelled experiment or run in short."""
    if isinstance(target, Run):
        return answers.CancelAnswer(kind="run", id=target.id, state=target.state)
    return answers.CancelAnswer(kind="experiment", id=target.id, state=target.state, counts=_counts(target.counts))
