"""Settings are chosen on held-out images, with one budget for all methods, before the first test evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.catalog import METHODS
from core.catalog.methods.search import Range
from core.specs import ExperimentSpec, MethodRef, SpecError, parse_experiment, read_experiment
from core.standalone import CHOICE_NAME, SPEC_NAME, TRIALS_FOLDER, run_experiment
from core.tuning.choice import ChoiceError, TrialRun, choose
from core.tuning.space import in_words, search_space
from core.tuning.trials import trial_label, trials_of, with_settings

ALIGN: dict[str, Any] = {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}


def audit(**changes: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "audit",
            "dataset": "digits",
            "teacher": {"model": "small_cnn"},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": ["ce", "kd", "dkd", ALIGN],
            "seeds": [0, 1],
            "tune": {"trials": 4},
            "training": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05}},
        }
        | changes
    )


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        audit(**changes)
    return {problem.path: problem.message for problem in caught.value.problems}


def runs(trials: ExperimentSpec, values: Mapping[str, float | None], **more: float) -> list[TrialRun]:
    """Return the students' runs of trials with these results on the held-out images, by label."""
    return [
        TrialRun(
            run.label, run.spec, None if (value := values.get(run.label, 50.0)) is None else {"val/top1": value} | more
        )
        for run in trials.plan()
        if run.spec.role == "student"
    ]


def test_the_space_of_a_method_has_its_weights_and_its_temperature() -> None:
    assert search_space(MethodRef(name="ce")) == {}
    assert search_space(MethodRef(name="dkd")) == {
        "params.alpha": Range(0.25, 4.0, log=True),
        "params.beta": Range(2.0, 32.0, log=True),
        "params.temperature": Range(2.0, 8.0, log=True),
    }
    assert in_words(search_space(MethodRef(name="kd"))) == "kd_weight 0.225–3.6 (log), temperature 2–8 (log)"
    assert in_words({}) == "nothing to search"


def test_a_share_is_searched_in_place_of_the_weight_that_it_replaces() -> None:
    space = search_space(MethodRef.model_validate(ALIGN))
    assert "params.epsilon" not in space
    assert space["params.epsilon_share"] == Range(0.025, 0.4, log=True)
    shared = search_space(MethodRef.model_validate({"name": "dkd", "shares": {"nckd": 0.4}}))
    assert "params.beta" not in shared
    assert shared["shares.nckd"] == Range(0.1, 0.9, log=True)


def test_an_added_method_is_searched_at_its_own_path() -> None:
    method = MethodRef.model_validate({"name": "crd", "params": {"negatives": 64}, "with": ["kd"]})
    assert {"params.weight", "with.0.params.kd_weight", "with.0.params.temperature"} <= search_space(method).keys()


PARAMS: dict[str, dict[str, Any]] = {"crd": {"negatives": 64}, "dkd_align": {"reduction": "log", "epsilon_share": 0.1}}


@pytest.mark.parametrize(
    "name",
    [
        entry.name
        for entry in METHODS  # those of tests are among them, and those of detectors
        if entry.target.startswith("core.") and not entry.tasks and entry.name != "ce"
    ],
)
def test_every_method_has_trials_whose_settings_are_valid(name: str) -> None:
    networks = {"teacher": {"model": "resnet20"}, "student": {"model": "resnet8"}, "training": {"epochs": 100}}
    method = {"name": name, "params": PARAMS.get(name, {})}
    spec = audit(methods=["ce", method], tune={"trials": 6}, **networks)
    labels = [method.label for method in trials_of(spec).methods]
    own = spec.methods[1].label
    assert labels[0] == "ce #1"
    assert labels[1:] == [trial_label(own, number) for number in range(1, 7)] or (not search_space(spec.methods[1]))


