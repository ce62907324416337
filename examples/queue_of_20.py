"""Submit twenty experiments in one request, and print a line for each as it finishes.

    python examples/queue_of_20.py [--epochs 10] [--name night]

The experiments compare DKD with DKD-Align for every temperature and every student, with three seeds each. Either all of
them are queued or none, so that a mistake in one is reported before any training starts. Stopping the script does not
stop the trainings; started again with the same name, it continues to wait for them.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from dkd_lab import Client

TEMPERATURES = (1.0, 2.0, 4.0, 6.0, 8.0)
WIDTHS = (4, 8, 12, 16)


def specs(name: str, epochs: int) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{name} T={temperature:g} width={width}",
            "tags": [name],
            "dataset": "digits",
            "teacher": {"model": "resnet20", "training": {"epochs": epochs}},
            "student": {"model": {"name": "small_cnn", "params": {"width": width}}},
            "methods": [
                {"name": "dkd", "params": {"temperature": temperature, "beta": 2.0}},
                {
                    "name": "dkd_align",
                    "params": {"temperature": temperature, "beta": 2.0, "reduction": "log", "epsilon_share": 0.1},
                },
            ],
            "seeds": "0..2",
            "training": {"epochs": epochs},
        }
        for temperature in TEMPERATURES
        for width in WIDTHS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", default="night")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    with Client() as client:
        # With the same key, a second start of this script repeats the request, and nothing is queued twice.
        created = client.experiments.create_many(
            specs(options.name, options.epochs), idempotency_key=f"queue-{options.name}"
        )
        print(f"{len(created.items)} experiments, {created.runs} runs")
        unfinished = {item.id for item in created.items}
        while unfinished:
            for item in client.experiments.list(tag=options.name, limit=500).items:
                if item.id in unfinished and item.state != "active":
                    unfinished.remove(item.id)
                    print(f"{item.name}: {item.state}, {conclusion(client, item.id)}", flush=True)
            time.sleep(1.0)


def conclusion(client: Client, experiment: str) -> str:
    """Return the conclusion of the comparison in one sentence."""
    return client.comparisons.get(experiment).paired[0].sentence


if __name__ == "__main__":
    main()
