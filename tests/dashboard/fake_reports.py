"""The fake backend's reports over experiments: overview, claims, the paper's table, published numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from core.catalog import METRICS, TASKS
from core.catalog.datasets import task_of
from core.protocol.comparisons import (
    Interval,
    MissingPair,
    Overview,
    OverviewCell,
    OverviewRow,
    PaperClaim,
    PaperClaims,
)
from core.protocol.leaderboards import Leaderboard
from core.protocol.public import Comparison, Experiment, Message
from core.protocol.result_tables import (
    BesidePublished,
    MeasuredResult,
    MeasuredValue,
    PublishedNumber,
    PublishedRow,
    PublishedSetting,
    PublishedTable,
    PublishedValue,
    ResultTable,
    TableCell,
    TableRow,
)
from tests.dashboard.fake_server import Refused
from tests.leaderboards import leaderboard

Compare = Callable[[str], Comparison]


def several(experiments: Sequence[Experiment]) -> None:
    """Refuse experiments that differ in more than their seeds, as the real backend does."""
    if len({experiment.student_model for experiment in experiments}) > 1:
        raise Refused(422, "the experiments differ in student.model: only seeds may differ")


def beside_published(wanted: Mapping[str, str], experiments: Sequence[Experiment], compare: Compare) -> BesidePublished:
    """Return the published numbers of three pairs, and the results of digits beside those of the first."""
    settings = [
        PublishedSetting(dataset="digits", teacher="resnet20", student="small_cnn", experiments=len(experiments)),
        PublishedSetting(dataset="cifar100", teacher="resnet56", student="resnet20", experiments=0),
        PublishedSetting(
            dataset="coco", teacher="faster_rcnn resnet101", student="faster_rcnn resnet18", experiments=0
        ),
    ]
    printed = [("KD", "kd", 95.0, "last", None), ("DKD", "dkd", 96.0, "oracle", 5), ("NEW", "", 97.0, None, None)]
    values = [(group.label, group) for item in experiments for group in compare(item.id).groups if group.mean]
    items = [
        PublishedNumber(
            source="first table",
            reprinted=["second table"] if name == "KD" else [],
            dataset=setting.dataset,
            teacher=setting.teacher,
            student=setting.student,
            printed=name,
            method=method,
            metric=metric,
            confirmed=setting.dataset != "coco",
            value=value,
            epoch=epoch,
            repeats=runs,
            measured=[
                MeasuredResult(
                    label=label,
                    experiments=["digits"],
                    epochs=30,
                    last=MeasuredValue(mean=group.mean, sd=group.sd, n=group.n),
                    oracle=MeasuredValue(mean=group.mean + 0.5, sd=group.sd, n=group.n),
                    run_ids=["run-0001-001"],
                )
                for label, group in values
                if group.method == method and setting.experiments and group.mean is not None
            ],
        )
        for setting in settings
        for metric in (("test/ap", "test/ap50") if setting.dataset == "coco" else ("test/top1",))
        for name, method, value, epoch, runs in printed
    ]
    chosen = [
        item
        for item in items
        if all(getattr(item, name) == value for name, value in wanted.items() if name in ("teacher", "student"))
    ]
    return BesidePublished(items=chosen, settings=settings, sources={"first table": "What its authors say."})


def reported(name: str, experiments: Sequence[Experiment], compare: Compare, query: Mapping[str, str]) -> Message:
    """Return the report with this name."""
    if name == "overview":
        return _overview(compare(experiments[0].id))
    if name == "claims":
        return _claims(experiments[0])
    if name == "table":
        return _table(experiments, compare, query)
    return _published()


def ranked(experiments: Sequence[Experiment], query: Mapping[str, list[str]]) -> Leaderboard:
    """Return a leaderboard with the labels, the name and the networks of the first experiment."""
    if "nobody" in query.get("tag", ()):
        raise Refused(422, "no experiment has the tag 'nobody'")
    if not experiments:
        return leaderboard(methods=[], settings=[], ranking=None, counted=0, fewer=[], experiments=[], runs=[])
    first = experiments[0]
    labels = [*first.methods, "kd", "dkd"]
    names = {"dkd": labels[0], "kd": labels[1], "small": first.name, "A note.": first.name}
    names["failed: out of memory"] = names["without dkd"] = first.name
    text = leaderboard().model_dump_json()
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(f"={new}"))  # so that no name is replaced twice
    return Leaderboard.model_validate_json(text.replace('"=', '"'))


def _overview(comparison: Comparison) -> Overview:
    paired = {pair.label: pair for pair in comparison.paired}
    cells = []
    for group in comparison.groups:
        pair = paired.get(group.label)
        cells.append(
            OverviewCell(
                label=group.label,
                n=group.n,
                mean=group.mean,
                sd=group.sd,
                pairs=pair.n if pair else 0,
                mean_difference=pair.mean_difference if pair else None,
                interval=pair.interval if pair else None,
                verdict="unclear" if pair else None,
            )
        )
    # An effect in the third decimal, which two decimals would show as zero.
    small = [
        cell
        if cell.mean_difference is None
        else cell.model_copy(update={"mean_difference": 0.0033, "interval": Interval(low=0.0024, high=0.0043)})
        for cell in cells
    ]
    rows = [
        OverviewRow(metric="fidelity/agreement", title="Agreement", unit="%", better="higher", cells=cells),
        OverviewRow(metric="collapse/nc1", title="NC1: variability within classes", unit="", better=None, cells=small),
    ]
    return Overview(
        experiment=comparison.experiment,
        experiments=[comparison.experiment],
        epoch="last",
        baseline=comparison.baseline,
        condition=comparison.condition,
        rows=rows if any(group.n for group in comparison.groups) else [],
        notes=[],
    )


def _claims(experiment: Experiment) -> PaperClaims:
    verdicts = ("does not hold", "holds", "cannot tell", "cannot tell", "cannot tell")
    return PaperClaims(
        experiment=experiment.name,
        experiments=[experiment.name],
        condition="one teacher (seed 0)",
        claims=[
            PaperClaim(
                number=number,
                claim=f"What is claimed, {number}.",
                case="alignment term, the non-target classes alike" if number < 3 else "",
                label="" if number < 3 else "dkd_align (log)",
                baseline="" if number < 3 else "dkd",
                verdict=verdict,
                reason=f"the reason of {number}",
                n=0 if number < 3 else 3,
            )
            for number, verdict in enumerate(verdicts, 1)
        ],
        notes=["Holm is over the 2 tests of this report."],
    )


def _table(experiments: Sequence[Experiment], compare: Compare, query: Mapping[str, str]) -> ResultTable:
    tasks = list(dict.fromkeys(task_of(experiment.dataset).name for experiment in experiments))
    task = TASKS[query.get("task", tasks[0] if tasks else "classification")]
    baseline = query.get("baseline")
    rows = []
    for experiment in (item for item in experiments if task_of(item.dataset) == task):
        one = compare(experiment.id)
        cells = []
        for group in one.groups:
            runs = [run.id for run in experiment.runs if run.label == group.label and run.seed in group.values]
            missing = [
                MissingPair(seed=run.seed, label=run.label, run_id=run.id, state=run.state, reason=run.reason)
                for run in experiment.runs
                if run.label == group.label and run.seed in group.missing
            ]
            better = "better" if group.label == "dkd_align (sample)" else "unclear"
            cells.append(
                TableCell(
                    label=group.label,
                    method=group.method,
                    n=group.n,
                    mean=group.mean,
                    sd=group.sd,
                    verdict=None if group.label == one.baseline else better,
                    run_ids=runs,
                    missing=missing,
                    published=[PublishedValue(source="somebody", method=group.method, value=71.97, repeats=5)],
                )
            )
        rows.append(
            TableRow(
                title=f"{experiment.dataset} {experiment.teacher_model}→{experiment.student_model}",
                dataset=experiment.dataset,
                teacher=experiment.teacher_model or "",
                student=experiment.student_model,
                teacher_top1=one.teacher_top1,
                experiments=[experiment.name],
                seeds=[0, 1, 2],
                teacher_seeds=[0],
                cells=cells,
                commands=["dkd retry run-1"] if any(run.state == "failed" for run in experiment.runs) else [],
            )
        )
    methods = list(dict.fromkeys(cell.label for row in rows for cell in row.cells))
    return ResultTable(
        metric=task.headline,
        title=METRICS[task.headline].title,
        unit="%",
        better="higher",
        task=task.name,
        tasks=tasks,
        epoch="last",
        test="sign_flip",
        baseline=baseline or next(iter(methods), ""),
        methods=methods,
        rows=rows,
        tests=2,
        notes=[f"Bold: better than {baseline or next(iter(methods), 'nothing')}."],
    )


def _published() -> PublishedTable:
    return PublishedTable(
        rows=[
            PublishedRow(
                source="author's table of 2025, one run a cell",
                dataset="cifar100",
                teacher="resnet50",
                student="resnet18",
                values=[
                    PublishedValue(source="author", method="dkd_align", value=62.01, repeats=1),
                    PublishedValue(source="author", method="dkd", value=61.07, repeats=1),
                ],
                method="dkd_align",
                baseline="dkd",
            ),
            PublishedRow(
                source="Zhao et al., CVPR 2022",
                dataset="cifar100",
                teacher="resnet56",
                student="resnet20",
                values=[PublishedValue(source="Zhao", method="dkd", value=71.97, repeats=5, epoch="oracle")],
            ),
        ]
    )