def test_trials_are_measured_on_images_held_out_and_begin_with_the_settings_of_the_spec() -> None:
    spec = audit()
    trials = trials_of(spec)
    assert trials.dataset.params == {"val_fraction": 0.1, "val_seed": 0, "evaluate": "validation"}
    assert trials.dataset.headline == "val/top1"
    assert spec.dataset.headline == "test/top1"
    assert trials.tune is None
    by_label = {method.label: method for method in trials.methods}
    assert list(by_label) == ["ce #1"] + [
        f"{label} #{number}" for label in ("kd", "dkd", "dkd_align (log)") for number in range(1, 5)
    ]
    assert by_label["dkd #1"].params == spec.methods[2].params
    drawn = {json.dumps(by_label[f"dkd #{number}"].params) for number in range(1, 5)}
    assert len(drawn) == 4
    for number in range(2, 5):
        beta = by_label[f"dkd #{number}"].params["beta"]
        assert 2.0 <= beta <= 32.0
    teacher = trials.teacher_run()
    assert teacher is not None
    assert teacher.dataset == trials.dataset  # it has not seen the held-out images either


def test_trials_do_not_measure_images_made_from_the_test_images() -> None:
    training = {"epochs": 1, "batch_size": 16, "robustness": True, "stylised": "styled"}
    spec = audit(training=training)
    trials = trials_of(spec)
    assert (trials.training.stylised, trials.training.robustness) == ("", False)
    assert (spec.training.stylised, spec.training.robustness) == ("styled", True)


def test_trials_are_the_same_at_each_start() -> None:
    assert trials_of(audit()) == trials_of(audit())
    assert trials_of(audit(tune={"trials": 4, "seed": 1})) != trials_of(audit())
    assert trials_of(audit(tune={"trials": 4, "sampler": "random"})) != trials_of(audit())


def test_a_val_fraction_of_the_spec_is_kept() -> None:
    spec = audit(dataset={"name": "digits", "params": {"val_fraction": 0.25, "val_seed": 3}})
    assert trials_of(spec).dataset.params == {"val_fraction": 0.25, "val_seed": 3, "evaluate": "validation"}


def test_the_best_trial_is_chosen_and_the_students_get_its_settings() -> None:
    spec = audit()
    trials = trials_of(spec)
    choice = choose(spec, runs(trials, {"dkd #3": 60.0, "kd #1": 55.0}), images=90)
    by_label = {chosen.label: chosen for chosen in choice.methods}
    assert {label: chosen.trial for label, chosen in by_label.items()} == {
        "ce": 1,
        "kd": 1,
        "dkd": 3,
        "dkd_align (log)": 1,  # the first of equal ones: the settings of the spec
    }
    assert (by_label["dkd"].score, by_label["dkd"].score_of_spec, by_label["dkd"].trials) == (60.0, 50.0, 4)
    final = with_settings(spec, choice.settings)
    chosen = next(method for method in trials.methods if method.label == "dkd #3")
    assert final.methods[2].params == chosen.params
    assert final.methods[2].label == "dkd"
    assert final.tune is None
    assert final.dataset == spec.dataset
    text = "\n".join(choice.sentences())
    assert "on 90 images held out of the training images, before the first test evaluation" in text
    assert choice.digest[:12] in text
    assert "dkd: trial 3 of 4 was best" in text
    assert "ce: nothing to search." in text


def test_the_hash_follows_the_choice() -> None:
    spec = audit()
    trials = trials_of(spec)
    one, same, other = (choose(spec, runs(trials, {best: 60.0}), images=90) for best in ("dkd #3", "dkd #3", "dkd #2"))
    assert one.digest == same.digest != other.digest


def test_the_mean_over_the_seeds_of_a_trial_counts() -> None:
    spec = audit(tune={"trials": 2, "seeds": [7, 8]})
    trials = trials_of(spec)
    scores = {("dkd #1", 7): 80.0, ("dkd #1", 8): 20.0, ("dkd #2", 7): 55.0, ("dkd #2", 8): 56.0}
    given = [
        TrialRun(run.label, run.spec, {"val/top1": scores.get((run.label, run.spec.seed), 50.0)})
        for run in trials.plan()
        if run.spec.role == "student"
    ]
    assert choose(spec, given).methods[2].trial == 2


@pytest.mark.parametrize("metric", ["test/top1", "test/loss", "test_ema/top1"])
def test_a_run_that_has_seen_test_accuracy_cannot_take_part(metric: str) -> None:
    spec = audit()
    trials = trials_of(spec)
    given = [*runs(trials, {})[:-1], runs(trials, {}, **{metric: 99.0})[-1]]
    with pytest.raises(ChoiceError, match=f"has seen the test images: it has reported {metric}"):
        choose(spec, given)


