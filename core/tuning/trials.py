"""The trials: an experiment on held-out images, in which each method stands once for each of its settings."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.catalog.methods.search import Range
from core.specs import ExperimentSpec, MethodRef, PlannedRun, Problem, SpecError, parse_experiment, with_fields
from core.specs.components import LABEL_LENGTH
from core.specs.experiment import NAME_LENGTH
from core.specs.tune import Tune
from core.tuning.space import rounded, search_space

if TYPE_CHECKING:
    import optuna

_SUFFIX = " – trials"


def trials_of(spec: ExperimentSpec) -> ExperimentSpec:
    """Return the experiment that tries the settings of an experiment's methods.

    Its students and its teacher are trained without the images that are held out, and all are measured on these. A
    teacher that weights are supplied for is the same. The first trial of a method has the settings of the spec.

    Args:
        spec: An experiment with ``tune``.

    Raises:
        SpecError: Optuna is not installed, or a setting that was drawn is refused.
    """
    tune = spec.tune
    assert tune is not None  # the caller has looked
    params = spec.dataset.params
    methods = [trial for method in spec.methods for trial in _trials(method, tune)]
    data = spec.model_dump(mode="json") | {
        "name": spec.name[: NAME_LENGTH - len(_SUFFIX)].rstrip() + _SUFFIX,
        "dataset": {
            "name": spec.dataset.name,
            "params": {"val_fraction": tune.val_fraction} | params | {"evaluate": "validation"},
        },
        "methods": methods,
        "seeds": list(tune.seeds),
    }
    del data["tune"]
    # Stylised images are made from the test images, and robustness decides nothing here.
    data["training"] |= {"stylised": "", "robustness": False}
    return parse_experiment(data)


def first_runs(spec: ExperimentSpec) -> list[PlannedRun]:
    """Return the runs that an experiment begins with: its trials, or all of its plan if it chooses no settings.

    Raises:
        SpecError: As of ``trials_of``.
    """
    if spec.tune is None:
        return spec.plan()
    plan = trials_of(spec).plan()
    return [replace(run, label=f"{run.label} of the trials") if run.spec.role == "teacher" else run for run in plan]


def student_count(spec: ExperimentSpec) -> int:
    """Return the number of students' runs that an experiment begins with, its trials included."""
    own = len(spec.first_seeds) * len(spec.methods)
    if spec.tune is None:
        return own
    return own + len(spec.tune.seeds) * sum(trial_count(method, spec.tune) for method in spec.methods)


def trial_label(label: str, number: int) -> str:
    """Return the label of a trial of a method, counted from 1."""
    end = f" #{number}"
    return label[: LABEL_LENGTH - len(end)].rstrip() + end


def trial_count(method: MethodRef, tune: Tune) -> int:
    """Return the number of trials of a method: one, if it has nothing to search."""
    return tune.trials if search_space(method) else 1


def _trials(method: MethodRef, tune: Tune) -> list[dict[str, Any]]:
    """Return the settings of a method as specs, the first as it is."""
    space = search_space(method)
    own = method.model_dump(mode="json")
    drawn: list[dict[str, Any]] = [{}]
    if space:
        study, distributions = _study(tune), {path: _distribution(found) for path, found in space.items()}
        while len(drawn) < tune.trials:
            trial = study.ask(distributions)
            drawn.append({path: rounded(value) for path, value in trial.params.items()})
    return [
        with_fields(own, settings | {"label": trial_label(method.label, number)})
        for number, settings in enumerate(drawn, start=1)
    ]


def _study(tune: Tune) -> optuna.Study:
    try:
        library: Any = importlib.import_module("optuna")
    except ImportError:
        text = "the settings are drawn by Optuna, which is not installed; install dkd-lab[sweeps]"
        raise SpecError([Problem("tune", text)]) from None
    library.logging.set_verbosity(library.logging.ERROR)
    samplers = {
        "qmc": lambda: library.samplers.QMCSampler(scramble=True, seed=tune.seed, warn_independent_sampling=False),
        "random": lambda: library.samplers.RandomSampler(seed=tune.seed),
    }
    with warnings.catch_warnings():
        # The interface of the sampler may change, but the settings that it has drawn are stored with the trials.
        warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
        study: optuna.Study = library.create_study(sampler=samplers[tune.sampler]())
    return study


def _distribution(found: Range) -> optuna.distributions.BaseDistribution:
    distributions: Any = importlib.import_module("optuna.distributions")
    if found.choices:
        chosen: optuna.distributions.BaseDistribution = distributions.CategoricalDistribution(found.choices)
        return chosen
    kind = distributions.IntDistribution if found.integer else distributions.FloatDistribution
    low, high = (int(found.low), int(found.high)) if found.integer else (found.low, found.high)
    made: optuna.distributions.BaseDistribution = kind(low, high, log=found.log)
    return made


def with_settings(spec: ExperimentSpec, settings: Mapping[str, Mapping[str, Any]]) -> ExperimentSpec:
    """Return an experiment whose methods have the settings that were chosen, and that chooses none itself.

    Args:
        spec: The experiment.
        settings: By label, the parameters of a method by their paths within it.
    """
    data = spec.model_dump(mode="json")
    data["methods"] = [with_fields(method, settings[method["label"]]) for method in data["methods"]]
    del data["tune"]
    return parse_experiment(data)
