"""What a paired bootstrap over test images needs of each run, evaluated once and kept in memory."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from fastapi import Depends, Request
from numpy.typing import NDArray

from backend.artifacts.run_results import RunResults
from backend.predictions.networks import NotKeptError, class_names, items_of
from core.catalog import TaskEntry
from core.catalog.tasks import CLASSIFICATION
from core.items.average_precision import ap_resamples, difference_of_resamples
from core.items.statistics import bootstrap_mean_of_whole_numbers
from core.items.table import ITEM, ItemsError
from core.protocol.over_images import DifferenceOverImages, ImageInterval

SEED = 0
"""Seed of the resamples; all runs and all requests have the same."""
_KEPT_BYTES = 64 << 20
_NO_DETECTIONS = "this run kept no detections of its test images: an older version trained it"


@dataclass(frozen=True)
class ImageScores:
    """What one run has.

    Attributes:
        data: Hash of what has to be equal in runs that are compared: images, objects or targets, and classes.
        images: Number of test images.
        values: In classification (N,), whether each image is right; in detection (1 + resamples,), AP in % on the
            images and on each resample.
    """

    data: str
    images: int
    values: NDArray[np.bool_] | NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """How the runs of a task are compared over images.

    Attributes:
        resamples: Number of resamples.
        read: Evaluates a run, by id and attempt.
        compare: Compares runs with their references, in pairs.
        note: What else holds for the numbers; empty for nothing.
    """

    resamples: int
    read: Callable[[RunResults, str, int], ImageScores]
    compare: Callable[[list[ImageScores], list[ImageScores]], DifferenceOverImages]
    note: str = ""


@dataclass
class _Evaluation:
    """The evaluation of one run in a thread."""

    key: tuple[str, int]
    done: threading.Event = field(default_factory=threading.Event)
    found: ImageScores | None = None
    error: Exception | None = None


class ScoreCache:
    """The scores of runs that have succeeded, whose files do not change.

    Args:
        results: The files of runs.
        kept_bytes: Bytes of what is kept.
    """

    def __init__(self, results: RunResults, kept_bytes: int = _KEPT_BYTES) -> None:
        self._results = results
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, int], ImageScores] = OrderedDict()
        self._running: _Evaluation | None = None
        self._lock = threading.Lock()

    def known(self, run_id: str, attempt: int) -> ImageScores | None:
        """Return the scores of a run if they are known."""
        with self._lock:
            found = self._kept.get((run_id, attempt))
            if found is not None:
                self._kept.move_to_end((run_id, attempt))
            return found

    def evaluate(self, bootstrap: Bootstrap, run_id: str, attempt: int, until: float) -> ImageScores | None:
        """Return the scores of a run, which are computed if they are not known.

        A thread evaluates one run at a time, so that many requests do not take all processors from the rest of the API.
        It goes on when the request has been answered: 5,000 images take longer than a client waits.

        Args:
            bootstrap: The task's bootstrap.
            run_id: The run.
            attempt: Its attempt.
            until: Time of ``time.monotonic`` until which the scores are waited for.

        Returns:
            None if they are not known by then.

        Raises:
            ItemsError: The run kept no results of its images, or they cannot be read.
        """
        key = (run_id, attempt)
        while True:
            found = self.known(*key)
            if found is not None:
                return found
            with self._lock:
                if self._running is None:
                    self._running = _Evaluation(key)
                    work = (bootstrap, self._running)
                    threading.Thread(target=self._work, args=work, name="image scores", daemon=True).start()
                running = self._running
            if not running.done.wait(max(0.0, until - time.monotonic())):
                return None
            if running.key == key:
                if running.error is not None:
                    raise running.error
                return running.found

    def _work(self, bootstrap: Bootstrap, running: _Evaluation) -> None:
        try:
            running.found = bootstrap.read(self._results, *running.key)
            self._keep(running.key, running.found)
        except Exception as error:  # noqa: BLE001 (raised in the requests that wait for it)
            running.error = error
        finally:
            with self._lock:
                self._running = None
            running.done.set()

    def _keep(self, key: tuple[str, int], found: ImageScores) -> None:
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > 1 and sum(kept.values.nbytes for kept in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)


async def _score_cache(request: Request) -> ScoreCache:
    cache: ScoreCache = request.app.state.image_scores
    return cache


ScoresDep = Annotated[ScoreCache, Depends(_score_cache)]


def bootstrap_of(task: TaskEntry) -> Bootstrap | None:
    """Return how runs of a task are compared over images; None if its runs keep no results that can be."""
    return _DETECTION if task.rows_are_regions else _BY_TASK.get(task.name)


def _right_images(results: RunResults, run_id: str, attempt: int) -> ImageScores:
    items = items_of(results, run_id, attempt)
    if not len(items):
        raise ItemsError("items.parquet: it has no test images")
    compared = {name: items.column(name).astype(np.int64) for name in (ITEM, "target")}
    data = _digest([items.task, items.images, *class_names(items)], compared)
    return ImageScores(data, len(items), items.column("predicted") == items.column("target"))


def _compare_accuracies(runs: list[ImageScores], references: list[ImageScores]) -> DifferenceOverImages:
    ours, theirs = (_right_counts(part) for part in (runs, references))
    found = bootstrap_mean_of_whole_numbers(ours - theirs, SEED, resamples=_CLASSIFICATION.resamples)
    scale = 100 / len(runs)
    return _difference(
        scale * float(ours.mean()), scale * float(theirs.mean()), scale * found.mean, scale * found.low,
        scale * found.high,
    )  # fmt: skip


def _right_counts(runs: list[ImageScores]) -> NDArray[np.int64]:
    """Return in how many runs each image is right, (N,)."""
    counts: NDArray[np.int64] = np.stack([run.values for run in runs]).astype(np.int64).sum(axis=0)
    return counts


def _average_precisions(results: RunResults, run_id: str, attempt: int) -> ImageScores:
    table = results.table(run_id, attempt)
    if table is None:
        raise NotKeptError(_NO_DETECTIONS)
    truth = table.truth()
    objects = {name: getattr(truth, name) for name in ("image", "labels", "boxes", "ignored")}
    data = _digest([table.task, table.data, str(table.images), *table.classes], objects)
    values = ap_resamples(table.found("student"), truth, SEED, resamples=_DETECTION.resamples)
    return ImageScores(data, table.images, values)


def _compare_precisions(runs: list[ImageScores], references: list[ImageScores]) -> DifferenceOverImages:
    ours, theirs = ([side.values.astype(np.float64) for side in part] for part in (runs, references))
    found = difference_of_resamples(ours, theirs)
    return _difference(found.ap, found.reference, found.mean, found.low, found.high)


def _difference(value: float, baseline: float, difference: float, low: float, high: float) -> DifferenceOverImages:
    interval = ImageInterval(low=low, high=high) if low < high else None
    return DifferenceOverImages(value=value, baseline=baseline, difference=difference, interval=interval)


def _digest(words: list[str], arrays: Mapping[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(repr(words).encode())
    for name, values in arrays.items():
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


_CLASSIFICATION = Bootstrap(10_000, _right_images, _compare_accuracies)
_DETECTION = Bootstrap(
    1_000,
    _average_precisions,
    _compare_precisions,
    "AP is of the detections that runs keep (a score of at least 0.05, at most 100 of an image), so it can differ a "
    "little from the AP that the runs report.",
)
_BY_TASK = {CLASSIFICATION.name: _CLASSIFICATION}
