"""``client.comparisons``: methods compared over paired seeds, and tables over many experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from client.connection import API, Query
from client.models import ComparisonResult
from client.resources.base import Resource
from core.protocol.comparisons import EpochChoice, MeasuredMetrics, Overview, PaperClaims
from core.protocol.leaderboards import Leaderboard
from core.protocol.over_images import ComparedOverImages
from core.protocol.predictions import ComparedPredictions, ConfusionMatrix, CorrelationDifference
from core.protocol.result_tables import BesidePublished, PublishedTable, ResultTable

TextFormat = Literal["csv", "markdown", "latex"]
LeaderboardTextFormat = Literal["csv", "markdown", "latex", "html"]
Report = Literal["comparison", "overview", "claims", "table"]

_PATH = f"{API}/comparisons"
_LEADERBOARD = f"{API}/leaderboard"


class Comparisons(Resource):
    """Calls on comparisons.

    In all methods, ``experiment`` is one name or id, or several; several experiments may differ only in their seeds and
    are evaluated as one. ``which`` selects the epoch; values of an oracle are shown but never tested. ``target_share``
    is the share of the teacher's result that counts as convergence; ``target`` is a value of the headline metric to use
    instead.
    """

    def get(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        metric: str | None = None,
        which: EpochChoice = "last",
        target_share: float = 0.95,
        target: float | None = None,
        difference: float | None = None,
        settings: bool = False,
    ) -> ComparisonResult:
        """Return the comparison of an experiment's methods.

        Args:
            experiment: One or several experiments.
            baseline: Label of the method that the others are compared with; by default the spec's first.
            metric: The metric that is compared; by default the headline metric of the task.
            which: The epoch.
            target_share: Share of the teacher's result that counts as convergence.
            target: A value of the headline metric that counts as convergence, instead of ``target_share``.
            difference: A difference of interest, in the metric's unit; the reply contains the number of seeds needed to
                detect it.
            settings: Whether several experiments are settings that are compared with each other; their labels are then
                followed by the names of the experiments.
        """
        query: Query = {
            "experiment": experiment,
            "baseline": baseline,
            "metric": metric,
            "which": which,
            "target_share": target_share,
            "target": target,
            "difference": difference,
            **_settings(settings),
        }
        return self._connection.send("GET", _PATH, ComparisonResult, query=query, idempotent=True)

    def overview(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        which: EpochChoice = "last",
        groups: Sequence[str] | None = None,
        settings: bool = False,
    ) -> Overview:
        """Return the comparison of every metric that the students have measured.

        Args:
            experiment: One or several experiments.
            baseline: Label of the method that the others are compared with; by default the spec's first.
            which: The epoch.
            groups: Groups of metrics, such as ``["collapse"]``; all by default.
            settings: As of ``get``.
        """
        query: Query = {
            "experiment": experiment,
            "baseline": baseline,
            "which": which,
            "group": groups,
            **_settings(settings),
        }
        return self._connection.send("GET", f"{_PATH}/overview", Overview, query=query, idempotent=True)

    def claims(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        target_share: float = 0.95,
        target: float | None = None,
        difference: float | None = None,
    ) -> PaperClaims:
        """Return the verdict on each of the five claims of Decoupled Gradient Knowledge Distillation (2025).

        Args:
            experiment: One or several experiments.
            baseline: Label of the DKD method; by default the first one.
            target_share: Share of the teacher's result that counts as convergence.
            target: A value of the headline metric that counts as convergence, instead of ``target_share``.
            difference: For claim 5, the gain in points that matters; the reply states whether the data exclude it.

        Returns:
            The claims, each with the verdict "holds", "does not hold" or "cannot tell".
        """
        query = {
            "experiment": experiment,
            "baseline": baseline,
            "target_share": target_share,
            "target": target,
            "difference": difference,
        }
        return self._connection.send("GET", f"{_PATH}/claims", PaperClaims, query=query, idempotent=True)

    def predictions(self, experiment: str | Sequence[str], *, baseline: str | None = None) -> ComparedPredictions:
        """Return what the methods predict for the test images: accuracy by class over the seeds, and calibration.

        Args:
            experiment: One or several experiments.
            baseline: Label of the method that the others are compared with; by default the spec's first.
        """
        query = {"experiment": experiment, "baseline": baseline}
        path = f"{_PATH}/predictions"
        return self._connection.send("GET", path, ComparedPredictions, query=query, idempotent=True)

    def confusion(self, experiment: str | Sequence[str], label: str, *, against: str | None = None) -> ConfusionMatrix:
        """Return how often each class is predicted by a method, summed over its seeds.

        Args:
            experiment: One or several experiments.
            label: Label of the method.
            against: Label of the method that it is compared with; by default the teacher.
        """
        query = {"experiment": experiment, "label": label, "against": against}
        path = f"{_PATH}/predictions/confusion"
        return self._connection.send("GET", path, ConfusionMatrix, query=query, idempotent=True)

    def correlations(
        self, experiment: str | Sequence[str], label: str, *, against: str | None = None
    ) -> CorrelationDifference:
        """Return by how much the correlations of a method's logits differ from its reference's; arguments as above."""
        query = {"experiment": experiment, "label": label, "against": against}
        path = f"{_PATH}/predictions/correlations"
        return self._connection.send("GET", path, CorrelationDifference, query=query, idempotent=True)

    def over_images(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        on_progress: Callable[[ComparedOverImages], None] | None = None,
    ) -> ComparedOverImages:
        """Return the differences to the baseline with paired bootstrap intervals over the test images.

        They are for the networks as trained, and say nothing of other seeds. The backend evaluates every run once,
        which takes seconds for each run of a large detection set; the request is repeated until it has.

        Args:
            experiment: One or several experiments.
            baseline: Label of the method that the others are compared with; by default the spec's first.
            on_progress: Called with every reply that is not complete.
        """
        query = {"experiment": experiment, "baseline": baseline}
        while True:
            path = f"{_PATH}/images"
            reply = self._connection.send("GET", path, ComparedOverImages, query=query, idempotent=True)
            if not reply.pending:
                return reply
            if on_progress:
                on_progress(reply)

    def measured(self, experiments: Sequence[str] = (), *, runs: Sequence[str] = ()) -> MeasuredMetrics:
        """Return the names of the metrics that the students of experiments, or single runs, have reported.

        Args:
            experiments: Names or ids.
            runs: Ids.
        """
        query: Query = {"experiment": experiments, "run": runs}
        return self._connection.send("GET", f"{_PATH}/metrics", MeasuredMetrics, query=query, idempotent=True)

    def table(
        self,
        experiments: Sequence[str] = (),
        *,
        tags: Sequence[str] = (),
        dataset: str | None = None,
        teacher: str | None = None,
        student: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        which: EpochChoice = "last",
        baseline: str | None = None,
        test: Literal["sign_flip", "t"] = "sign_flip",
        seeds: Sequence[int] = (),
    ) -> ResultTable:
        """Return a table over many experiments: a row per setting, a column per method.

        Args:
            experiments: Names or ids; by default all experiments that match the filters.
            tags: Tags that an experiment must all have.
            dataset: Name of the data set.
            teacher: Model of the teacher.
            student: Model of the student.
            task: Name of the task; by default the one that is judged by the metric, or that of the first experiment.
            metric: The metric of the cells; by default the headline metric of the task.
            which: The epoch.
            baseline: Label of the column that the others are tested against.
            test: The test that decides which cells are bold; "t" assumes normally distributed differences.
            seeds: Seeds that every cell should have; the reply lists those that are missing.
        """
        query = {
            "experiment": experiments,
            "tag": tags,
            "dataset": dataset,
            "teacher": teacher,
            "student": student,
            "task": task,
            "metric": metric,
            "which": which,
            "baseline": baseline,
            "test": test,
            "seed": seeds,
        }
        return self._connection.send("GET", f"{_PATH}/table", ResultTable, query=query, idempotent=True)

    def leaderboard(
        self,
        experiments: Sequence[str] = (),
        *,
        tags: Sequence[str] = (),
        sweep: str | None = None,
        task: str | None = None,
        baseline: str | None = None,
        without: Sequence[str] = (),
    ) -> Leaderboard:
        """Return methods ranked over settings, by the headline metric after the last epoch.

        Args:
            experiments: Names or ids; by default all experiments that match the filters and are not archived.
            tags: Tags that an experiment must all have.
            sweep: Name of a sweep that an experiment must be of.
            task: Name of the task; by default that of the first experiment.
            baseline: Method that the others are compared with; by default the one of most settings.
            without: Methods that are left out, so that more settings have all of the others.
        """
        query = _leaderboard_query(experiments, tags, sweep, task, baseline, without)
        return self._connection.send("GET", _LEADERBOARD, Leaderboard, query=query, idempotent=True)

    def leaderboard_text(
        self,
        format: LeaderboardTextFormat,
        experiments: Sequence[str] = (),
        *,
        tags: Sequence[str] = (),
        sweep: str | None = None,
        task: str | None = None,
        baseline: str | None = None,
        without: Sequence[str] = (),
    ) -> str:
        """Return a leaderboard as CSV, Markdown, LaTeX, or as one HTML page that opens without a backend.

        Args:
            format: The format.
            experiments: As of ``leaderboard``.
            tags: As of ``leaderboard``.
            sweep: As of ``leaderboard``.
            task: As of ``leaderboard``.
            baseline: As of ``leaderboard``.
            without: As of ``leaderboard``.
        """
        query = _leaderboard_query(experiments, tags, sweep, task, baseline, without)
        page = "leaderboard" if format == "html" else ""
        return self._connection.get_text(_LEADERBOARD, query={**query, "format": format}, page=page)

    def published(self) -> PublishedTable:
        """Return the result tables of published papers, as printed, for comparison with own results."""
        return self._connection.send("GET", f"{_PATH}/published", PublishedTable, idempotent=True)

    def beside_published(
        self,
        *,
        tags: Sequence[str] = (),
        dataset: str | None = None,
        teacher: str | None = None,
        student: str | None = None,
    ) -> BesidePublished:
        """Return published numbers, each with the results measured here for the same networks and the same method.

        Args:
            tags: Tags that an experiment must all have.
            dataset: Name of the data set.
            teacher: Model of the teacher.
            student: Model of the student.
        """
        query = {"tag": tags, "dataset": dataset, "teacher": teacher, "student": student}
        path = f"{_PATH}/published/measured"
        return self._connection.send("GET", path, BesidePublished, query=query, idempotent=True)

    def text(self, report: Report, format: TextFormat, query: Query) -> str:
        """Return a report as CSV, Markdown or LaTeX.

        Args:
            report: The report, named as the methods of this class; "comparison" is ``get``.
            format: The format.
            query: Query parameters of the report's route.
        """
        path = _PATH if report == "comparison" else f"{_PATH}/{report}"
        return self._connection.get_text(path, query={**query, "format": format})


def _leaderboard_query(
    experiments: Sequence[str],
    tags: Sequence[str],
    sweep: str | None,
    task: str | None,
    baseline: str | None,
    without: Sequence[str],
) -> dict[str, Sequence[str] | str | None]:
    return {
        "experiment": experiments,
        "tag": tags,
        "sweep": sweep,
        "task": task,
        "baseline": baseline,
        "without": without,
    }


def _settings(settings: bool) -> dict[str, str]:
    """Return the query parameter, which is left out where it is the default: an older backend does not know it."""
    return {"settings": "true"} if settings else {}
