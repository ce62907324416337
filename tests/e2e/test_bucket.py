"""Two machines that share only a bucket: real processes, a real training and an S3 server."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from client import Client
from common.object_store import ObjectStore
from core.events import Started, read_journal
from tests import served, services
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
EPOCHS = 100
SPEC = {
    "name": "bucket",
    "dataset": "digits",
    "teacher": {"model": {"name": "small_cnn", "params": {"width": 8}}, "training": {"epochs": 2}},
    "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "methods": ["dkd"],
    "seeds": [0],
    "training": {"epochs": EPOCHS},
}


@contextmanager
def worker(url: str, home: Path, store: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        "DKD_API_URL": url,
        "DKD_WORKER_TOKEN": served.WORKER_TOKEN,
        "DKD_HOME": str(home),
        "DKD_ARTIFACTS": store,
        "DKD_WORKER_NAME": home.name,
        "DKD_DEVICE": "cpu",
        "DKD_THREADS": "1",
        "DKD_CHECKPOINT_SECONDS": "1",
        "DKD_GRACE_SECONDS": "5",
        "PYTHONPATH": str(ROOT),
    }
    with (home.parent / f"{home.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"], env=os.environ | environment | more, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_run_of_a_lost_machine_resumes_on_another(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with (
        services.s3() as store,
        served.backend(
            tmp_path / "server", artifacts=store, heartbeat_seconds=0.5, lease_seconds=12, reconcile_seconds=0.5
        ) as url,
        Client(url, served.ADMIN_TOKEN) as client,
    ):
        runs = client.submit(SPEC).runs
        student = next(run.id for run in runs if run.role == "student")
        bucket = ObjectStore(store)
        with worker(url, first, store) as process:
            until(
                lambda: "checkpoint.safetensors" in bucket.manifest(f"runs/{student}/attempt-1"),
                "the student's checkpoint is in the bucket",
            )
            # Events are reported in order: after a later epoch the backend also has the checkpoint.
            epoch_before = client.run(student).epoch
            until(lambda: client.run(student).epoch > epoch_before + 1, "the training has continued")
            processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in processes:  # as a power failure does
                one.kill()
            psutil.wait_procs(processes, 20)
        shutil.rmtree(first)
        with worker(url, second, store):
            until(lambda: client.run(student).state in ("succeeded", "failed", "cancelled"), "the student has ended")
        run = client.run(student)
        assert (run.state, run.attempt) == ("succeeded", 2), run.reason
        [points] = client.metrics(student, names=["test/top1"]).series
        assert points.epoch == list(range(1, EPOCHS + 1)), "no epoch is missing or duplicated"
        assert bucket.fetch(f"runs/{student}/attempt-2/events.jsonl", tmp_path / "events.jsonl")
        events = [record.event for record in read_journal(tmp_path / "events.jsonl")]
        starts = [event.start_step for event in events if isinstance(event, Started)]
        assert starts[0] == 0
        assert starts[-1] > 0, "it resumed from the checkpoint"
        for each in runs:  # downloads come through the backend, whose disk has no file
            weights = next(item for item in client.artifacts(each.id).items if item.name == "weights.safetensors")
            target = tmp_path / f"{each.id}.safetensors"
            client.download(each.id, weights.id, target)
            folder = client.run(each.id).weights.rpartition("/")[0]
            expected = bucket.manifest(folder)["weights.safetensors"].sha256
            assert hashlib.sha256(target.read_bytes()).hexdigest() == expected
        assert not (tmp_path / "server" / "artifacts").exists()
