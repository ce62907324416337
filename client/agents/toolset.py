"""The tools: each calls the public API once or twice with the caller's token, and gives a short answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from client.agents import answers, describe
from client.client import Client
from client.errors import ApiError, BackendUnreachable, ClientSettingsError
from client.targets import find_target
from core.protocol.comparisons import EpochChoice
from core.protocol.public import Experiment, Run
from core.specs import SpecError

ClientOf = Callable[[Context[Any, Any]], AbstractContextManager[Client]]
"""Gives the client with the token of the caller of a tool."""

_POLL_SECONDS = 1.0
MOST_SECONDS = 600

Part = Literal["methods", "models", "datasets", "optimizers", "augmentations", "metrics", "tasks", "examples", "spec"]
Spec = Annotated[
    dict[str, Any],
    Field(
        description="The experiment's spec as an object: name, dataset, teacher, student, methods, seeds, training. "
        'Start from an entry of `catalog` part "examples". Methods share the seeds; give at least 6 seeds, below '
        "which no verdict is possible."
    ),
]
Target = Annotated[str, Field(max_length=200, description="Name or id of an experiment, or id of a run.")]
Experiments = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=20,
        description="Names or ids. Several are evaluated as one; they may differ only in seeds and teachers' seeds.",
    ),
]
Baseline = Annotated[
    str | None, Field(max_length=60, description="Label of the method to compare with; by default the spec's first.")
]
MetricName = Annotated[
    str | None, Field(max_length=200, description="By default the metric by which the task is judged, as test/top1.")
]
Which = Annotated[
    EpochChoice, Field(description="The epoch of the values. oracle is chosen by the test set and never tested.")
]


class Tools:
    """The tools of the server.

    Args:
        client_of: Gives the client with the caller's token.
    """

    def __init__(self, client_of: ClientOf) -> None:
        self._client_of = client_of

    @contextmanager
    def _client(self, context: Context[Any, Any]) -> Iterator[Client]:
        """Yield the caller's client, and turn errors of requests into errors that the caller can read."""
        try:
            with self._client_of(context) as client:
                yield client
        except SpecError as error:
            raise ToolError("; ".join(str(problem) for problem in error.problems)) from error
        except BackendUnreachable as error:
            raise ToolError(f"{error}; {error.hint}") from error
        except (ApiError, ClientSettingsError) as error:
            raise ToolError(str(error)) from error

    def catalog(
        self,
        context: Context[Any, Any],
        part: Annotated[Part, Field(description="The part of the catalog; spec: the fields of a spec.")],
        name: Annotated[
            str | None, Field(max_length=200, description="An entry, to read it with its parameters.")
        ] = None,
        search: Annotated[str, Field(max_length=100, description="Only names and summaries with this text.")] = "",
    ) -> answers.CatalogAnswer:
        """List what a spec may name, or read one entry with the JSON schema of its parameters."""
        with self._client(context) as client:
            catalog = client.catalog()
        if name is None:
            return describe.catalog_list(catalog, part, search)
        entry = describe.catalog_entry(catalog, part, name)
        if entry is None:
            raise ToolError(f"there is no {name!r} in {part}; call catalog without a name to list them")
        return entry

    def preview(self, context: Context[Any, Any], spec: Spec) -> answers.PreviewAnswer:
        """Check a spec and show the runs, teachers and training time it would need. Nothing is created."""
        with self._client(context) as client:
            return describe.preview(client.experiments.preview(spec))

    def submit(
        self,
        context: Context[Any, Any],
        spec: Spec,
        key: Annotated[
            str | None,
            Field(max_length=200, description="Calls with the same key create only one experiment; use it to repeat."),
        ] = None,
    ) -> answers.SubmitAnswer:
        """Create an experiment and queue its runs. Needs the token scope submit."""
        with self._client(context) as client:
            return describe.submitted(client.experiments.create(spec, idempotency_key=key))

    async def wait(
        self,
        context: Context[Any, Any],
        target: Target,
        seconds: Annotated[int, Field(ge=1, le=MOST_SECONDS, description="Longest time to wait.")] = 50,
    ) -> answers.StatusAnswer:
        """Wait until an experiment or a run has ended, or the time is over; call again if `ended` is false."""
        deadline = time.monotonic() + seconds
        while True:
            status = await anyio.to_thread.run_sync(self._status, context, target, abandon_on_cancel=True)
            await context.report_progress(status.progress, 1.0, status.state)
            left = deadline - time.monotonic()
            if status.ended or left <= 0:
                return status
            await anyio.sleep(min(_POLL_SECONDS, left))

    def status(
        self,
        context: Context[Any, Any],
        target: Annotated[
            str | None, Field(max_length=200, description="Name or id; by default the newest experiments and workers.")
        ] = None,
    ) -> answers.StatusAnswer:
        """Show the state of an experiment, of a run, or of the whole lab."""
        if target is not None:
            return self._status(context, target)
        with self._client(context) as client:
            activity = client.activity()
            page = client.experiments.list(limit=10)
        return describe.lab_status(page.items, activity.counts, len(activity.workers))

    def logs(
        self,
        context: Context[Any, Any],
        run: Annotated[str, Field(max_length=200, description="Id of the run.")],
        lines: Annotated[int, Field(ge=1, le=200, description="Number of last lines.")] = 40,
    ) -> answers.LogsAnswer:
        """Read the last log lines of a run, and why it failed."""
        with self._client(context) as client:
            return describe.logs(client.runs.get(run), client.runs.logs(run, tail=lines))

    def compare(
        self,
        context: Context[Any, Any],
        experiments: Experiments,
        baseline: Baseline = None,
        metric: MetricName = None,
        which: Which = "last",
    ) -> answers.CompareAnswer:
        """Compare the methods of an experiment over paired seeds.

        Each method has a decision against the baseline, and the referee's sentence with the evidence. Replace the
        baseline only if the decision is "keep", whatever the means are.
        """
        with self._client(context) as client:
            reply = client.comparisons.get(experiments, baseline=baseline, metric=metric, which=which)
        return describe.comparison(reply)

    def claims(
        self, context: Context[Any, Any], experiments: Experiments, baseline: Baseline = None
    ) -> answers.ClaimsAnswer:
        """Test the claims of a paper on an experiment: holds, does not hold or cannot tell, with the reason."""
        with self._client(context) as client:
            return describe.claims(client.comparisons.claims(experiments, baseline=baseline))

    def table(
        self,
        context: Context[Any, Any],
        experiments: Annotated[
            list[str] | None, Field(max_length=20, description="Names or ids; by default all that match the filters.")
        ] = None,
        tags: Annotated[list[str] | None, Field(max_length=20, description="Tags, all of which must match.")] = None,
        dataset: Annotated[str | None, Field(max_length=100)] = None,
        teacher: Annotated[str | None, Field(max_length=100, description="Model of the teacher.")] = None,
        student: Annotated[str | None, Field(max_length=100, description="Model of the student.")] = None,
        metric: MetricName = None,
    ) -> answers.TableAnswer:
        """Show a table over many experiments, with verdicts corrected over the whole table."""
        with self._client(context) as client:
            reply = client.comparisons.table(
                experiments or [], tags=tags or [], dataset=dataset, teacher=teacher, student=student, metric=metric
            )
        return describe.table(reply)

    def cancel(self, context: Context[Any, Any], target: Target) -> answers.CancelAnswer:
        """Cancel an experiment or a run. Needs the token scope submit. Repeating the call changes nothing."""
        with self._client(context) as client:
            resolved = _resolve(client, target)
            if isinstance(resolved, Run):
                return describe.cancelled(client.runs.cancel(resolved.id))
            return describe.cancelled(client.experiments.cancel(resolved.id))

    def _status(self, context: Context[Any, Any], target: str) -> answers.StatusAnswer:
        with self._client(context) as client:
            resolved = _resolve(client, target)
        return describe.run_status(resolved) if isinstance(resolved, Run) else describe.experiment_status(resolved)


def _resolve(client: Client, target: str) -> Experiment | Run:
    """Return the run with that id, else the experiment with that name or id.

    Raises:
        ToolError: Neither a run nor an experiment matches.
    """
    if (found := find_target(client, target)) is not None:
        return found
    raise ToolError(f"there is no run and no experiment {target!r}; status without a target lists the newest ones")
