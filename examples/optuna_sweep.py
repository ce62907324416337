"""Search for the temperature, share and learning rate of DKD-Align with Optuna; every trial is an experiment.

    pip install optuna
    python examples/optuna_sweep.py [--trials 20] [--epochs 10] [--name search]

The value of a trial is the mean test accuracy over its seeds. A selection by test accuracy is optimistic: the best
setting is not a result until it is confirmed on new seeds, as the last line does.
"""

from __future__ import annotations

import argparse
from typing import Any

from dkd_lab import Client

try:
    import optuna
except ImportError:
    raise SystemExit("this example needs optuna, which is not installed: pip install optuna") from None


def spec(name: str, trial: str, epochs: int, params: dict[str, float], seeds: str) -> dict[str, Any]:
    return {
        "name": f"{name} {trial}",
        "tags": [name],
        "dataset": "digits",
        "teacher": {"model": "resnet20", "training": {"epochs": epochs}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
        "methods": [
            {
                "name": "dkd_align",
                "params": {
                    "temperature": params["temperature"],
                    "reduction": "log",
                    "epsilon_share": params["epsilon_share"],
                },
            }
        ],
        "seeds": seeds,
        "training": {"epochs": epochs, "optimizer": {"lr": params["lr"]}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", default="search")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with Client() as client:

        def accuracy(trial: str, params: dict[str, float], seeds: str) -> float:
            experiment = client.experiments.create(spec(options.name, trial, options.epochs, params, seeds))
            experiment = client.experiments.wait(experiment.id)
            mean = client.comparisons.get(experiment.id).groups[0].mean
            if mean is None:
                raise optuna.TrialPruned(f"{experiment.name}: {experiment.state}")
            return mean

        def objective(trial: optuna.Trial) -> float:
            params = {
                "lr": trial.suggest_float("lr", 0.005, 0.2, log=True),
                "temperature": trial.suggest_float("temperature", 1.0, 8.0),
                "epsilon_share": trial.suggest_float("epsilon_share", 0.01, 0.3, log=True),
            }
            value = accuracy(f"trial {trial.number}", params, "0..1")
            print(f"trial {trial.number}: {value:.2f} % with {params}", flush=True)
            return value

        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        study.optimize(objective, n_trials=options.trials)
        fresh = accuracy("confirmed", study.best_params, "100..102")
        print(f"best {study.best_value:.2f} % with {study.best_params}; on fresh seeds {fresh:.2f} %")


if __name__ == "__main__":
    main()
