"""The client of the public API."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from client.address import find_token, find_url
from client.bound import BoundExperiment, BoundResources, BoundRun, CallableRuns, bind_experiment, bind_run
from client.connection import API, Connection
from client.resources import (
    AccountCalls,
    Audit,
    Comparisons,
    Experiments,
    Layouts,
    People,
    Projects,
    Sessions,
    Shares,
    Sweeps,
    Teachers,
    Tokens,
    Workers,
)
from common.home import Home
from core.protocol.access import TokenEnd
from core.protocol.activity import Activity
from core.protocol.public import Catalog
from core.specs import ExperimentSpec


class Client:
    """Calls the backend over HTTP. A context manager; safe to use from several threads.

    The calls are grouped by resource, and return plain data::

        with Client() as client:
            experiment = client.experiments.create(spec)
            experiment = client.experiments.wait(experiment.id, progress=True)
            print(client.comparisons.get(experiment.id).paired[0].sentence)

    Every call raises ApiError if the backend refuses it, and BackendUnreachable if it gets no usable response. Requests
    that may be sent twice are repeated after a lost connection or a status 502, 503 or 504, and every request after a
    status 429, as the backend asks. The token is read again from its file if it has been rotated.

    Attributes:
        url: The backend's address.
        experiments: Creates, finds, changes and deletes experiments.
        runs: Finds, reads, changes and deletes runs and their files.
        comparisons: Compares methods over paired seeds, and returns tables over many experiments.
        sweeps: Reads sweeps with their results.
        layouts: Stores, reads and deletes layouts of Compare's board.
        workers: Lists workers and sets whether they accept runs.
        shares: Lists who shares the queue, and sets their weights, for admins.
        teachers: Lists trained teachers, and uploads weights of teachers.
        tokens: Creates, lists, rotates and revokes access tokens, for admins.
        projects: Lists projects, and gives people roles in them.
        people: Creates, lists and changes people, for admins of the lab.
        sessions: Signs people in, and lists and ends the own sessions.
        account: Reads the own account, and changes the own password.
        audit: Reads the audit log, for admins of the lab.

    Args:
        url: The backend's address; by default DKD_API_URL, else the stack that runs on DKD_HOME, else
            http://127.0.0.1:8000.
        token: The bearer token; by default DKD_API_TOKEN, else the content of the file that DKD_API_TOKEN_FILE names,
            else the session of ``dkd login`` at this backend, else, for a backend on this machine, the token that its
            stack has written to DKD_HOME.
        timeout: Time limit of connecting, of reading and of writing, in seconds each.
        project: Name of the only project that the calls see; None for all that the token permits.
        use_login: Whether the session of ``dkd login`` is used; false for services.
        patient: Whether a request that the backend refuses with status 429 waits and is repeated.
        forwarded_for: Address of the client for which a server in between sends the requests.
        transport: Replaces the network in tests.

    Raises:
        ClientSettingsError: The address or the token file cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 10.0,
        project: str | None = None,
        use_login: bool = True,
        patient: bool = True,
        forwarded_for: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = find_url(url)
        home = Home.find()
        self._connection = Connection(
            self.url,
            lambda: find_token(
                token, self.url, variable="DKD_API_TOKEN", local=home.admin_token, home=home if use_login else None
            ),
            timeout=timeout,
            patient=patient,
            project=project,
            forwarded_for=forwarded_for,
            transport=transport,
        )
        self.experiments = Experiments(self._connection)
        self.runs = CallableRuns(self._connection)
        self.comparisons = Comparisons(self._connection)
        self.sweeps = Sweeps(self._connection)
        self.layouts = Layouts(self._connection)
        self.workers = Workers(self._connection)
        self.shares = Shares(self._connection)
        self.teachers = Teachers(self._connection)
        self.tokens = Tokens(self._connection)
        self.projects = Projects(self._connection)
        self.people = People(self._connection)
        self.sessions = Sessions(self._connection)
        self.account = AccountCalls(self._connection)
        self.audit = Audit(self._connection)
        self._resources = self.runs._resources = BoundResources(self.experiments, self.runs, self.comparisons)
        self._define_aliases()

    def close(self) -> None:
        """Close the pooled connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def token_end(self) -> TokenEnd | None:
        """The end of this client's token, if the newest response announced that it ends soon."""
        return self._connection.token_end

    def ready(self) -> bool:
        """Return whether the backend accepts requests now, by one request. Never raises."""
        return self._connection.probe_status("/readyz") == 200

    def catalog(self) -> Catalog:
        """Return the methods, models, data sets and metrics that a spec may name."""
        return self._connection.send("GET", f"{API}/catalog", Catalog, idempotent=True)

    def activity(self, *, hours: float = 24.0) -> Activity:
        """Return running and waiting runs, workers, the newest results, and failures of the last ``hours``."""
        return self._connection.send("GET", f"{API}/activity", Activity, query={"hours": hours}, idempotent=True)

    # Aliases for scripts: the same calls without the resource. Experiments and runs are returned as bound objects.

    def submit(
        self,
        spec: ExperimentSpec | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        parent: str | None = None,
        project: str | None = None,
    ) -> BoundExperiment:
        """Alias of ``experiments.create``."""
        created = self.experiments.create(spec, idempotency_key=idempotency_key, parent=parent, project=project)
        return self._bind(created)

    def experiment(self, id_or_name: str) -> BoundExperiment:
        """Alias of ``experiments.get``."""
        return self._bind(self.experiments.get(id_or_name))

    def clone(
        self, id_or_name: str, *, name: str | None = None, changes: Mapping[str, Any] | None = None
    ) -> BoundExperiment:
        """Alias of ``experiments.clone``."""
        return self._bind(self.experiments.clone(id_or_name, name=name, changes=changes))

    def run(self, run_id: str) -> BoundRun:
        """Alias of ``runs.get``."""
        return bind_run(self.runs.get(run_id), self._resources)

    def cancel(self, run_id: str) -> BoundRun:
        """Alias of ``runs.cancel``."""
        return bind_run(self.runs.cancel(run_id), self._resources)

    def retry(self, run_id: str) -> BoundRun:
        """Alias of ``runs.retry``."""
        return bind_run(self.runs.retry(run_id), self._resources)

    def _bind(self, experiment: Any) -> BoundExperiment:
        return bind_experiment(experiment, self._resources)

    def _define_aliases(self) -> None:
        """Define the aliases that return plain data."""
        self.submit_many = self.experiments.create_many
        self.sweep = self.experiments.create_sweep
        self.preview = self.experiments.preview
        self.preview_sweep = self.experiments.preview_sweep
        self.preview_clone = self.experiments.preview_clone
        self.cancel_experiment = self.experiments.cancel
        self.pause_experiment = self.experiments.pause
        self.resume_experiment = self.experiments.resume
        self.prioritise_experiment = self.experiments.set_priority
        self.change_experiment = self.experiments.update
        self.archive_experiment = self.experiments.archive
        self.delete_experiment = self.experiments.delete
        self.experiment_record = self.experiments.record
        self.experiment_csv = self.experiments.csv
        self.all_runs = self.runs.iterate_bound
        self.metrics = self.runs.metrics
        self.logs = self.runs.logs
        self.news = self.runs.news
        self.events = self.runs.events
        self.follow = self.runs.follow
        self.pause = self.runs.pause
        self.resume = self.runs.resume
        self.prioritise = self.runs.set_priority
        self.delete_run = self.runs.delete
        self.artifacts = self.runs.artifacts
        self.download = self.runs.download
        self.run_record = self.runs.record
        self.comparison = self.comparisons.get
        self.overview = self.comparisons.overview
        self.claims = self.comparisons.claims
        self.table = self.comparisons.table
        self.published = self.comparisons.published
        self.beside_published = self.comparisons.beside_published
        self.comparison_text = self.comparisons.text
        self.leaderboard = self.comparisons.leaderboard
        self.leaderboard_text = self.comparisons.leaderboard_text
        self.drain_worker = self.workers.drain
        self.upload_teacher = self.teachers.upload
        self.uploads = self.teachers.uploads
        self.delete_upload = self.teachers.delete_upload
        self.create_token = self.tokens.create
        self.revoke_token = self.tokens.revoke
