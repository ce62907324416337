"""The importance of the fields of a sweep, by Optuna's fANOVA (Hutter, Hoos and Leyton-Brown, 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dashboard.sweeps.settings import Point, Scale

if TYPE_CHECKING:
    import optuna

LEAST_SETTINGS = 4
"""Fewer settings with a result than this have no importance."""


class NotInstalledError(RuntimeError):
    """Optuna or scikit-learn is missing."""


def importances(points: Sequence[Point], scales: Sequence[Scale], *, seed: int = 0) -> dict[str, float]:
    """Return the share of the variance of the mean result that each field explains alone, by path.

    A forest of regression trees is fitted to the settings. The shares are normalised to sum to 1; they describe the
    settings that were tried and no others.

    Args:
        points: Settings with a result, at least ``LEAST_SETTINGS``.
        scales: The fields; one with a single value among the points has importance 0.
        seed: Seed of the forest.

    Raises:
        NotInstalledError: Optuna or scikit-learn is missing.
    """
    try:
        import optuna
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    except ImportError as error:
        raise NotInstalledError(str(error)) from error
    complete = [point for point in points if all(scale.position(point) is not None for scale in scales)]
    varying = [scale for scale in scales if len({scale.position(point) for point in complete}) > 1]
    if len(complete) < LEAST_SETTINGS or not varying or len({point.mean for point in complete}) < 2:
        return {}
    distributions = {scale.field.path: _distribution(optuna, scale, complete) for scale in varying}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for point in complete:
        params = {scale.field.path: _value(scale, point) for scale in varying}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=point.mean))
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    except ImportError as error:  # scikit-learn is imported only now
        raise NotInstalledError(str(error)) from error
    return {scale.field.path: float(found.get(scale.field.path, 0.0)) for scale in scales}


def _value(scale: Scale, point: Point) -> Any:
    position = scale.position(point)
    return position if scale.numeric else scale.texts[int(position or 0)]


def _distribution(library: Any, scale: Scale, points: Sequence[Point]) -> optuna.distributions.BaseDistribution:
    if not scale.numeric:
        return library.distributions.CategoricalDistribution(scale.texts)  # type: ignore[no-any-return]
    positions = [position for point in points if (position := scale.position(point)) is not None]
    return library.distributions.FloatDistribution(min(positions), max(positions), log=scale.log)  # type: ignore[no-any-return]
