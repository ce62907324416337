"""Records the lab: ``python -m tests.recorded_lab.record`` takes about five minutes on one core.

A real backend and a real worker train everything on data that are bundled with a dependency. The recorded files do not
name the machine. Weights are recorded as zeros: no page reads them, and they would be most of the archive.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client import Client
from core.protocol.public import TERMINAL
from tests import recorded_lab, served

_HOST = "node-1"
_MINUTES = 90
_SEEDS = [0, 1, 2]
_WITHOUT_FEATURES: dict[str, Any] = {"features_every": 0}
"""Without it, a run keeps features if that costs little, and the archive would be of another size each time."""
_STUDENT: Mapping[str, Any] = {"model": {"name": "small_cnn", "params": {"width": 4}}}
_TEACHER: Mapping[str, Any] = {
    "model": {"name": "small_cnn", "params": {"width": 16}},
    "training": {"epochs": 8, "optimizer": {"lr": 0.1}} | _WITHOUT_FEATURES,
}
_SCENES = {"train_size": 96, "test_size": 48, "image_size": 64, "max_digits": 3, "max_digit": 32}
_DETECTOR: Mapping[str, Any] = {"name": "faster_rcnn", "params": {"backbone": "resnet8", "fpn_channels": 16}}
_EXPERIMENTS: Sequence[Mapping[str, Any]] = (
    {
        "name": recorded_lab.METHODS,
        "notes": "Which method is best after **four** epochs?",
        "tags": ["paper", "digits"],
        "dataset": "digits",
        "teacher": _TEACHER,
        "student": _STUDENT,
        "methods": ["ce", "kd", "dkd", {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}],
        "seeds": _SEEDS,
        "training": {"epochs": 4, "optimizer": {"lr": 0.1}} | _WITHOUT_FEATURES,
    },
    {
        "name": recorded_lab.DETECTION,
        "tags": ["detection"],
        "dataset": {"name": "digit_scenes", "params": _SCENES},
        "teacher": {"model": _DETECTOR, "training": {"epochs": 6}},
        "student": {"model": _DETECTOR},
        "methods": ["pkd"],
        "seeds": [0],
        "training": {"epochs": 4, "batch_size": 8},
    },
    {
        "name": recorded_lab.FAILED,
        "dataset": "digits",
        "teacher": {"model": "resnet8", "weights": "resnet8-digits.safetensors"},
        "student": _STUDENT,
        "methods": ["dkd"],
        "seeds": [0],
        "training": {"epochs": 2},
    },
)
_SWEEP: Mapping[str, Any] = {
    "name": recorded_lab.SWEEP,
    "experiment": {
        "dataset": "digits",
        "student": _STUDENT,
        "methods": ["ce"],
        "seeds": [0, 1],
        "training": {"epochs": 2} | _WITHOUT_FEATURES,
    },
    "grid": {"training.optimizer.lr": [0.01, 0.05, 0.2], "training.batch_size": [32, 128]},
}
_WAITING: Mapping[str, Any] = {
    "name": recorded_lab.WAITING,
    "tags": ["gpu"],
    "dataset": "cifar100",
    "teacher": {"model": "resnet56"},
    "student": {"model": "resnet20"},
    "methods": ["kd", "dkd"],
    "seeds": [0, 1],
    "training": {"epochs": 240},
    "resources": {"device": "gpu", "labels": ["h200"]},
}
_NOT_RECORDED = ("checkpoint", "events.jsonl", "run.json", "teacher.json", "stdout.txt", "stderr.txt")
"""Beginnings of names of files that only a worker reads."""


@contextmanager
def _worker(url: str, folder: Path) -> Iterator[None]:
    settings = {
        "DKD_API_URL": url,
        "DKD_WORKER_TOKEN": served.WORKER_TOKEN,
        "DKD_HOME": str(folder / "worker"),
        "DKD_ARTIFACTS": str(folder / "artifacts"),
        "DKD_BROKER_FOLDER": str(folder / "broker"),
        "DKD_WORKER_NAME": _HOST,
        "DKD_DEVICE": "cpu",
        "DKD_CPU_SLOTS": "1",
        "DKD_THREADS": "1",
        "DKD_CACHE_DIR": str(folder / "cache"),
        "DATA_DIR": "/data",  # appears in the reason of the failed run
    }
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=os.environ | settings)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _train(client: Client) -> None:
    """Submit everything and wait until it has ended, but for what no worker can train."""
    made = [client.submit(dict(spec)) for spec in _EXPERIMENTS]
    changes = {"training.epochs": 6, "training.features_every": 2, "seeds": [0], "methods": ["kd", "dkd"]}
    made.append(client.clone(recorded_lab.METHODS, name=recorded_lab.COPY, changes=changes))
    waited = [*(item.id for item in made), *(item.id for item in client.sweep(dict(_SWEEP)).items)]
    end = time.monotonic() + 60 * _MINUTES
    while any(run.state not in TERMINAL for key in waited for run in client.experiment(key).runs):
        if time.monotonic() > end:
            raise TimeoutError(f"the runs have not ended after {_MINUTES} min")
        time.sleep(2)
    client.submit(dict(_WAITING))


def _clean(database: Path, folder: Path) -> None:
    """Replace the names of this machine in the database, and write it into one file."""
    # As a whole word: the ids of runs may contain a short name.
    here = re.compile(rf"(?<!\w){re.escape(socket.gethostname())}(?!\w)")

    def cleaned(text: str | None) -> str | None:
        return text and here.sub(_HOST, text.replace(str(folder), "/lab"))

    with sqlite3.connect(database) as connection:
        connection.create_function("cleaned", 1, cleaned, deterministic=True)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("DELETE FROM idempotency_keys")
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT", "JSON")):
                    change = f"UPDATE {table} SET {column} = cleaned({column})"
                    connection.execute(f"{change} WHERE {column} != cleaned({column})")
    connection.close()
    with sqlite3.connect(database, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
    connection.close()


def _pack(folder: Path) -> None:
    database = folder / "dkd.sqlite3"
    files = [database, *sorted((folder / "artifacts").rglob("*"))]
    with zipfile.ZipFile(recorded_lab.ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in files:
            if not path.is_file() or path.name.startswith(_NOT_RECORDED):
                continue
            content = path.read_bytes()
            if path.suffix == ".safetensors":
                content = bytes(len(content))
            archive.writestr(str(path.relative_to(folder)), content)
            sys.stdout.write(f"{len(content):>9,} {path.relative_to(folder)}\n")
    sys.stdout.write(f"{recorded_lab.ARCHIVE.stat().st_size:,} bytes\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder of the stack, which is kept; by default a temporary one")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        with (
            served.backend(folder) as url,
            Client(url, served.ADMIN_TOKEN, timeout=60) as client,
            _worker(url, folder),
        ):
            _train(client)
        _clean(folder / "dkd.sqlite3", folder)
        _pack(folder)


if __name__ == "__main__":
    main()
