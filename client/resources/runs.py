"""``client.runs`` finds, reads, changes and deletes runs and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.connection import API, Query, Reply, path_segment
from client.models import Metrics
from client.resources.base import Deadline, Resource, as_sequence, items_of_pages
from client.resources.downloads import download_artifact
from client.resources.events import ServerEvent, follow_events, read_events
from client.resources.workers import Workers
from core.protocol.artifacts import ArtifactList, RunUpdates
from core.protocol.detections import DetectionImages, DetectionKind, DetectionSource, ImageDetections
from core.protocol.features import FeatureMap, FeatureNetwork, Projection, RunFeatures
from core.protocol.predictions import (
    ConfusionMatrix,
    CorrelationDifference,
    PredictedImages,
    PredictionKind,
    RunPredictions,
)
from core.protocol.public import TERMINAL, LogLine, LogsReply, Run, RunPage, RunSummary
from core.protocol.records import RunRecord

if TYPE_CHECKING:
    from rich.console import Console

    from client.progress import Snapshot

_PATH = f"{API}/runs"
_LINES_PER_PAGE = 5000


class Runs(Resource):
    """Calls on runs."""

    def list(
        self,
        *,
        state: str | Sequence[str] | None = None,
        experiment: str | None = None,
        method: str | Sequence[str] | None = None,
        tag: str | Sequence[str] | None = None,
        sort: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        **filters: str | Sequence[str] | None,
    ) -> RunPage:
        """Return a page of runs, newest first by default.

        Args:
            state: One or several states.
            experiment: Id or name of the experiment.
            method: One or several names of methods.
            tag: One tag, or several that the experiment must all have.
            sort: Created, started, ended, priority or headline (the metric by which a run's task is judged), with a
                leading - for descending order.
            cursor: ``next_cursor`` of the previous page.
            limit: Size of the page.
            filters: Id, teacher, dataset, model, role, text, submitted_by, sweep, project, created_after,
                created_before, archived, count.
        """
        query: Query = {
            "state": as_sequence(state),
            "experiment": experiment,
            "method": as_sequence(method),
            "tag": as_sequence(tag),
            "sort": sort,
            "cursor": cursor,
            "limit": limit,
            **filters,
        }
        return self._connection.send("GET", _PATH, RunPage, query=query, idempotent=True)

    def iterate(self, **filters: Any) -> Iterator[RunSummary]:
        """Yield every run that ``list`` finds with these filters, page by page."""
        return items_of_pages(self.list, **filters)

    def get(self, run_id: str) -> Run:
        """Return one run with its spec, attempts and last log lines."""
        return self._send("GET", f"/{path_segment(run_id)}")

    def metrics(
        self, run_id: str, *, names: Sequence[str] | None = None, since: int = 0, max_points: int = 2000
    ) -> Metrics:
        """Return metrics of a run.

        Args:
            run_id: The run.
            names: Names of metrics; all by default.
            since: The ``cursor`` of an earlier reply, to return only later points; 0 for all points.
            max_points: Maximum number of points per metric; the backend downsamples longer series.
        """
        query = {"names": names, "since": since, "max_points": max_points}
        path = f"{_PATH}/{path_segment(run_id)}/metrics"
        return self._connection.send("GET", path, Metrics, query=query, idempotent=True)

    def logs(
        self,
        run_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 500,
        tail: int | None = None,
        search: str = "",
        level: str | Sequence[str] | None = None,
        count: bool = False,
    ) -> LogsReply:
        """Return log lines of a run after line number ``after``, or its last ``tail`` lines.

        Args:
            run_id: The run.
            after: Only lines with a greater number.
            before: Only lines with a smaller number.
            limit: Maximum number of lines.
            tail: Only this number of last lines.
            search: Only lines that contain this text, ignoring case.
            level: Only lines of this level, or of any of several: debug, info, warning, error.
            count: Whether ``total`` is the number of lines of the whole log that match.
        """
        query: Query = {
            "after": after,
            "before": before,
            "limit": limit,
            "tail": tail,
            "search": search or None,
            "level": as_sequence(level),
            "count": "true" if count else None,
        }
        path = f"{_PATH}/{path_segment(run_id)}/logs"
        return self._connection.send("GET", path, LogsReply, query=query, idempotent=True)

    def log_lines(
        self, run_id: str, *, search: str = "", level: str | Sequence[str] | None = None
    ) -> Iterator[LogLine]:
        """Yield every line of a run's log, page by page, or those that ``logs`` finds."""
        after = 0
        while lines := self.logs(run_id, after=after, limit=_LINES_PER_PAGE, search=search, level=level).lines:
            yield from lines
            after = lines[-1].number

    def news(self, run_id: str, cursor: str = "", *, wait: float = 5.0, tail: int | None = None) -> RunUpdates:
        """Return the updates of a run since the cursor of an earlier reply.

        Args:
            run_id: The run.
            cursor: The ``cursor`` of an earlier reply; empty to read from the start.
            wait: Seconds for which the backend waits for an update.
            tail: Number of last log lines if there is no cursor, at most 500.
        """
        query = {"cursor": cursor or None, "wait": wait, "tail": None if cursor else tail}
        path = f"{_PATH}/{path_segment(run_id)}/news"
        return self._connection.send("GET", path, RunUpdates, query=query, idempotent=True)

    def events(self, run_id: str, *, last_event_id: str | None = None) -> Iterator[ServerEvent]:
        """Yield a run's events as they happen, until the backend closes the stream.

        Args:
            run_id: The run.
            last_event_id: Id of the event after which the stream continues.

        Raises:
            BackendUnreachable: The connection was lost; call again with the id of the last event.
        """
        yield from read_events(self._connection, f"{_PATH}/{path_segment(run_id)}/events", last_event_id)

    def follow(self, run_id: str, *, last_event_id: str | None = None, patience: float = 60.0) -> Iterator[ServerEvent]:
        """Yield a run's events until it ends; after a lost connection, continue after the last event.

        Raises:
            BackendUnreachable: No connection could be made for ``patience`` seconds.
        """
        return follow_events(lambda last: self.events(run_id, last_event_id=last), last_event_id, patience)

    def wait(self, run_id: str, *, timeout: float | None = None, interval: float = 1.0) -> Run:
        """Wait for a run's end and return the run.

        Raises:
            TimeoutError: The run has not ended after ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        run = self.get(run_id)
        while run.state not in TERMINAL:
            deadline.sleep(interval, f"run {run_id} is still {run.state}")
            run = self.get(run_id)
        return run

    def watch(self, run_id: str, console: Console | None = None, *, tick: Callable[[], None] | None = None) -> Snapshot:
        """Show the progress of a run on a terminal until it ends, as ``client.experiments.watch`` does."""
        # Imported here: scripts that show nothing need no terminal library.
        from client.progress import Snapshot, watch
        from client.rendering.tables import console_for

        return watch(
            lambda: Snapshot.of_run(self.get(run_id)),
            console or console_for(),
            any_worker_online=Workers(self._connection).any_online,
            tick=tick,
        )

    def cancel(self, run_id: str) -> Run:
        """Cancel a run. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(run_id)}/cancel")

    def retry(self, run_id: str) -> Run:
        """Queue a failed or cancelled run again. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(run_id)}/retry")

    def pause(self, run_id: str) -> Run:
        """Pause a run; if it is training, it writes a checkpoint first. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(run_id)}/pause")

    def resume(self, run_id: str) -> Run:
        """Resume a paused run. Repeating the call changes nothing."""
        return self._send("POST", f"/{path_segment(run_id)}/resume")

    def set_priority(self, run_id: str, priority: int) -> Run:
        """Set a run's priority (-100 to 100); its teacher gets the highest priority of its students."""
        return self._send("POST", f"/{path_segment(run_id)}/priority", body={"priority": priority})

    def delete(self, run_id: str) -> None:
        """Delete a run with its files. The backend answers 409 if the run has not ended or is a teacher in use."""
        self._connection.send_empty("DELETE", f"{_PATH}/{path_segment(run_id)}")

    def artifacts(self, run_id: str) -> ArtifactList:
        """Return the files of a run, the newest attempt's first."""
        path = f"{_PATH}/{path_segment(run_id)}/artifacts"
        return self._connection.send("GET", path, ArtifactList, idempotent=True)

    def download(self, run_id: str, artifact_id: str, to: Path) -> int:
        """Download a file of a run and return its size in bytes.

        ``to`` exists only after a complete download. An interrupted download is continued if the file on the backend is
        still the same.

        Raises:
            OSError: The file cannot be written.
        """
        return download_artifact(self._connection, run_id, artifact_id, to)

    def detections(
        self,
        run_id: str,
        *,
        kind: DetectionKind | None = None,
        source: DetectionSource = "student",
        label: str | None = None,
        score: float = 0.5,
        pictured: bool = False,
        cursor: str | None = None,
        limit: int = 50,
    ) -> DetectionImages:
        """Return a page of the test images of a run of object detection, with counts of what was found in each.

        Args:
            run_id: The run.
            kind: Only images with a detection of this kind, or a missed object.
            source: Whose detections ``kind`` is about.
            label: Only images with an object or a detection of this class.
            score: Detections with a lower score do not count.
            pictured: Only images that have a picture.
            cursor: ``next_cursor`` of the previous page.
            limit: Size of the page.
        """
        query: Query = {
            "kind": kind,
            "source": source,
            "label": label,
            "score": score,
            "pictured": str(pictured).lower(),
            "cursor": cursor,
            "limit": limit,
        }
        path = f"{_PATH}/{path_segment(run_id)}/detections"
        return self._connection.send("GET", path, DetectionImages, query=query, idempotent=True)

    def image_detections(self, run_id: str, item: int, *, score: float = 0.0) -> ImageDetections:
        """Return the objects of one test image, and the detections with at least this score."""
        path = f"{_PATH}/{path_segment(run_id)}/detections/{item}"
        return self._connection.send("GET", path, ImageDetections, query={"score": score}, idempotent=True)

    def predictions(self, run_id: str, *, against: str | None = None) -> RunPredictions:
        """Return what a run of classification predicts for its test images, beside a reference.

        Args:
            run_id: The run.
            against: "teacher" or the id of a run on the same test images; by default the teacher, if there is one.
        """
        return self._predictions(run_id, "", RunPredictions, {"against": against})

    def confusion(self, run_id: str, *, against: str | None = None, limit: int = 10_000) -> ConfusionMatrix:
        """Return how often each class is predicted for images of each, by a run and by its reference.

        Args:
            run_id: The run.
            against: The reference, as in ``predictions``.
            limit: Most pairs of classes; those with the largest counts are kept.
        """
        return self._predictions(run_id, "/confusion", ConfusionMatrix, {"against": against, "limit": limit})

    def correlations(self, run_id: str, *, against: str | None = None) -> CorrelationDifference:
        """Return by how much the correlations of a run's logits differ from those of its reference."""
        return self._predictions(run_id, "/correlations", CorrelationDifference, {"against": against})

    def predicted_images(
        self,
        run_id: str,
        *,
        against: str | None = None,
        kind: PredictionKind | None = None,
        label: str | None = None,
        predicted: str | None = None,
        margin: float = 0.0,
        pictured: bool = False,
        cursor: str | None = None,
        limit: int = 50,
    ) -> PredictedImages:
        """Return a page of test images with what the run and its reference predict, the largest margin first.

        Args:
            run_id: The run.
            against: The reference, as in ``predictions``.
            kind: Only images on which this holds.
            label: Only images of this class.
            predicted: Only images that one of the two predicts to be of this class.
            margin: Smallest difference between the probabilities that the two give to the image's class.
            pictured: Only images that have a picture.
            cursor: ``next_cursor`` of the previous page.
            limit: Size of the page.
        """
        query: Query = {
            "against": against,
            "kind": kind,
            "label": label,
            "predicted": predicted,
            "margin": margin,
            "pictured": str(pictured).lower(),
            "cursor": cursor,
            "limit": limit,
        }
        return self._predictions(run_id, "/images", PredictedImages, query)

    def _predictions(self, run_id: str, part: str, reply: type[Reply], query: Query) -> Reply:
        path = f"{_PATH}/{path_segment(run_id)}/predictions{part}"
        return self._connection.send("GET", path, reply, query=query, idempotent=True)

    def features(self, run_id: str) -> RunFeatures:
        """Return after which epochs a run of classification kept penultimate features, and NC1–NC4 at these epochs."""
        path = f"{_PATH}/{path_segment(run_id)}/features"
        return self._connection.send("GET", path, RunFeatures, idempotent=True)

    def feature_map(
        self,
        run_id: str,
        *,
        network: FeatureNetwork = "run",
        projection: Projection = "pca",
        epoch: int | None = None,
    ) -> FeatureMap:
        """Return the features of a network after one epoch as points in a plane.

        Args:
            run_id: The run.
            network: The run's own network, or its teacher.
            projection: How features become points.
            epoch: One of the epochs of ``features``; by default the last.
        """
        query: Query = {"network": network, "projection": projection, "epoch": epoch}
        path = f"{_PATH}/{path_segment(run_id)}/features/map"
        return self._connection.send("GET", path, FeatureMap, query=query, idempotent=True)

    def picture(self, run_id: str, item: int) -> bytes:
        """Return a small picture of a test image as JPEG. A run keeps pictures of some images."""
        path = f"{_PATH}/{path_segment(run_id)}/pictures/{item}"
        with self._connection.download(path, headers={"Accept": "image/jpeg, application/problem+json"}) as reply:
            return b"".join(reply[2])

    def record(self, run_id: str) -> RunRecord:
        """Return the record that is needed to repeat a run."""
        path = f"{API}/exports/runs/{path_segment(run_id)}"
        return self._connection.send("GET", path, RunRecord, idempotent=True)

    def _send(self, method: str, path: str, **options: Any) -> Run:
        return self._connection.send(method, f"{_PATH}{path}", Run, idempotent=True, **options)
