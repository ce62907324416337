"""Seeds of a spec: lists, ranges, and as many as it takes to decide."""

from __future__ import annotations

from typing import Any

import pytest

from core.specs import ExperimentSpec, SpecError, UntilDecided, parse_experiment, parse_text, to_yaml, warnings_of
from tests.core.test_spec import ALIGN, spec

UNTIL: dict[str, Any] = {"until": "decided", "difference": 0.5}


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_experiment(spec(**changes))
    return {problem.path: problem.message for problem in caught.value.problems}


def until(**changes: Any) -> ExperimentSpec:
    return parse_experiment(spec(seeds=UNTIL | changes))


def test_the_first_seeds_are_planned_and_the_others_follow_in_their_order() -> None:
    experiment = until(start=10, first=4)
    assert experiment.seeds == UntilDecided(until="decided", start=10, first=4, most=20, difference=0.5, alpha=0.05)
    assert experiment.first_seeds == (10, 11, 12, 13)
    assert [(run.label, run.spec.seed) for run in experiment.plan()[1:]] == [
        (label, seed) for seed in (10, 11, 12, 13) for label in ("dkd", "dkd_align (log)")
    ]
    assert [(run.label, run.spec.seed) for run in experiment.student_runs([14], ["dkd"])] == [("dkd", 14)]


def test_a_run_is_the_same_whichever_form_named_its_seed() -> None:
    listed = parse_experiment(spec(seeds=[0, 1, 2]))
    grown = until()
    assert [run.spec.fingerprint() for run in grown.plan()] == [run.spec.fingerprint() for run in listed.plan()]
    assert [run.spec for run in grown.student_runs([3])] == [run.spec for run in listed.student_runs([3])]


def test_it_is_written_and_read_back() -> None:
    experiment = until(most=12, alpha=0.1)
    assert parse_text(to_yaml(experiment)) == experiment
    assert parse_experiment(experiment.model_dump(mode="json")) == experiment


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"most": 2}, "seeds.most", "at least first, which is 3"),
        ({"most": 101}, "seeds.most", "100"),
        ({"first": 1}, "seeds.first", "2"),
        ({"difference": 0}, "seeds.difference", "greater than 0"),
        ({"alpha": 0.5}, "seeds.alpha", "0.2"),
        ({"until": "decide"}, "seeds.until", "did you mean 'decided'?"),
        ({"maximum": 9}, "seeds.maximum", "unknown field"),
        ({"start": 2**31 - 5}, "seeds.start", "2147483647"),
        ({"difference": True}, "seeds.difference", "neither true nor false"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(changes: dict[str, Any], path: str, says: str) -> None:
    assert says in problems(seeds=UNTIL | changes)[path]


def test_the_difference_that_matters_has_no_default() -> None:
    assert problems(seeds={"until": "decided"}) == {"seeds.difference": "missing"}


def test_one_method_has_nothing_to_decide() -> None:
    assert "no comparison" in problems(seeds=UNTIL, methods=["dkd"])["seeds.until"]


def test_the_most_seeds_count_against_the_limit_of_runs() -> None:
    methods = [{"name": "dkd", "label": f"m{n}"} for n in range(200)]
    assert "20000 runs" in problems(seeds=UNTIL | {"most": 100}, methods=methods)["seeds"]


def test_so_few_seeds_that_nothing_could_be_decided_are_warned_of() -> None:
    def about_most(**changes: Any) -> str:
        return next((item.message for item in warnings_of(until(**changes)) if item.path == "seeds.most"), "")

    assert "4 pairs cannot decide" in about_most(most=4)
    assert about_most() == about_most(most=6) == ""
    experiment = parse_experiment(spec(seeds=UNTIL | {"most": 6}, methods=["dkd", ALIGN, "kd"]))
    assert "over 2 comparisons" in next(item.message for item in warnings_of(experiment) if item.path == "seeds.most")
