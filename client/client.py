"""The client of the public interface."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from client.connection import API, Connection, Query, body_of, find_token, find_url, part
from client.errors import BackendUnreachable
from client.experiments import Making
from client.files import Files
from client.models import Metrics, Run, RunPage, RunSummary
from common.home import Home
from core.protocol.access import CreatedToken, Scope, TokenInfo, TokenList, TokenRequest
from core.protocol.activity import Activity
from core.protocol.comparisons import Comparison, EpochChoice, Overview, PaperClaims, PublishedTable, ResultTable
from core.protocol.public import Catalog, ExperimentPage, LogsReply, Preview, TeacherList, WorkerList
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import ExperimentSpec

# The backend sends a comment line now and then; four of them missed means that nobody is there.
_SILENCE_SECONDS = 60.0
_AGAIN_SECONDS = 0.5

TextFormat = Literal["csv", "markdown", "latex"]


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream.

    Attributes:
        id: to go on after it with ``last_event_id``; empty where the backend gave none.
        event: its kind.
        data: its content, as the backend wrote it (JSON).
    """

    id: str
    event: str
    data: str


class Client(Making, Files):
    """Talks to the backend over HTTP. A context manager; safe to use from several threads.

    Every method raises ApiError where the backend refuses, and BackendUnreachable where nothing usable answers; those
    that make or change something also SpecError, before anything is sent, where a field cannot be what is given.
    Requests that may be sent twice are: after a lost connection or a 502, 503 or 504 they are tried again.

    Args:
        url: the backend's address; left out: DKD_API_URL, else the stack that runs on DKD_HOME, else
            http://127.0.0.1:8000.
        token: left out: DKD_API_TOKEN, else the content of the file that DKD_API_TOKEN_FILE names, else, for a backend
            on this machine, the token that its stack has made in DKD_HOME.
        timeout: seconds for each of connect, read and write.
        transport: another way to send, for tests.

    Raises:
        ClientSettingsError: the address or the token file cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = find_url(url)
        found = find_token(token, self.url, variable="DKD_API_TOKEN", local=Home.find().admin_token)
        self._connection = Connection(self.url, found, timeout=timeout, transport=transport)

    def close(self) -> None:
        """Give the connections back."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def ready(self) -> bool:
        """Whether the backend takes requests now. Asked once; never raises."""
        return self._connection.status("/readyz") == 200

    def catalog(self) -> Catalog:
        """The methods, models, data sets and metrics that a spec may name."""
        return self._connection.send("GET", f"{API}/catalog", Catalog, repeatable=True)

    def preview(self, spec: ExperimentSpec | Mapping[str, Any]) -> Preview:
        """What a spec would make, without making it."""
        return self._connection.send("POST", f"{API}/experiments/preview", Preview, body=spec, repeatable=True)

    def experiments(
        self,
        *,
        text: str | None = None,
        state: str | Sequence[str] | None = None,
        tag: str | Sequence[str] | None = None,
        sort: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        **more: str | Sequence[str] | None,
    ) -> ExperimentPage:
        """Experiments, newest first unless sorted otherwise.

        Args:
            text: part of the name.
            tag: one, or several that it must all have.
            sort: created or name, with - in front for the other direction.
            more: method, dataset, model, submitted_by, sweep, created_after, created_before, archived, count.
        """
        kept = {"text": text, "state": _several(state), "tag": _several(tag), "sort": sort, "cursor": cursor}
        query: Query = {**kept, "limit": limit, **more}
        return self._connection.send("GET", f"{API}/experiments", ExperimentPage, query=query, repeatable=True)

    def runs(
        self,
        *,
        state: str | Sequence[str] | None = None,
        experiment: str | None = None,
        method: str | Sequence[str] | None = None,
        tag: str | Sequence[str] | None = None,
        sort: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        **more: str | Sequence[str] | None,
    ) -> RunPage:
        """Runs, newest first unless sorted otherwise.

        Args:
            experiment: id or name.
            sort: created, started, ended, priority or top1, with - in front for the greatest first.
            more: id, teacher, dataset, model, role, text, submitted_by, sweep, created_after, created_before, archived,
                count.
        """
        kept = {"state": _several(state), "experiment": experiment, "method": _several(method), "tag": _several(tag)}
        query: Query = {**kept, "sort": sort, "cursor": cursor, "limit": limit, **more}
        page = self._connection.send("GET", f"{API}/runs", RunPage, query=query, repeatable=True)
        for item in page.items:
            item._client = self
        return page

    def all_runs(self, **kept: Any) -> Iterator[RunSummary]:
        """Every run that ``runs`` finds, page by page."""
        cursor: str | None = None
        while True:
            page = self.runs(cursor=cursor, limit=200, **kept)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def run(self, run_id: str) -> Run:
        """One run, whole."""
        return self._run("GET", f"/{part(run_id)}")

    def _run(self, method: str, path: str, **more: Any) -> Run:
        found = self._connection.send(method, f"{API}/runs{path}", Run, repeatable=True, **more)
        found._client = self
        return found

    def metrics(
        self, run_id: str, *, names: Sequence[str] | None = None, since: int = 0, max_points: int = 2000
    ) -> Metrics:
        """Metrics of a run: those named, or all. With the cursor of an earlier reply as ``since``, only what is new."""
        query = {"names": names, "since": since, "max_points": max_points}
        path = f"{API}/runs/{part(run_id)}/metrics"
        return self._connection.send("GET", path, Metrics, query=query, repeatable=True)

    def logs(self, run_id: str, *, after: int = 0, limit: int = 500, tail: int | None = None) -> LogsReply:
        """Log lines of a run after number ``after``, or its last ``tail`` lines."""
        query = {"after": after, "limit": limit, "tail": tail}
        return self._connection.send("GET", f"{API}/runs/{part(run_id)}/logs", LogsReply, query=query, repeatable=True)

    def events(self, run_id: str, *, last_event_id: str | None = None) -> Iterator[ServerEvent]:
        """What happens to a run, as it happens. Ends when the backend closes the stream.

        Raises BackendUnreachable when the connection breaks; go on from the last event's id.
        """
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        path = f"{API}/runs/{part(run_id)}/events"
        with self._connection.lines(path, headers=headers, silence=_SILENCE_SECONDS) as lines:
            yield from read_server_events(lines)

    def follow(self, run_id: str, *, last_event_id: str | None = None, patience: float = 60.0) -> Iterator[ServerEvent]:
        """``events`` to the run's end over lost connections: it goes on after the last event that was read.

        Raises BackendUnreachable where nothing answers for ``patience`` seconds.
        """
        heard = time.monotonic()
        while True:
            try:
                for event in self.events(run_id, last_event_id=last_event_id):
                    heard = time.monotonic()
                    last_event_id = event.id or last_event_id
                    yield event
                    if event.event == "end":
                        return
            except BackendUnreachable:
                if time.monotonic() - heard > patience:
                    raise
            # The stream was closed before the run's end: a backend that is restarted.
            time.sleep(_AGAIN_SECONDS)

    def cancel(self, run_id: str) -> Run:
        """Cancel a run. Doing it twice changes nothing."""
        return self._run("POST", f"/{part(run_id)}/cancel")

    def retry(self, run_id: str) -> Run:
        """Queue a run again that failed or was cancelled. Doing it twice changes nothing."""
        return self._run("POST", f"/{part(run_id)}/retry")

    def pause(self, run_id: str) -> Run:
        """Pause a run; one that trains writes a checkpoint first. Doing it twice changes nothing."""
        return self._run("POST", f"/{part(run_id)}/pause")

    def resume(self, run_id: str) -> Run:
        """Let a paused run go on. Doing it twice changes nothing."""
        return self._run("POST", f"/{part(run_id)}/resume")

    def prioritise(self, run_id: str, priority: int) -> Run:
        """Change a run's priority (-100 to 100), and its teacher's with it."""
        body = {"priority": priority}
        return self._run("POST", f"/{part(run_id)}/priority", body=body)

    def comparison(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        metric: str = "test/top1",
        which: EpochChoice = "last",
        target_share: float = 0.95,
        target: float | None = None,
        difference: float | None = None,
    ) -> Comparison:
        """The methods of an experiment side by side.

        Args:
            experiment: name or id; several that differ in their seeds alone are read as one.
            baseline: label of the method the others are compared with; left out, the spec's first.
            which: at which epoch; an oracle is shown and never tested.
            target_share: of the teacher's accuracy, that convergence is measured to.
            target: an accuracy in %, instead.
            difference: that one wants to see, in the metric's unit; the reply says how many seeds it would take.
        """
        query = {
            "experiment": experiment,
            "baseline": baseline,
            "metric": metric,
            "which": which,
            "target_share": target_share,
            "target": target,
            "difference": difference,
        }
        return self._connection.send("GET", f"{API}/comparisons", Comparison, query=query, repeatable=True)

    def overview(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        which: EpochChoice = "last",
        groups: Sequence[str] | None = None,
    ) -> Overview:
        """Every metric that the students end with, compared as the accuracy is; ``groups`` as ``["collapse"]``."""
        query = {"experiment": experiment, "baseline": baseline, "which": which, "group": groups}
        return self._connection.send("GET", f"{API}/comparisons/overview", Overview, query=query, repeatable=True)

    def claims(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        target_share: float = 0.95,
        target: float | None = None,
        difference: float | None = None,
    ) -> PaperClaims:
        """The author's five claims: holds, does not hold, or cannot tell."""
        query = {
            "experiment": experiment,
            "baseline": baseline,
            "target_share": target_share,
            "target": target,
            "difference": difference,
        }
        return self._connection.send("GET", f"{API}/comparisons/claims", PaperClaims, query=query, repeatable=True)

    def table(
        self,
        experiments: Sequence[str] = (),
        *,
        tags: Sequence[str] = (),
        dataset: str | None = None,
        teacher: str | None = None,
        student: str | None = None,
        metric: str = "test/top1",
        which: EpochChoice = "last",
        baseline: str | None = None,
        test: Literal["sign_flip", "t"] = "sign_flip",
        seeds: Sequence[int] = (),
    ) -> ResultTable:
        """The paper's table over many experiments.

        Args:
            experiments: names or ids; none: all that the filters keep.
            tags: an experiment needs every one of them.
            test: what decides on bold cells; t assumes normal differences.
            seeds: that every cell should have, to be told of what is missing.
        """
        query = {
            "experiment": experiments,
            "tag": tags,
            "dataset": dataset,
            "teacher": teacher,
            "student": student,
            "metric": metric,
            "which": which,
            "baseline": baseline,
            "test": test,
            "seed": seeds,
        }
        return self._connection.send("GET", f"{API}/comparisons/table", ResultTable, query=query, repeatable=True)

    def published(self) -> PublishedTable:
        """What others have published of such settings."""
        return self._connection.send("GET", f"{API}/comparisons/published", PublishedTable, repeatable=True)

    def comparison_text(
        self, what: Literal["comparison", "overview", "claims", "table"], format: TextFormat, query: Query
    ) -> str:
        """One of the four above as CSV, Markdown or LaTeX; ``query`` as the API has it."""
        path = f"{API}/comparisons" if what == "comparison" else f"{API}/comparisons/{what}"
        return self._connection.text(path, query={**query, "format": format})

    def run_record(self, run_id: str) -> RunRecord:
        """Everything needed to repeat a run."""
        return self._connection.send("GET", f"{API}/exports/runs/{part(run_id)}", RunRecord, repeatable=True)

    def experiment_record(self, experiment: str) -> ExperimentRecord:
        """The records of all runs of an experiment."""
        query = {"experiment": experiment}
        return self._connection.send("GET", f"{API}/exports/experiment", ExperimentRecord, query=query, repeatable=True)

    def experiment_csv(self, experiment: str) -> str:
        """A row a run with the last value of every metric, as CSV."""
        return self._connection.text(f"{API}/exports/experiment", query={"experiment": experiment, "format": "csv"})

    def activity(self, *, hours: float = 24.0) -> Activity:
        """What runs, waits and works now, what has failed in the last ``hours``, and the newest results."""
        return self._connection.send("GET", f"{API}/activity", Activity, query={"hours": hours}, repeatable=True)

    def workers(self) -> WorkerList:
        """Every worker that the backend knows."""
        return self._connection.send("GET", f"{API}/workers", WorkerList, repeatable=True)

    def drain_worker(self, id_or_name: str, *, draining: bool = True) -> WorkerList:
        """Have a worker take no new runs, or let it again; what it has goes on. Doing it twice changes nothing."""
        path = f"{API}/workers/{part(id_or_name)}/drain"
        return self._connection.send("POST", path, WorkerList, body={"draining": draining}, repeatable=True)

    def teachers(self) -> TeacherList:
        """Every teacher, with the number of runs that use it."""
        return self._connection.send("GET", f"{API}/teachers", TeacherList, repeatable=True)

    def create_token(self, name: str, scopes: Sequence[Scope], *, expires_in_days: float | None = None) -> CreatedToken:
        """Make a token; its text is in the answer and nowhere else. For admins. Not repeated."""
        body = body_of(TokenRequest, name=name, scopes=list(scopes), expires_in_days=expires_in_days)
        return self._connection.send("POST", f"{API}/tokens", CreatedToken, body=body)

    def tokens(self) -> TokenList:
        """Every token, without the tokens themselves. For admins."""
        return self._connection.send("GET", f"{API}/tokens", TokenList, repeatable=True)

    def revoke_token(self, token_id: str) -> TokenInfo:
        """Shut a token out. For admins. Doing it twice changes nothing."""
        return self._connection.send("DELETE", f"{API}/tokens/{part(token_id)}", TokenInfo, repeatable=True)


def _several(value: str | Sequence[str] | None) -> Sequence[str] | None:
    return [value] if isinstance(value, str) else value


def read_server_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Events from the lines of a text/event-stream, after the WHATWG's rules: a blank line ends an event."""
    identity, kind = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(id=identity, event=kind or "message", data="\n".join(data))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            identity = value
