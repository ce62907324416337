"""The part of the client that makes, changes and deletes experiments."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from client.connection import API, Connection, body_of, part
from client.models import Experiment
from core.protocol.public import Preview
from core.protocol.submissions import CloneRequest, ExperimentEdit, SubmittedExperiments, SweepPreview
from core.specs import ExperimentSpec, SweepSpec


class Making:
    """Mixed into ``Client``."""

    _connection: Connection

    def _experiment(self, method: str, path: str, **more: Any) -> Experiment:
        found = self._connection.send(method, f"{API}/experiments{path}", Experiment, **more)
        return found.attached(self)  # type: ignore[arg-type]  # it is a Client: nothing else has this mixed in

    def submit(self, spec: ExperimentSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> Experiment:
        """Make an experiment and queue its runs.

        Args:
            idempotency_key: the same key makes one experiment however often it is sent; left out, a fresh one.
        """
        return self._experiment("POST", "", body=spec, headers=_key(idempotency_key), repeatable=True)

    def submit_many(
        self, specs: Sequence[ExperimentSpec | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> SubmittedExperiments:
        """Make up to 1,000 experiments in one request: all of them, or none."""
        plain = [spec.model_dump(mode="json") if isinstance(spec, ExperimentSpec) else dict(spec) for spec in specs]
        path = f"{API}/experiments/bulk"
        body = {"experiments": plain}
        return self._connection.send(
            "POST", path, SubmittedExperiments, body=body, headers=_key(idempotency_key), repeatable=True
        )

    def sweep(
        self, sweep: SweepSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> SubmittedExperiments:
        """Make the experiments of a sweep: all of them, or none."""
        return self._connection.send(
            "POST", f"{API}/sweeps", SubmittedExperiments, body=sweep, headers=_key(idempotency_key), repeatable=True
        )

    def preview_sweep(self, sweep: SweepSpec | Mapping[str, Any]) -> SweepPreview:
        """What a sweep would make, without making it."""
        return self._connection.send("POST", f"{API}/sweeps/preview", SweepPreview, body=sweep, repeatable=True)

    def clone(
        self, id_or_name: str, *, name: str | None = None, changes: Mapping[str, Any] | None = None
    ) -> Experiment:
        """Submit an experiment again with fields changed, named by their paths. Repeated only where it has a name.

        Its teacher stays the one that it is unless ``teacher`` changes; labels that nobody typed follow the methods.
        """
        body = body_of(CloneRequest, name=name, changes=dict(changes or {}))
        return self._experiment("POST", f"/{part(id_or_name)}/clone", body=body)

    def preview_clone(
        self, id_or_name: str, *, name: str | None = None, changes: Mapping[str, Any] | None = None
    ) -> Preview:
        """What ``clone`` would make, without making it.

        To change a spec in Python begin with the ``draft`` of the answer, not with an experiment's ``spec``: the
        draft's teacher stays the same, and its labels follow the methods.
        """
        path = f"{API}/experiments/{part(id_or_name)}/clone/preview"
        body = body_of(CloneRequest, name=name, changes=dict(changes or {}))
        return self._connection.send("POST", path, Preview, body=body, repeatable=True)

    def experiment(self, id_or_name: str) -> Experiment:
        """One experiment with its runs."""
        return self._experiment("GET", f"/{part(id_or_name)}", repeatable=True)

    def cancel_experiment(self, id_or_name: str) -> Experiment:
        """Cancel every run of an experiment that nothing else needs. Doing it twice changes nothing."""
        return self._experiment("POST", f"/{part(id_or_name)}/cancel", repeatable=True)

    def pause_experiment(self, id_or_name: str) -> Experiment:
        """Pause every run of an experiment that has not ended. Doing it twice changes nothing."""
        return self._experiment("POST", f"/{part(id_or_name)}/pause", repeatable=True)

    def resume_experiment(self, id_or_name: str) -> Experiment:
        """Let every paused run of an experiment go on. Doing it twice changes nothing."""
        return self._experiment("POST", f"/{part(id_or_name)}/resume", repeatable=True)

    def prioritise_experiment(self, id_or_name: str, priority: int) -> Experiment:
        """Change the priority (-100 to 100) of every run of an experiment that has not ended."""
        path = f"/{part(id_or_name)}/priority"
        return self._experiment("POST", path, body={"priority": priority}, repeatable=True)

    def change_experiment(
        self,
        id_or_name: str,
        *,
        tags: Sequence[str] | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
        notes: str | None = None,
    ) -> Experiment:
        """Set an experiment's tags or notes, or add and remove some of its tags; what is left out stays."""
        body = body_of(
            ExperimentEdit,
            tags=None if tags is None else list(tags),
            add_tags=list(add_tags),
            remove_tags=list(remove_tags),
            notes=notes,
        )
        sent = body.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return self._experiment("PATCH", f"/{part(id_or_name)}", body=sent, repeatable=True)

    def archive_experiment(self, id_or_name: str, *, archived: bool = True) -> Experiment:
        """Leave an experiment out of lists, or show it again. Doing it twice changes nothing."""
        verb = "archive" if archived else "unarchive"
        return self._experiment("POST", f"/{part(id_or_name)}/{verb}", repeatable=True)

    def delete_experiment(self, id_or_name: str) -> None:
        """Delete an experiment with its runs and their files. Refused with 409 while one of them lives."""
        self._connection.call("DELETE", f"{API}/experiments/{part(id_or_name)}")

    def delete_run(self, run_id: str) -> None:
        """Delete a run with its files. Refused with 409 while it lives, and for a teacher in use."""
        self._connection.call("DELETE", f"{API}/runs/{part(run_id)}")


def _key(given: str | None) -> dict[str, str]:
    return {"Idempotency-Key": given or str(uuid.uuid4())}
