"""``client.experiments`` creates, finds, changes and deletes experiments."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from client.connection import API, Query, build_body, path_segment
from client.resources.base import Deadline, Resource, as_sequence, items_of_pages
from client.resources.workers import Workers
from core.protocol.public import Experiment, ExperimentPage, ExperimentSummary, Preview, TimeLeft
from core.protocol.records import ExperimentRecord
from core.protocol.submissions import CloneRequest, ExperimentEdit, SubmittedExperiments, SweepPreview
from core.specs import ExperimentSpec, SweepSpec

if TYPE_CHECKING:
    from rich.console import Console

    from client.progress import Snapshot

_PATH = f"{API}/experiments"


class Experiments(Resource):
    """Calls on experiments.

    Calls that change something check their fields and raise SpecError before a request is sent.
    """

    def list(
        self,
        *,
        text: str | None = None,
        state: str | Sequence[str] | None = None,
        tag: str | Sequence[str] | None = None,
        sort: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        **filters: str | Sequence[str] | None,
    ) -> ExperimentPage:
        """Return a page of experiments, newest first by default.

        Args:
            text: Part of the name.
            state: One or several of active, finished, failed, cancelled.
            tag: One tag, or several that an experiment must all have.
            sort: Created or name, with a leading - for descending order.
            cursor: ``next_cursor`` of the previous page.
            limit: Size of the page.
            filters: Method, dataset, model, submitted_by, sweep, project, parent, created_after, created_before,
                archived, count.
        """
        query: Query = {
            "text": text,
            "state": as_sequence(state),
            "tag": as_sequence(tag),
            "sort": sort,
            "cursor": cursor,
            "limit": limit,
            **filters,
        }
        return self._connection.send("GET", _PATH, ExperimentPage, query=query, idempotent=True)

    def iterate(self, **filters: Any) -> Iterator[ExperimentSummary]:
        """Yield every experiment that ``list`` finds with these filters, page by page."""
        return items_of_pages(self.list, **filters)

    def __call__(self, **filters: Any) -> ExperimentPage:
        """Alias of ``list``, for scripts that call ``client.experiments(…)``."""
        return self.list(**filters)

    def get(self, id_or_name: str) -> Experiment:
        """Return one experiment with its runs."""
        return self._send("GET", f"/{path_segment(id_or_name)}", idempotent=True)

    def create(
        self,
        spec: ExperimentSpec | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        parent: str | None = None,
        project: str | None = None,
    ) -> Experiment:
        """Create an experiment and queue its runs.

        Args:
            spec: The experiment's spec.
            idempotency_key: Requests with the same key create only one experiment. By default each call has a new key.
            parent: Id or name of the experiment that it was copied from.
            project: Name of its project; by default the default project, or the only one where the caller may submit.
        """
        headers, query = _key_header(idempotency_key), {"parent": parent, "project": project}
        return self._send("POST", "", body=spec, headers=headers, query=query, idempotent=True)

    def create_many(
        self,
        specs: Sequence[ExperimentSpec | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        project: str | None = None,
    ) -> SubmittedExperiments:
        """Create up to 1,000 experiments in one request: all of them, or none."""
        spec_data = [spec.model_dump(mode="json") if isinstance(spec, ExperimentSpec) else dict(spec) for spec in specs]
        body = {"experiments": spec_data}
        headers = _key_header(idempotency_key)
        path, query = f"{_PATH}/bulk", {"project": project}
        return self._connection.send(
            "POST", path, SubmittedExperiments, body=body, headers=headers, query=query, idempotent=True
        )

    def preview(self, spec: ExperimentSpec | Mapping[str, Any]) -> Preview:
        """Return the runs that a spec would create, without creating them."""
        return self._connection.send("POST", f"{_PATH}/preview", Preview, body=spec, idempotent=True)

    def create_sweep(
        self,
        sweep: SweepSpec | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        project: str | None = None,
    ) -> SubmittedExperiments:
        """Create the experiments of a sweep: all of them, or none."""
        headers = _key_header(idempotency_key)
        path, query = f"{API}/sweeps", {"project": project}
        return self._connection.send(
            "POST", path, SubmittedExperiments, body=sweep, headers=headers, query=query, idempotent=True
        )

    def preview_sweep(self, sweep: SweepSpec | Mapping[str, Any]) -> SweepPreview:
        """Return the experiments that a sweep would create, without creating them."""
        return self._connection.send("POST", f"{API}/sweeps/preview", SweepPreview, body=sweep, idempotent=True)

    def clone(
        self,
        id_or_name: str,
        *,
        name: str | None = None,
        changes: Mapping[str, Any] | None = None,
        project: str | None = None,
    ) -> Experiment:
        """Create an experiment from another one with some fields changed. The request is not repeated.

        The clone uses the same teacher unless a field of ``teacher`` changes. Automatic labels are derived again from
        the changed methods.

        Args:
            id_or_name: The experiment to clone.
            name: Name of the clone; by default the old name with a number.
            changes: New values by the path of their field, such as ``{"training.epochs": 6}``.
            project: Name of the clone's project; by default that of the original.
        """
        body = build_body(CloneRequest, name=name, changes=dict(changes or {}))
        return self._send("POST", f"/{path_segment(id_or_name)}/clone", body=body, query={"project": project})

    def preview_clone(
        self, id_or_name: str, *, name: str | None = None, changes: Mapping[str, Any] | None = None
    ) -> Preview:
        """Return the runs that ``clone`` would create, without creating them.

        To change a spec in Python, start from the ``draft`` of the reply instead of an experiment's ``spec``: with the
        draft the teacher stays the same, and automatic labels are derived from the methods.
        """
        path = f"{_PATH}/{path_segment(id_or_name)}/clone/preview"
        body = build_body(CloneRequest, name=name, changes=dict(changes or {}))
        return self._connection.send("POST", path, Preview, body=body, idempotent=True)

    def wait(
        self,
        id_or_name: str,
        *,
        progress: bool = False,
        timeout: float | None = None,
        interval: float = 1.0,
    ) -> Experiment:
        """Wait until every run has ended.

        Args:
            id_or_name: The experiment.
            progress: Show the progress on the terminal.
            timeout: Seconds; None for no limit.
            interval: Seconds between two requests.

        Returns:
            The experiment at its end; its ``state`` is "finished", "failed" or "cancelled".

        Raises:
            TimeoutError: The experiment has not ended in time; its runs continue.
        """
        deadline = Deadline(timeout)
        experiment = self.get(id_or_name)
        message = f"{experiment.name} has not ended yet"
        if progress:
            self.watch(experiment.id, tick=lambda: deadline.check(message))
            return self.get(experiment.id)
        while experiment.state == "active":
            deadline.sleep(interval, message)
            experiment = self.get(experiment.id)
        return experiment

    def watch(
        self,
        id_or_name: str,
        console: Console | None = None,
        *,
        tick: Callable[[], None] | None = None,
        interval: float = 1.0,
    ) -> Snapshot:
        """Show the progress of an experiment on a terminal until every run has ended.

        Args:
            id_or_name: The experiment.
            console: Where the progress is shown; stdout by default.
            tick: Called several times a second; if it raises an exception, watching ends.
            interval: Seconds between two requests.

        Returns:
            The state at the end.
        """
        # Imported here: scripts that show nothing need no terminal library.
        from client.progress import Snapshot, watch
        from client.rendering.tables import console_for

        return watch(
            lambda: Snapshot.of_experiment(self.get(id_or_name)),
            console or console_for(),
            any_worker_online=Workers(self._connection).any_online,
            tick=tick,
            interval=interval,
        )

    def cancel(self, id_or_name: str) -> Experiment:
        """Cancel every run of an experiment that no other experiment needs. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(id_or_name)}/cancel", idempotent=True)

    def pause(self, id_or_name: str) -> Experiment:
        """Pause every run of an experiment that has not ended. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(id_or_name)}/pause", idempotent=True)

    def resume(self, id_or_name: str) -> Experiment:
        """Resume every paused run of an experiment. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(id_or_name)}/resume", idempotent=True)

    def set_priority(self, id_or_name: str, priority: int) -> Experiment:
        """Set the priority (-100 to 100) of every run of an experiment that has not ended."""
        path = f"/{path_segment(id_or_name)}/priority"
        return self._send("POST", path, body={"priority": priority}, idempotent=True)

    def update(
        self,
        id_or_name: str,
        *,
        tags: Sequence[str] | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
        notes: str | None = None,
        parent: str | None = None,
        project: str | None = None,
    ) -> Experiment:
        """Replace an experiment's tags or notes, or add and remove tags. Fields that are not given stay unchanged.

        ``parent`` is the id or the name of the experiment that it was copied from; an empty text removes it. With
        ``project``, the experiment is moved to that project.
        """
        change = build_body(
            ExperimentEdit,
            tags=None if tags is None else [*tags],
            add_tags=[*add_tags],
            remove_tags=[*remove_tags],
            notes=notes,
            parent=parent,
            project=project,
        )
        body = change.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return self._send("PATCH", f"/{path_segment(id_or_name)}", body=body, idempotent=True)

    def time_left(self, id_or_name: str) -> TimeLeft:
        """Return an estimate of the time until every run of an experiment has ended."""
        query = {"experiment": id_or_name}
        return self._connection.send("GET", f"{API}/time-left", TimeLeft, query=query, idempotent=True)

    def archive(self, id_or_name: str, *, archived: bool = True) -> Experiment:
        """Hide an experiment from lists, or show it again. Repeating the call changes nothing."""
        action = "archive" if archived else "unarchive"
        return self._send("POST", f"/{path_segment(id_or_name)}/{action}", idempotent=True)

    def delete(self, id_or_name: str) -> None:
        """Delete an experiment with its runs and their files. The backend answers 409 if a run has not ended."""
        self._connection.send_empty("DELETE", f"{_PATH}/{path_segment(id_or_name)}")

    def record(self, id_or_name: str) -> ExperimentRecord:
        """Return the record that is needed to repeat the runs of an experiment."""
        query = {"experiment": id_or_name}
        return self._connection.send("GET", f"{API}/exports/experiment", ExperimentRecord, query=query, idempotent=True)

    def csv(self, id_or_name: str) -> str:
        """Return a CSV table with a row per run and the last value of every metric."""
        return self._connection.get_text(f"{API}/exports/experiment", query={"experiment": id_or_name, "format": "csv"})

    def _send(self, method: str, path: str, **options: Any) -> Experiment:
        return self._connection.send(method, f"{_PATH}{path}", Experiment, **options)


def _key_header(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid.uuid4())}
