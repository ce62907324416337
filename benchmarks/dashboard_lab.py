"""The lab that ``benchmarks.dashboard`` visits: a worker that trains nothing fills a real backend."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from client import Client, WorkerClient
from core.events import Log, Metrics, Record, Started
from core.items.correlations import Correlations
from core.items.features import FINAL, MEASURES, FeatureImages, NetworkFeatures, RunFeatures, Snapshot
from core.items.table import Items
from core.protocol.worker import (
    ArtifactRef,
    Claim,
    EventBatch,
    Heartbeat,
    LeaseRenewal,
    Outcome,
    Registration,
)
from tests.backend import featured, predicted

EPOCHS = 100
STEPS = 50  # per epoch
IMAGES, CLASSES = 10_000, 100
"""Size of the test data of the runs with predictions and features, that of CIFAR-100."""
_WORKER = "bench-worker"
_PICTURED, _PICTURED_CLASSES, _LENGTH = 500, 20, 64
"""Images and classes whose features are kept, and the length of the features of a ResNet for CIFAR."""
_SNAPSHOTS = range(10, EPOCHS + 1, 10)
_DATA, _FINGERPRINT = "0123456789abcdef", "of a run"


def metric_values(epoch: int) -> dict[str, float]:
    """Return plausible metrics of an epoch."""
    share = epoch / EPOCHS
    names = ("train/ce", "train/tckd", "train/nckd", "train/align", "grad/similarity", "grad/align_share", "lr")
    metrics = {name: 1 - share * random.Random(f"{name} {epoch}").random() for name in names}
    return metrics | {"test/top1": 50 + 40 * share, "train/top1": 55 + 40 * share, "train/loss": 2 - share}


def machine_values(epoch: int) -> dict[str, float]:
    """Return plausible measurements of the machine since the epoch before."""
    numbers = random.Random(epoch)
    percentages = ("gpu_use", "cpu_use", "memory_use", "disk_wait")
    others = ("gpu_memory", "gpu_power", "memory", "disk_read", "disk_written", "received", "sent")
    values = {f"machine/{name}": numbers.uniform(20, 90) for name in (*percentages, *others)}
    return values | {"machine/gpu_energy": 3.0 * epoch, "speed/images_per_second": numbers.uniform(8_000, 9_000)}


class FakeWorker:
    """A worker that sends events without training."""

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self.sent: dict[str, int] = {}
        client.register(Registration(worker_id=_WORKER, name=_WORKER, host="bench", slots=64, device="cpu"))

    def claim(self) -> Claim:
        claim = self.client.claim(_WORKER)
        assert claim is not None
        return claim

    def send(self, claim: Claim, *events: Any) -> None:
        start = self.sent.get(claim.run_id, 0)
        self.sent[claim.run_id] = start + len(events)
        records = [Record(seq=start + number, time=time.time(), event=event) for number, event in enumerate(events, 1)]
        self.client.send_events(_WORKER, claim.run_id, EventBatch(attempt=claim.attempt, records=records))

    def begin(self, claim: Claim) -> None:
        started = Started(
            total_steps=STEPS * EPOCHS,
            total_epochs=EPOCHS,
            train_size=898,
            test_size=899,
            parameters=1234,
            device="cpu",
            environment={"torch": "none"},
        )
        self.send(claim, started)

    def epochs(self, claim: Claim, first: int, last: int, *, machine: bool = False) -> None:
        """Send the metrics and the log of epochs, with measurements of the machine if they are wanted."""
        events: list[Any] = []
        for epoch in range(first, last + 1):
            values = metric_values(epoch) | (machine_values(epoch) if machine else {})
            metrics = Metrics(step=STEPS * epoch, epoch=float(epoch), elapsed=float(epoch), values=values)
            events += [metrics, Log(message=f"epoch {epoch}/{EPOCHS}")]
        self.send(claim, *events)

    def beat(self, claim: Claim) -> None:
        """Renew the lease of a run, which would be taken from the worker after five minutes."""
        holding = [LeaseRenewal(run_id=claim.run_id, attempt=claim.attempt)]
        self.client.heartbeat(_WORKER, Heartbeat(holding=holding))

    def finish(self, claim: Claim) -> None:
        weights = ArtifactRef(path=f"{claim.folder}/weights.safetensors", sha256="a" * 64)
        self.client.finish(_WORKER, claim.run_id, Outcome(attempt=claim.attempt, outcome="succeeded", weights=weights))


def spec(name: str, seeds: int) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": "digits",
        "student": {"model": "small_cnn"},
        "methods": ["ce", {"name": "ce", "label": "again"}],
        "seeds": list(range(seeds)),
        "training": {"epochs": EPOCHS},
    }


def train(worker: FakeWorker, runs: int, artifacts: Path | None = None) -> str:
    """Let the next runs succeed; return the id of the last.

    Args:
        worker: The worker that trains them.
        runs: Their number.
        artifacts: Folder of all artifacts, for files of their predictions and features beside measurements of the
            machine; None for runs that leave none of these.
    """
    last = ""
    for _ in range(runs):
        claim = worker.claim()
        worker.begin(claim)
        worker.epochs(claim, 1, EPOCHS, machine=artifacts is not None)
        if artifacts:
            items, correlated = predictions(claim)
            predicted.write_files(artifacts / claim.folder, items, correlated=correlated, pictures=range(512))
            featured.write_features(artifacts / claim.folder, features(claim))
        worker.finish(claim)
        last = claim.run_id
    return last


def predictions(claim: Claim) -> tuple[Items, Correlations]:
    """Return invented predictions of a run and its teacher for the test images of CIFAR-100."""
    numbers = np.random.default_rng(claim.spec["seed"])
    target = np.repeat(np.arange(CLASSES), IMAGES // CLASSES)
    columns: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "item": np.arange(IMAGES, dtype=np.uint16),
        "target": target.astype(np.uint8),
    }
    names = tuple(f"class {number}" for number in range(CLASSES))
    for prefix, right in (("", 0.7), ("teacher_", 0.75)):
        other = numbers.integers(0, CLASSES, IMAGES)
        columns[f"{prefix}predicted"] = np.where(numbers.random(IMAGES) < right, target, other).astype(np.uint8)
        columns[f"{prefix}probability"] = numbers.random(IMAGES).astype(np.float16)
        columns[f"{prefix}confidence"] = numbers.random(IMAGES).astype(np.float16)
    pairs = CLASSES * (CLASSES - 1) // 2
    networks = {name: numbers.uniform(-1, 1, pairs).astype(np.float16) for name in ("student", "teacher")}
    return (
        Items(columns, "classification", _DATA, _FINGERPRINT, names),
        Correlations(networks, _DATA, _FINGERPRINT, names),
    )


def features(claim: Claim) -> RunFeatures:
    """Return invented features of a run, after every tenth epoch, and of its teacher."""
    numbers = np.random.default_rng(claim.spec["seed"])
    labels = np.arange(_PICTURED) % _PICTURED_CLASSES
    images = FeatureImages(np.arange(_PICTURED), labels, np.arange(_PICTURED_CLASSES), IMAGES, CLASSES)
    centres = numbers.normal(size=(_PICTURED_CLASSES, _LENGTH))

    def snapshot(spread: float) -> Snapshot:
        values = centres[labels] + spread * numbers.normal(size=(_PICTURED, _LENGTH))
        cosines = numbers.uniform(-0.3, 0.3, _PICTURED_CLASSES * (_PICTURED_CLASSES - 1) // 2)
        measures = dict.fromkeys(MEASURES, 0.5) | {"nc1": spread, "angle_mean": 90.0, "angle_least": 60.0}
        return Snapshot(values.astype(np.float16), cosines.astype(np.float16), measures)

    own = {epoch: snapshot(2 - epoch / EPOCHS) for epoch in _SNAPSHOTS}
    networks = {
        "student": NetworkFeatures(images, own),
        "teacher": NetworkFeatures(images, {FINAL: snapshot(0.5)}),
    }
    return RunFeatures(networks, _DATA, _FINGERPRINT, tuple(f"class {number}" for number in range(CLASSES)))


def fill(client: Client, worker: FakeWorker, artifacts: Path, runs: int) -> tuple[dict[str, str], Claim]:
    """Make finished runs in experiments of ten, a sweep, an experiment to look into, and a run that trains.

    Returns:
        Ids for the addresses of ``benchmarks.dashboard.PAGES``, and the claim of the run that trains.
    """
    submitted = client.submit_many([spec(f"past {number}", 5) for number in range(runs // 10)])
    ended = train(worker, 10 * len(submitted.items))
    varied = {name: value for name, value in spec("", 2).items() if name != "name"}
    grid = {"training.optimizer.lr": [0.01, 0.05, 0.1], "training.batch_size": [32, 64, 128, 256]}
    made = client.sweep({"name": "search", "experiment": varied | {"methods": ["ce"]}, "grid": grid})
    train(worker, 2 * len(made.items))
    looked = client.submit({**spec("looked", 3), "teacher": {"model": "small_cnn"}, "methods": ["kd", "dkd"]})
    last = train(worker, len(looked.runs), artifacts)
    client.submit(spec("now", 1))
    running = worker.claim()
    worker.begin(running)
    worker.epochs(running, 1, 5)
    ids = {
        "ended": ended,
        "experiment": submitted.items[-1].id,
        "running": running.run_id,
        "sweep": "search",
        "setting": made.items[0].id,
        "other_setting": made.items[-1].id,
        "looked": looked.id,
        "looked_run": last,
    }
    return ids, running
