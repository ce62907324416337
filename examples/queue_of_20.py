"""Twenty experiments in one request, worked off by whoever has a slot free; a line for each as it ends.

    python examples/queue_of_20.py [--epochs 10] [--name night]

Every temperature with every student, DKD against DKD-Align, three seeds each. All of it is queued at once or nothing
is, so that a mistake in one of them is told before anything trains. Stopping the script stops no training: started
again with the same name, it goes on waiting where it was.
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
        # The key makes a second start of this script the same request: nothing is queued twice.
        made = client.experiments.create_many(
            specs(options.name, options.epochs), idempotency_key=f"queue-{options.name}"
        )
        print(f"{len(made.items)} experiments, {made.runs} runs")
        waiting = {item.id for item in made.items}
        while waiting:
            for item in client.experiments.list(tag=options.name, limit=500).items:
                if item.id in waiting and item.state != "active":
                    waiting.remove(item.id)
                    print(f"{item.name}: {item.state}, {best_of(client, item.id)}", flush=True)
            time.sleep(1.0)


def best_of(client: Client, experiment: str) -> str:
    """What the comparison allows one to say."""
    return client.comparisons.get(experiment).paired[0].sentence


if __name__ == "__main__":
    main()
