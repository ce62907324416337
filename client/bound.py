"""Answers with methods that call the backend, such as ``client.submit(spec).wait()``.

Each class is the plain answer plus a reference to the client's resources. Each method calls one method of
``client.experiments``, ``client.runs`` or ``client.comparisons``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, PrivateAttr

from client import notebook
from client.errors import ClientSettingsError
from client.models import ComparisonResult, Metrics
from client.resources import Comparisons, Experiments, Runs
from core.protocol import public


@dataclass(frozen=True)
class BoundResources:
    """The client's resources that the methods of bound answers call."""

    experiments: Experiments
    runs: Runs
    comparisons: Comparisons


class _Bound(BaseModel):
    _bound_to: BoundResources | None = PrivateAttr(default=None)

    @property
    def _resources(self) -> BoundResources:
        if self._bound_to is None:
            raise ClientSettingsError("this object was not read from a backend, so its methods cannot call one")
        return self._bound_to


class _RunCalls(_Bound):
    if TYPE_CHECKING:
        id: str

    def metrics(self, names: Sequence[str] | None = None, *, max_points: int = 2000) -> Metrics:
        """Alias of ``client.runs.metrics``."""
        return self._resources.runs.metrics(self.id, names=names, max_points=max_points)

    def details(self) -> BoundRun:
        """Alias of ``client.runs.get``."""
        return bind_run(self._resources.runs.get(self.id), self._resources)

    def wait(self, *, timeout: float | None = None, interval: float = 1.0) -> BoundRun:
        """Alias of ``client.runs.wait``."""
        return bind_run(self._resources.runs.wait(self.id, timeout=timeout, interval=interval), self._resources)

    def cancel(self) -> BoundRun:
        """Alias of ``client.runs.cancel``."""
        return bind_run(self._resources.runs.cancel(self.id), self._resources)

    def retry(self) -> BoundRun:
        """Alias of ``client.runs.retry``."""
        return bind_run(self._resources.runs.retry(self.id), self._resources)


class BoundRunSummary(_RunCalls, public.RunSummary):
    """A run in a list, with methods that call the backend."""


class BoundRun(_RunCalls, public.Run):
    """A run with methods that call the backend."""


class BoundRunPage(public.RunPage):
    """A page of runs, each with methods that call the backend."""

    items: list[BoundRunSummary]  # type: ignore[assignment]  # the items have a subclass, and the list is not changed


class BoundExperiment(_Bound, public.Experiment):
    """An experiment and its runs, with methods that call the backend."""

    runs: list[BoundRunSummary]  # type: ignore[assignment]  # the items have a subclass, and the list is not changed

    def refresh(self) -> BoundExperiment:
        """Alias of ``client.experiments.get``."""
        return bind_experiment(self._resources.experiments.get(self.id), self._resources)

    def wait(self, *, progress: bool = False, timeout: float | None = None, interval: float = 1.0) -> BoundExperiment:
        """Alias of ``client.experiments.wait``."""
        experiments = self._resources.experiments
        ended = experiments.wait(self.id, progress=progress, timeout=timeout, interval=interval)
        return bind_experiment(ended, self._resources)

    def cancel(self) -> BoundExperiment:
        """Alias of ``client.experiments.cancel``."""
        return bind_experiment(self._resources.experiments.cancel(self.id), self._resources)

    def watch(self, *, interval: float = 2.0) -> BoundExperiment:
        """Show the progress until every run has ended: a table and curves in a notebook, else bars on the terminal.

        Args:
            interval: Seconds between two requests.

        Returns:
            The experiment at its end.
        """
        if notebook.in_notebook():
            notebook.watch(self.refresh, self._curves_if_possible, interval)
        else:
            self._resources.experiments.watch(self.id, interval=interval)
        return self.refresh()

    def figure(self, metric: str | None = None) -> Any:
        """Return the curves of a metric as a figure of Plotly, which a notebook shows.

        Args:
            metric: The metric; by default the one by which the runs are judged.

        Returns:
            The figure; None if no run has a point yet.

        Raises:
            ClientSettingsError: Plotly is not installed.
        """
        return notebook.curves(self, self._read_metrics, metric)

    def _read_metrics(self, run_id: str, names: list[str]) -> Metrics:
        return self._resources.runs.metrics(run_id, names=names, max_points=notebook.MAX_POINTS)

    def _curves_if_possible(self, experiment: public.Experiment) -> Any:
        try:
            return notebook.curves(experiment, self._read_metrics, None)
        except ClientSettingsError:
            return None

    def _repr_html_(self) -> str:
        return notebook.table(self)

    def comparison(self, **options: Any) -> ComparisonResult:
        """Alias of ``client.comparisons.get``."""
        return self._resources.comparisons.get(self.id, **options)


class CallableRuns(Runs):
    """``client.runs``, which scripts also call as ``client.runs(…)``."""

    _resources: BoundResources

    def __call__(self, **filters: Any) -> BoundRunPage:
        """Alias of ``list`` that returns bound runs."""
        page = self.list(**filters)
        items = [bind_summary(run, self._resources) for run in page.items]
        return BoundRunPage(**{**dict(page), "items": items})

    def iterate_bound(self, **filters: Any) -> Iterator[BoundRunSummary]:
        """Yield the runs of ``iterate`` as bound runs."""
        return (bind_summary(run, self._resources) for run in self.iterate(**filters))


_BoundModel = TypeVar("_BoundModel", BoundRun, BoundRunSummary, BoundExperiment)


def bind_run(run: public.Run, resources: BoundResources) -> BoundRun:
    """Return a run as a bound run."""
    return _bind(BoundRun, run, resources)


def bind_summary(run: public.RunSummary, resources: BoundResources) -> BoundRunSummary:
    """Return a run of a list as a bound run."""
    return _bind(BoundRunSummary, run, resources)


def bind_experiment(experiment: public.Experiment, resources: BoundResources) -> BoundExperiment:
    """Return an experiment as a bound experiment with bound runs."""
    runs = [bind_summary(run, resources) for run in experiment.runs]
    return _bind(BoundExperiment, experiment, resources, runs=runs)


def _bind(kind: type[_BoundModel], answer: BaseModel, resources: BoundResources, **changes: Any) -> _BoundModel:
    # The answer is valid already; validating it again would copy every field.
    bound = kind.model_construct(answer.model_fields_set, **{**dict(answer), **changes})
    bound._bound_to = resources
    return bound
