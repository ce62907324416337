"""The client of the public interface."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from client.connection import API, Connection, Query, find_token, find_url
from core.spec import ExperimentSpec
from core.wire.access import Scope, TokenInfo, TokenList, TokenMade, TokenRequest
from core.wire.comparisons import Claims, Comparison, Overview, Table, Which
from core.wire.local import Home
from core.wire.public import (
    Catalog,
    Experiment,
    ExperimentPage,
    LogsReply,
    MetricsReply,
    Preview,
    Run,
    RunPage,
    TeacherList,
    WorkerList,
)
from core.wire.records import ExperimentRecord, RunRecord

# The backend sends a comment line now and then; four of them missed means that nobody is there.
_SILENCE_SECONDS = 60.0

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


class Client:
    """Talks to the backend over HTTP. A context manager; safe to use from several threads.

    Every method raises ApiError where the backend refuses, and BackendUnreachable where nothing usable answers.
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

    def submit(self, spec: ExperimentSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> Experiment:
        """Make an experiment and queue its runs.

        Args:
            idempotency_key: the same key makes one experiment however often it is sent; left out, a fresh one.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._connection.send(
            "POST", f"{API}/experiments", Experiment, body=spec, headers=headers, repeatable=True
        )

    def preview(self, spec: ExperimentSpec | Mapping[str, Any]) -> Preview:
        """What a spec would make, without making it."""
        return self._connection.send("POST", f"{API}/experiments/preview", Preview, body=spec, repeatable=True)

    def experiments(self, *, cursor: str | None = None, limit: int = 50, text: str | None = None) -> ExperimentPage:
        """Experiments, newest first; ``text`` keeps those whose name contains it."""
        query = {"cursor": cursor, "limit": limit, "text": text}
        return self._connection.send("GET", f"{API}/experiments", ExperimentPage, query=query, repeatable=True)

    def experiment(self, id_or_name: str) -> Experiment:
        """One experiment with its runs."""
        return self._connection.send("GET", f"{API}/experiments/{_part(id_or_name)}", Experiment, repeatable=True)

    def cancel_experiment(self, id_or_name: str) -> Experiment:
        """Cancel every run of an experiment that nothing else needs. Doing it twice changes nothing."""
        path = f"{API}/experiments/{_part(id_or_name)}/cancel"
        return self._connection.send("POST", path, Experiment, repeatable=True)

    def pause_experiment(self, id_or_name: str) -> Experiment:
        """Pause every run of an experiment that has not ended. Doing it twice changes nothing."""
        path = f"{API}/experiments/{_part(id_or_name)}/pause"
        return self._connection.send("POST", path, Experiment, repeatable=True)

    def resume_experiment(self, id_or_name: str) -> Experiment:
        """Let every paused run of an experiment go on. Doing it twice changes nothing."""
        path = f"{API}/experiments/{_part(id_or_name)}/resume"
        return self._connection.send("POST", path, Experiment, repeatable=True)

    def prioritise_experiment(self, id_or_name: str, priority: int) -> Experiment:
        """Change the priority (-100 to 100) of every run of an experiment that has not ended."""
        path = f"{API}/experiments/{_part(id_or_name)}/priority"
        body = {"priority": priority}
        return self._connection.send("POST", path, Experiment, body=body, repeatable=True)

    def runs(
        self,
        *,
        state: str | Sequence[str] | None = None,
        experiment: str | None = None,
        method: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> RunPage:
        """Runs, newest first, kept by state (one or several), experiment (id or name) and method."""
        states = [state] if isinstance(state, str) else state
        query = {"state": states, "experiment": experiment, "method": method, "cursor": cursor, "limit": limit}
        return self._connection.send("GET", f"{API}/runs", RunPage, query=query, repeatable=True)

    def run(self, run_id: str) -> Run:
        """One run, whole."""
        return self._connection.send("GET", f"{API}/runs/{_part(run_id)}", Run, repeatable=True)

    def metrics(
        self, run_id: str, *, names: Sequence[str] | None = None, since: int = 0, max_points: int = 2000
    ) -> MetricsReply:
        """Metrics of a run: those named, or all. With the cursor of an earlier reply as ``since``, only what is new."""
        query = {"names": names, "since": since, "max_points": max_points}
        path = f"{API}/runs/{_part(run_id)}/metrics"
        return self._connection.send("GET", path, MetricsReply, query=query, repeatable=True)

    def logs(self, run_id: str, *, after: int = 0, limit: int = 500, tail: int | None = None) -> LogsReply:
        """Log lines of a run after number ``after``, or its last ``tail`` lines."""
        query = {"after": after, "limit": limit, "tail": tail}
        return self._connection.send("GET", f"{API}/runs/{_part(run_id)}/logs", LogsReply, query=query, repeatable=True)

    def events(self, run_id: str, *, last_event_id: str | None = None) -> Iterator[ServerEvent]:
        """What happens to a run, as it happens. Ends when the backend closes the stream.

        Raises BackendUnreachable when the connection breaks; go on from the last event's id.
        """
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        path = f"{API}/runs/{_part(run_id)}/events"
        with self._connection.lines(path, headers=headers, silence=_SILENCE_SECONDS) as lines:
            yield from read_server_events(lines)

    def cancel(self, run_id: str) -> Run:
        """Cancel a run. Doing it twice changes nothing."""
        return self._connection.send("POST", f"{API}/runs/{_part(run_id)}/cancel", Run, repeatable=True)

    def retry(self, run_id: str) -> Run:
        """Queue a run again that failed or was cancelled. Doing it twice changes nothing."""
        return self._connection.send("POST", f"{API}/runs/{_part(run_id)}/retry", Run, repeatable=True)

    def pause(self, run_id: str) -> Run:
        """Pause a run; one that trains writes a checkpoint first. Doing it twice changes nothing."""
        return self._connection.send("POST", f"{API}/runs/{_part(run_id)}/pause", Run, repeatable=True)

    def resume(self, run_id: str) -> Run:
        """Let a paused run go on. Doing it twice changes nothing."""
        return self._connection.send("POST", f"{API}/runs/{_part(run_id)}/resume", Run, repeatable=True)

    def prioritise(self, run_id: str, priority: int) -> Run:
        """Change a run's priority (-100 to 100), and its teacher's with it."""
        body = {"priority": priority}
        return self._connection.send("POST", f"{API}/runs/{_part(run_id)}/priority", Run, body=body, repeatable=True)

    def comparison(
        self,
        experiment: str | Sequence[str],
        *,
        baseline: str | None = None,
        metric: str = "test/top1",
        which: Which = "last",
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
        which: Which = "last",
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
    ) -> Claims:
        """The author's five claims: holds, does not hold, or cannot tell."""
        query = {
            "experiment": experiment,
            "baseline": baseline,
            "target_share": target_share,
            "target": target,
            "difference": difference,
        }
        return self._connection.send("GET", f"{API}/comparisons/claims", Claims, query=query, repeatable=True)

    def table(
        self,
        experiments: Sequence[str] = (),
        *,
        tags: Sequence[str] = (),
        dataset: str | None = None,
        teacher: str | None = None,
        student: str | None = None,
        metric: str = "test/top1",
        which: Which = "last",
        baseline: str | None = None,
        test: Literal["sign_flip", "t"] = "sign_flip",
        seeds: Sequence[int] = (),
    ) -> Table:
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
        return self._connection.send("GET", f"{API}/comparisons/table", Table, query=query, repeatable=True)

    def comparison_text(
        self, what: Literal["comparison", "overview", "claims", "table"], format: TextFormat, query: Query
    ) -> str:
        """One of the four above as CSV, Markdown or LaTeX; ``query`` as the API has it."""
        path = f"{API}/comparisons" if what == "comparison" else f"{API}/comparisons/{what}"
        return self._connection.text(path, query={**query, "format": format})

    def run_record(self, run_id: str) -> RunRecord:
        """Everything needed to repeat a run."""
        return self._connection.send("GET", f"{API}/exports/runs/{_part(run_id)}", RunRecord, repeatable=True)

    def experiment_record(self, experiment: str) -> ExperimentRecord:
        """The records of all runs of an experiment."""
        query = {"experiment": experiment}
        return self._connection.send("GET", f"{API}/exports/experiment", ExperimentRecord, query=query, repeatable=True)

    def experiment_csv(self, experiment: str) -> str:
        """A row a run with the last value of every metric, as CSV."""
        return self._connection.text(f"{API}/exports/experiment", query={"experiment": experiment, "format": "csv"})

    def workers(self) -> WorkerList:
        """Every worker that the backend knows."""
        return self._connection.send("GET", f"{API}/workers", WorkerList, repeatable=True)

    def drain_worker(self, id_or_name: str, *, draining: bool = True) -> WorkerList:
        """Have a worker take no new runs, or let it again; what it has goes on. Doing it twice changes nothing."""
        path = f"{API}/workers/{_part(id_or_name)}/drain"
        return self._connection.send("POST", path, WorkerList, body={"draining": draining}, repeatable=True)

    def teachers(self) -> TeacherList:
        """Every teacher, with the number of runs that use it."""
        return self._connection.send("GET", f"{API}/teachers", TeacherList, repeatable=True)

    def create_token(self, name: str, scopes: Sequence[Scope], *, expires_in_days: float | None = None) -> TokenMade:
        """Make a token; its text is in the answer and nowhere else. For admins. Not repeated."""
        body = TokenRequest(name=name, scopes=list(scopes), expires_in_days=expires_in_days)
        return self._connection.send("POST", f"{API}/tokens", TokenMade, body=body)

    def tokens(self) -> TokenList:
        """Every token, without the tokens themselves. For admins."""
        return self._connection.send("GET", f"{API}/tokens", TokenList, repeatable=True)

    def revoke_token(self, token_id: str) -> TokenInfo:
        """Shut a token out. For admins. Doing it twice changes nothing."""
        return self._connection.send("DELETE", f"{API}/tokens/{_part(token_id)}", TokenInfo, repeatable=True)


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


def _part(text: str) -> str:
    """A name as one part of a path: slashes, spaces and question marks are escaped."""
    return quote(text, safe="")
