"""Serves the backend in memory until it is stopped: ``python -m tests.dashboard --port 8123 --live``."""

from __future__ import annotations

import argparse
import time

from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--live", action="store_true", help="train an epoch every half second")
    arguments = parser.parse_args()
    backend = FakeBackend()
    backend.submit(digits_spec())
    while backend.runs["run-0001-003"].state != "running":
        backend.tick()
    backend.submit(digits_spec(name="finished-example", seeds=[0, 1, 2, 3, 4]))
    for run in list(backend.runs.values()):
        if run.experiment.name == "finished-example":
            backend.advance(run.id, 30)
    backend.submit(digits_spec(name="with-a-failure", seeds=[0]))
    for run in list(backend.runs.values()):
        if run.experiment.name == "with-a-failure":
            backend.advance(run.id, 3)
            backend.end(run.id, "failed", "the loss is not a number at step 45; lower the learning rate or ε")
    with FakeServer(backend, arguments.port):
        while True:
            time.sleep(0.5)
            if arguments.live:
                backend.tick()


if __name__ == "__main__":
    main()