def test_a_run_of_the_test_images_cannot_take_part_even_without_a_metric_of_them() -> None:
    spec = audit()
    trials = trials_of(spec)
    given = runs(trials, {})
    seen = given[0].spec.model_copy(update={"dataset": spec.dataset})
    given[0] = TrialRun(given[0].label, seen, {"val/top1": 99.0})
    with pytest.raises(ChoiceError, match="the run ce #1 with seed 10000 has seen the test images"):
        choose(spec, given)


def test_a_trial_that_failed_takes_no_part_and_a_method_without_any_is_named() -> None:
    spec = audit()
    trials = trials_of(spec)
    failed = {"dkd #1": None, "dkd #2": float("nan")}
    assert choose(spec, runs(trials, failed)).methods[2].trial == 3
    with pytest.raises(ChoiceError, match="no trial of kd succeeded"):
        choose(spec, runs(trials, {f"kd #{number}": None for number in range(1, 5)}))
    with pytest.raises(ChoiceError, match=r"the trial dkd_align .* has no run with seed 10000"):
        choose(spec, runs(trials, {})[:-1])


def test_problems_are_named_with_their_paths() -> None:
    assert "is one of the experiment's" in problems(tune={"seeds": [1]})["tune.seeds"]
    assert "given twice" in problems(tune={"seeds": [7, 7]})["tune.seeds"]
    assert (
        "is one of the experiment's"
        in problems(seeds={"until": "decided", "difference": 1.0, "most": 20}, tune={"seeds": [19]})["tune.seeds"]
    )
    measured = {"name": "digits", "params": {"val_fraction": 0.1, "evaluate": "validation"}}
    assert "the trials hold images out by themselves" in problems(dataset=measured)["dataset.params.evaluate"]
    assert "tune.trials" in problems(tune={"trials": 1})
    assert "tune.on" in problems(tune={"on": "test"})


def test_measuring_on_held_out_images_needs_some() -> None:
    with pytest.raises(SpecError, match="no training images are held out to measure on; give val_fraction"):
        audit(dataset={"name": "digits", "params": {"evaluate": "validation"}}, tune=None)


def test_a_spec_without_a_choice_is_stored_as_before() -> None:
    spec = audit(tune=None)
    assert "tune" not in spec.model_dump(mode="json")
    held_out = audit(dataset={"name": "digits", "params": {"val_fraction": 0.1}}, tune=None)
    assert held_out.dataset.params == {"val_fraction": 0.1, "val_seed": 0}


def test_an_audit_is_trained_frozen_and_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = audit(methods=["ce", "dkd"], tune={"trials": 2}, seeds=[0])
    assert run_experiment(spec, tmp_path) == 0
    output = capsys.readouterr().out
    frozen = json.loads((tmp_path / CHOICE_NAME).read_text(encoding="utf-8"))
    assert frozen["hash"][:12] in output
    assert frozen["images"] == 90
    assert read_experiment(tmp_path / SPEC_NAME) == spec  # as it was written, with the trials
    for journal in (tmp_path / TRIALS_FOLDER).glob("*/events.jsonl"):
        text = journal.read_text(encoding="utf-8")
        assert '"val/top1"' in text
        assert '"test/' not in text
    settings = next(item for item in frozen["methods"] if item["label"] == "dkd")["settings"]
    trained = json.loads((tmp_path / "dkd-seed0" / "run.json").read_text(encoding="utf-8"))
    assert {
        f"params.{name}": trained["method"]["params"][name] for name in ("alpha", "beta", "temperature")
    } == settings
    assert trained["dataset"] == {"name": "digits", "params": {}}

    assert run_experiment(spec, tmp_path) == 0  # nothing is trained again, and the choice is the same
    (tmp_path / CHOICE_NAME).write_text(json.dumps(frozen | {"hash": "0" * 64}), encoding="utf-8")
    assert run_experiment(spec, tmp_path) == 1
    assert "has frozen another choice (000000000000" in capsys.readouterr().err
