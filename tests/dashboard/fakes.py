"""A backend in memory, served over HTTP on the loopback address, with the part of the API that the dashboard uses.

It stores experiments with their runs, and ``advance`` trains them: they report plausible metrics.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from core.catalog import METHODS, describe
from core.protocol.activity import Activity, RunningRun
from core.protocol.artifacts import Artifact, ArtifactList, RunUpdates, UploadList
from core.protocol.comparisons import MeasuredMetrics
from core.protocol.public import (
    AttemptInfo,
    Comparison,
    Estimate,
    Experiment,
    ExperimentPage,
    ExperimentSummary,
    LogLine,
    LogsReply,
    MetricsReply,
    MetricValue,
    PlannedRunInfo,
    PlannedTeacher,
    Preview,
    ProblemField,
    Run,
    RunPage,
    RunProgress,
    RunState,
    RunSummary,
    Series,
    StateCounts,
    TeacherList,
    WorkerList,
)
from core.protocol.shares import ShareList
from core.protocol.sweeps import SweepList
from core.specs import ExperimentSpec, SpecError, editable_copy, parse_experiment, warnings_of
from core.specs.labels import without_automatic_labels
from tests.dashboard.fake_comparison import compare
from tests.dashboard.fake_reports import beside_published, ranked, reported, several
from tests.dashboard.fake_server import Refused, Serving
from tests.dashboard.fake_training import STEPS_AN_EPOCH, FakeRun, train_epoch

_DIGITS: dict[str, Any] = {
    "name": "digits-dkd-vs-dkd-align",
    "dataset": "digits",
    "teacher": {"model": "resnet20"},
    "student": {"model": "small_cnn"},
    "methods": [
        "dkd",
        {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}},
        {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}},
    ],
    "seeds": [0, 1, 2],
    "training": {"epochs": 30},
}


class FakeBackend:
    """The state and the responses. ``requests`` lists the requests, and ``sent`` counts the bytes of the responses."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.experiments: dict[str, tuple[str, ExperimentSpec, datetime]] = {}
        self.runs: dict[str, FakeRun] = {}
        self.keys: dict[str, str] = {}
        self.token = ""
        """The only accepted token; any token is accepted if it is empty."""
        self.requests: list[str] = []
        self.sent = 0

    def submit(self, spec: ExperimentSpec, key: str = "") -> str:
        """Create an experiment as the real backend does: teacher first, its students waiting. Return its id."""
        with self.lock:
            if key and key in self.keys:
                return self.keys[key]
            if any(spec.name == known.name for _, known, _ in self.experiments.values()):
                raise Refused(422, "duplicate name", [("name", f"an experiment named {spec.name!r} exists already")])
            number = len(self.experiments) + 1
            identity = f"exp-{number:04d}"
            now = datetime.now(UTC)
            self.experiments[identity] = (identity, spec, now)
            if key:
                self.keys[key] = identity
            teacher = None
            for index, plan in enumerate(spec.plan()):
                run_id = f"run-{number:04d}-{index:03d}"
                run = FakeRun(run_id, plan, spec, identity, now + timedelta(milliseconds=index))
                if plan.spec.role == "teacher":
                    teacher = run_id
                elif METHODS[plan.spec.method.name].needs_teacher:
                    run.teacher, run.state = teacher, "waiting"
                self.runs[run_id] = run
            return identity

    def start(self, run_id: str) -> None:
        run = self.runs[run_id]
        now = datetime.now(UTC)
        run.state, run.started, run.ended, run.reason = "running", run.started or now, None, ""
        number = len(run.attempts) + 1
        run.attempts.append(AttemptInfo(number=number, worker="bench-1", host="bench", device="cpu", started_at=now))
        self.log(run, f"training {run.plan.spec.model.name} on {run.plan.spec.dataset.name}: {run.epochs} epochs")

    def log(self, run: FakeRun, message: str, level: str = "info") -> None:
        number = len(run.lines) + 1
        run.lines.append(
            LogLine(number=number, attempt=len(run.attempts), time=datetime.now(UTC), level=level, message=message)
        )

    def advance(self, run_id: str, epochs: int = 1) -> None:
        """Train further epochs. A run succeeds with its last epoch, and the students of a teacher are then queued."""
        with self.lock:
            run = self.runs[run_id]
            if run.state != "running":
                self.start(run_id)
            for _ in range(epochs):
                if run.done >= run.epochs:
                    break
                run.done += 1
                self.log(run, train_epoch(run))
            if run.done >= run.epochs:
                self.end(run_id, "succeeded")

    def end(self, run_id: str, state: RunState, reason: str = "") -> None:
        with self.lock:
            run = self.runs[run_id]
            run.state, run.reason, run.ended = state, reason, datetime.now(UTC)
            if run.attempts:
                ended = {"ended_at": run.ended, "outcome": state, "reason": reason}
                run.attempts[-1] = run.attempts[-1].model_copy(update=ended)
            if state == "failed":
                self.log(run, reason, "error")
            for student in self.runs.values():
                if student.teacher == run_id and student.state == "waiting" and state == "succeeded":
                    student.state = "queued"

    def tick(self) -> bool:
        """Train one epoch of the next unfinished run; return False if there is none."""
        with self.lock:
            for run in self.runs.values():
                if run.state in ("queued", "running"):
                    self.advance(run.id)
                    return True
        return False

    # Responses

    def summary(self, run: FakeRun) -> RunSummary:
        latest: dict[str, MetricValue] = {}
        for name, step, epoch, _, value in run.points:
            if name in (run.headline, "train/loss"):
                latest[name] = MetricValue(value=value, step=step, epoch=epoch)
        spec = run.plan.spec
        return RunSummary(
            id=run.id,
            label=run.plan.label,
            role=spec.role,
            experiment_id=run.experiment_id,
            experiment=run.experiment.name,
            state=run.state,
            reason=run.reason or ("waits for its teacher" if run.state == "waiting" else ""),
            dataset=spec.dataset.name,
            model=spec.model.name,
            method=spec.method.name,
            seed=spec.seed,
            teacher_run_id=run.teacher,
            attempt=len(run.attempts),
            worker=run.attempts[-1].worker if run.attempts else "",
            step=run.done * STEPS_AN_EPOCH,
            total_steps=run.epochs * STEPS_AN_EPOCH if run.attempts else 0,
            epoch=float(run.done),
            total_epochs=run.epochs,
            headline=run.headline,
            latest=latest,
            test_size=899 if run.attempts else 0,
            created_at=run.created,
            started_at=run.started,
            ended_at=run.ended,
        )

    def activity(self) -> Activity:
        """Return the running runs. Waiting and failed runs are tested with the real backend."""
        now = datetime.now(UTC)
        counts = StateCounts.model_validate(Counter(run.state for run in self.runs.values()))
        running = [RunningRun(run=self.summary(run)) for run in self.runs.values() if run.state == "running"]
        return Activity(
            time=now,
            counts=counts,
            running=running,
            waiting=[],
            waiting_groups=0,
            failed_since=now - timedelta(hours=24),
            failed_runs=counts.failed,
            failed=[],
            failed_groups=0,
            workers=[],
            compared=[],
        )

    def run(self, run_id: str) -> Run:
        run = self._run(run_id)
        return Run(
            **dict(self.summary(run)),
            spec=run.plan.spec.model_dump(mode="json"),
            fingerprint=run.plan.spec.fingerprint(),
            experiments=[run.experiment_id],
            attempts=run.attempts,
            environment={"python": "3.11.2", "torch": "2.14.0", "threads": "2", "precision": "fp32"},
            parameters=5_178,
            train_size=898,
            weights=f"runs/{run_id}/attempt-1/weights.safetensors" if run.state == "succeeded" else "",
            log_tail=[line.message for line in run.lines[-20:]] if run.state == "failed" else [],
        )

    def measured(self, query: Mapping[str, list[str]]) -> MeasuredMetrics:
        """Return the metrics of the students of experiments, or of single runs."""
        wanted = [
            run
            for run in self.runs.values()
            if run.id in query.get("run", ())
            or (run.experiment_id in query.get("experiment", ()) and run.plan.spec.role == "student")
        ]
        return MeasuredMetrics(names=list(dict.fromkeys(name for run in wanted for name, *_ in run.points)))

    def metrics(self, run_id: str, names: list[str], since: int) -> MetricsReply:
        run = self._run(run_id)
        series: dict[str, Series] = {}
        for name, step, epoch, elapsed, value in run.points[since:]:
            if names and name not in names:
                continue
            one = series.setdefault(name, Series(name=name, step=[], epoch=[], elapsed=[], value=[]))
            one.step.append(step)
            one.epoch.append(epoch)
            one.elapsed.append(elapsed)
            one.value.append(value)
        return MetricsReply(run_id=run_id, state=run.state, cursor=len(run.points), series=list(series.values()))

    def news(self, run_id: str, cursor: str, tail: int | None) -> RunUpdates:
        run = self._run(run_id)
        point, line = (int(number) for number in (cursor or "0:0").split(":"))
        summary = self.summary(run).model_dump(include=set(RunProgress.model_fields))
        lines = self.logs(run_id, line, 500, None if cursor else tail).lines
        return RunUpdates(
            run_id=run_id,
            cursor=f"{len(run.points)}:{lines[-1].number if lines else line}",
            state=run.state,
            progress=RunProgress(run_id=run_id, **summary),
            metrics=self.metrics(run_id, [], point),
            lines=lines,
            ended=run.ended is not None,
        )

    def artifacts(self, run_id: str) -> ArtifactList:
        done = self._run(run_id).state == "succeeded"
        weights = Artifact(id="w", attempt=1, name="weights.safetensors", size=20_712)
        return ArtifactList(run_id=run_id, items=[weights] if done else [])

    def logs(
        self, run_id: str, after: int, limit: int, tail: int | None, filters: Mapping[str, list[str]] | None = None
    ) -> LogsReply:
        filters = filters or {}
        search, levels = filters.get("search", [""])[0].lower(), filters.get("level")
        before = int(filters["before"][0]) if "before" in filters else None
        matching = [
            line
            for line in self._run(run_id).lines
            if search in line.message.lower() and (levels is None or line.level in levels)
        ]
        lines = [line for line in matching if line.number > after and (before is None or line.number < before)]
        return LogsReply(run_id=run_id, lines=lines[-tail:] if tail else lines[:limit], total=len(matching))

    def experiment(self, id_or_name: str) -> Experiment:
        for identity, spec, created in self.experiments.values():
            if id_or_name in (identity, spec.name):
                return self._experiment(identity, spec, created)
        raise Refused(404, f"there is no experiment {id_or_name!r}")

    def _experiment(self, identity: str, spec: ExperimentSpec, created: datetime) -> Experiment:
        runs = [run for run in self.runs.values() if run.experiment_id == identity]
        counts: dict[str, int] = {}
        for run in runs:
            counts[run.state] = counts.get(run.state, 0) + 1
        active = any(run.ended is None for run in runs)
        ended = "failed" if counts.get("failed") else "cancelled" if counts.get("cancelled") else "finished"
        return Experiment(
            id=identity,
            name=spec.name,
            state="active" if active else ended,
            dataset=spec.dataset.name,
            teacher_model=spec.teacher.model.name if spec.teacher else None,
            student_model=spec.student.model.name,
            methods=[method.label for method in spec.methods],
            tags=list(spec.tags),
            counts=StateCounts(**counts),
            progress=sum(run.done for run in runs) / sum(run.epochs for run in runs),
            created_at=created,
            spec=spec.model_dump(mode="json"),
            runs=[self.summary(run) for run in runs],
        )

    def comparison(self, id_or_name: str, asked: Mapping[str, str] | None = None) -> Comparison:
        return compare(self.experiment(id_or_name), asked)

    def preview(self, body: Any) -> Preview:
        spec = _parsed(body)
        return Preview(
            spec=spec.model_dump(mode="json"),
            draft=without_automatic_labels(spec.model_dump(mode="json")),
            estimate=Estimate(unknown=len(spec.plan())),
            runs=[
                PlannedRunInfo(
                    label=plan.label, role=plan.spec.role, model=plan.spec.model.name, seed=plan.spec.seed, shared=False
                )
                for plan in spec.plan()
            ],
            warnings=[ProblemField(path=item.path, message=item.message) for item in warnings_of(spec)],
        )

    def preview_clone(self, name: str) -> Preview:
        """Preview a copy, which keeps the existing teacher."""
        spec = self.experiment(name).spec
        preview = self.preview({**spec, "name": f"{name} (2)"})
        run = parse_experiment(spec).teacher_run()
        teacher = run and PlannedTeacher(
            fingerprint=run.fingerprint(),
            model=run.model.name,
            dataset=run.dataset.name,
            seed=run.seed,
            epochs=run.training.epochs,
            run_id="run-0001-000",
            sentence=f"The teacher is run run-0001-000 ({run.model.name}, {run.training.epochs} epochs).",
        )
        return preview.model_copy(update={"draft": editable_copy(preview.spec), "teacher": teacher})

    def retry(self, run_id: str) -> Run:
        run = self._run(run_id)
        if run.state in ("failed", "cancelled"):
            run.state, run.reason, run.ended = "queued", "", None
        return self.run(run_id)

    def _run(self, run_id: str) -> FakeRun:
        if run_id not in self.runs:
            raise Refused(404, f"there is no run {run_id!r}")
        return self.runs[run_id]

    def answer(self, method: str, target: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Return the status and the content of the response."""
        url = urlsplit(target)
        query = parse_qs(url.query)
        one = {name: values[-1] for name, values in query.items()}
        parts = [unquote(part) for part in url.path.removeprefix("/api/v1/").split("/")]
        if url.path == "/readyz":
            return 200, {"status": "ready"}
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "this token is not known")
        with self.lock:
            self.requests.append(f"{method} {url.path}")
            match [method, *parts]:
                case ["GET", "catalog"]:
                    return 200, {**describe(), "experiment_schema": ExperimentSpec.model_json_schema()}
                case ["POST", "experiments"]:
                    return 201, self.experiment(self.submit(_parsed(body), headers.get("Idempotency-Key", "")))
                case ["POST", "experiments", "preview"]:
                    return 200, self.preview(body)
                case ["POST", "experiments", name, "clone", "preview"]:
                    return 200, self.preview_clone(name)
                case ["GET", "activity"]:
                    return 200, self.activity()
                case ["GET", "shares"]:
                    return 200, ShareList(items=[], window_seconds=604_800.0)
                case ["GET", "workers"]:
                    return 200, WorkerList(items=[])
                case ["GET", "teachers"]:
                    return 200, TeacherList(items=[])
                case ["GET", "teachers", "uploads"]:
                    return 200, UploadList(items=[], max_bytes=1 << 30)
                case ["GET", "experiments"]:
                    found = [self._experiment(*item) for item in reversed(self.experiments.values())]
                    fields = set(ExperimentSummary.model_fields)
                    items = [ExperimentSummary(**item.model_dump(include=fields)) for item in found]
                    return 200, ExperimentPage(items=items)
                case ["GET", "experiments", name]:
                    return 200, self.experiment(name)
                case ["GET", "runs"]:
                    return 200, self._page(query, one)
                case ["GET", "runs", run_id]:
                    return 200, self.run(run_id)
                case ["GET", "runs", run_id, "metrics"]:
                    return 200, self.metrics(run_id, query.get("names", []), int(one.get("since", 0)))
                case ["GET", "runs", run_id, "news"]:
                    tail = int(one["tail"]) if "tail" in one else None
                    return 200, self.news(run_id, one.get("cursor", ""), tail)
                case ["GET", "runs", run_id, "artifacts"]:
                    return 200, self.artifacts(run_id)
                case ["GET", "runs", run_id, "logs"]:
                    tail = int(one["tail"]) if "tail" in one else None
                    return 200, self.logs(run_id, int(one.get("after", 0)), int(one.get("limit", 500)), tail, query)
                case ["POST", "runs", run_id, "retry"]:
                    return 200, self.retry(run_id)
                case ["GET", "comparisons"]:
                    several([self.experiment(name) for name in query["experiment"]])
                    return 200, self.comparison(one["experiment"], one)
                case ["GET", "leaderboard"]:
                    return 200, ranked([self.experiment(name) for name in self.experiments], query)
                case ["GET", "sweeps"]:
                    return 200, SweepList(items=[])
                case ["GET", "comparisons", "metrics"]:
                    return 200, self.measured(query)
                case ["GET", "comparisons", "published", "measured"]:
                    named = [self.experiment(name) for name in self.experiments]
                    return 200, beside_published(one, named, self.comparison)
                case ["GET", "comparisons", ("overview" | "claims" | "table" | "published") as what]:
                    named = [self.experiment(name) for name in query.get("experiment", self.experiments)]
                    return 200, reported(what, named, self.comparison, one)
        raise Refused(404, f"nothing at {url.path}")

    def _page(self, query: Mapping[str, list[str]], one: Mapping[str, str]) -> RunPage:
        found = [
            run
            for run in sorted(self.runs.values(), key=lambda run: run.created, reverse=True)
            if ("state" not in query or run.state in query["state"])
            and ("experiment" not in one or one["experiment"] in (run.experiment_id, run.experiment.name))
        ]
        start, limit = int(one.get("cursor", 0)), int(one.get("limit", 50))
        following = str(start + limit) if start + limit < len(found) else None
        items = [self.summary(run) for run in found[start : start + limit]]
        return RunPage(items=items, next_cursor=following, total=len(found))


def _parsed(body: Any) -> ExperimentSpec:
    try:
        return parse_experiment(body)
    except SpecError as error:
        raise Refused(422, "the spec cannot be used", [(item.path, item.message) for item in error.problems]) from None


class FakeServer(Serving[FakeBackend]):
    """Serves a FakeBackend, by default a new one."""

    def __init__(self, backend: FakeBackend | None = None, port: int = 0) -> None:
        super().__init__(backend or FakeBackend(), port)


def digits_spec(**changes: Any) -> ExperimentSpec:
    """Return the demo's spec of ten runs, with changed top-level fields."""
    return parse_experiment(_DIGITS | changes)
