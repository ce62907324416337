"""The author's five claims: two about the loss itself, three that trainings have to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError
from sqlalchemy.orm import Session

from backend.comparisons import convergence, metric_selection, same_data, setting_differences, statistics, verdicts
from backend.comparisons.compare import Options, condition, sample_of
from backend.comparisons.groups import Method, Question, methods_of, paired, test_of
from backend.comparisons.loss_claims import Setting, loss_claims
from backend.comparisons.run_data import ACCURACY, Sample, curves
from backend.db import models
from backend.errors import invalid
from common.formatting import SIGNIFICANCE, p_text, point_text, span_text
from core.catalog import DATASETS
from core.protocol.comparisons import Claim, Claims, Interval, Paired, Verdict
from core.protocol.public import ProblemField
from core.specs import DatasetChoice

COMPACT = "The features of a class get more compact: neural collapse is faster (NC1 is lower)."
FASTER = "It converges faster: fewer epochs to the target accuracy."
MOBILE = "It gains nothing on small mobile students."
NC1 = "collapse/nc1"
_SMALL_MOBILE = ("mobilenet", "shufflenet")
_CLASSES = 100
_TEMPERATURE = 4.0


_UNTESTED = verdicts.Test(0, None, None)


@dataclass(frozen=True)
class _Test:
    """What the runs say of one claim, before the p is adjusted.

    Attributes:
        test: what decides; one of nothing where there is nothing to test.
        towards: the claim's verdict where a difference is found, by its direction.
        conclusion: what then is added to the reason.
    """

    claim: Claim
    test: verdicts.Test = _UNTESTED
    towards: Verdict = "cannot tell"
    conclusion: str = ""


def judge(session: Session, experiments: Sequence[models.Experiment], options: Options | None = None) -> Claims:
    """The report, on values of the last epoch: of the options, baseline, target and difference are used.

    Raises ApiError 422 where the experiments are not one, or the baseline is no method of theirs.
    """
    options = replace(options or Options(), which="last", metric=ACCURACY)
    sample = sample_of(session, experiments)
    align = [label for label, name in sample.labels.items() if name == "dkd_align"]
    baseline = _baseline(sample, options.baseline)
    tests: list[_Test] = []
    if align and baseline:
        tests = _from_runs(session, sample, align, baseline, options)
    else:
        lack = "a DKD-Align method" if not align else "a DKD method to compare it with"
        tests = [
            _Test(Claim(number=number, claim=text, verdict="cannot tell", reason=f"the experiment has no {lack[2:]}"))
            for number, text in ((3, COMPACT), (4, FASTER), (5, MOBILE))
        ]
    decisions = verdicts.decide([test.test for test in tests])
    count = sum(decision.p_holm is not None for decision in decisions)
    judged = [_judged(test, decision) for test, decision in zip(tests, decisions, strict=True)]
    setting = _setting(sample)
    return Claims(
        experiment=sample.experiments[0].name,
        experiments=[item.name for item in sample.experiments],
        condition=condition(sample),
        claims=[*loss_claims(setting), *sorted(judged, key=lambda claim: claim.number)],
        notes=_notes(sample, setting, count),
    )


def _from_runs(session: Session, sample: Sample, align: Sequence[str], baseline: str, options: Options) -> list[_Test]:
    done = [student.run_id for student in sample.students if student.state in ("succeeded", "failed")]
    series = curves(session, done, [ACCURACY])  # claim 4 counts epochs, so nothing is asked of times
    collapse = methods_of(sample, metric_selection.pick(session, sample, NC1, "last"), {}, options.goal)
    accuracy = methods_of(sample, metric_selection.pick(session, sample, ACCURACY, "last"), series, options.goal)
    tests = []
    for label in align:
        tests += [
            _compact(collapse[label], collapse[baseline], sample),
            _faster(accuracy[label], accuracy[baseline], options),
            _mobile(accuracy[label], accuracy[baseline], sample, options),
        ]
    return tests


def _compact(method: Method, base: Method, sample: Sample) -> _Test:
    found = paired(method, base, sample, Question(NC1))
    claim = Claim(
        number=3, claim=COMPACT, label=method.label, baseline=base.label, verdict="cannot tell", reason="", n=found.n
    )
    if found.mean_difference is None:
        return _Test(claim.model_copy(update={"reason": "no pair has measured NC1 yet"}))
    numbers = {"mean_difference": found.mean_difference} | _bounds(found.interval)
    towards: Verdict = "holds" if found.mean_difference < 0 else "does not hold"
    text = f"NC1 differs by {point_text(found.mean_difference, found.interval)}{_interval_text(found)}"
    claim = claim.model_copy(update={"reason": text, "p": found.sign_flip_p, "numbers": numbers})
    return _Test(claim, test_of(found, None), towards)


def _faster(method: Method, base: Method, options: Options) -> _Test:
    claim = Claim(number=4, claim=FASTER, label=method.label, baseline=base.label, verdict="cannot tell", reason="")
    found = convergence.compare(method.reached, base.reached)
    if found is None:
        return _Test(claim.model_copy(update={"reason": "no pair has both a target and an end yet"}))
    goal = (
        f"{options.target:g} %" if options.target is not None else f"{100 * options.target_share:g} % of the teacher's"
    )
    numbers: dict[str, float] = {"earlier": found.earlier, "later": found.later, "equal": found.equal}
    if found.speed_up is not None:
        numbers["speed_up"] = found.speed_up
    if found.area_difference is not None:
        numbers["area_difference"] = found.area_difference
    text = f"to {goal}: earlier in {found.earlier}, later in {found.later}, equal in {found.equal} of {found.n} pairs"
    if found.units != found.n:
        text += f" (of {found.units} teachers, earlier with {found.units_earlier}, later with {found.units_later})"
    if found.speed_up is not None:
        text += f"; {found.speed_up:.2f} times as fast in epochs where both got there ({found.both_reached})"
    if found.earlier + found.later == 0 and not found.both_reached:
        text += "; no run got there"
    towards: Verdict = "holds" if found.units_earlier > found.units_later else "does not hold"
    claim = claim.model_copy(update={"reason": text, "n": found.n, "p": found.sign_p, "numbers": numbers})
    # By signs alone: a run that never got there has no number of epochs, so there is no interval.
    lead = float(found.units_later - found.units_earlier)
    least = statistics.sign_test_p(found.units, 0)
    return _Test(claim, verdicts.Test(found.units, lead, found.sign_p, least), towards)


def _mobile(method: Method, base: Method, sample: Sample, options: Options) -> _Test:
    student = sample.spec["student"]["model"]["name"]
    claim = Claim(number=5, claim=MOBILE, label=method.label, baseline=base.label, verdict="cannot tell", reason="")
    if not any(name in student for name in _SMALL_MOBILE):
        return _Test(claim.model_copy(update={"reason": f"{student} is no small mobile network"}))
    found = paired(method, base, sample, Question(ACCURACY))
    if found.mean_difference is None:
        return _Test(claim.model_copy(update={"reason": "no pair has ended yet", "n": found.n}))
    numbers = {"mean_difference": found.mean_difference} | _bounds(found.interval)
    shown = f"{point_text(found.mean_difference, found.interval)} percentage points"
    text = f"the gain is {shown}{_interval_text(found)}"
    claim = claim.model_copy(update={"n": found.n, "numbers": numbers})
    margin = options.difference
    if margin is not None and found.units >= 4 and found.interval and found.interval.high < margin:
        # The gain is tested against the margin, not against zero: one more test of the report, as every other is.
        p = statistics.t_p(found.mean_difference, found.sd, found.units, limit=margin)
        text += f", tested by t against a gain of {margin:g}, as if the differences were normally distributed"
        claim = claim.model_copy(update={"reason": text, "p": p})
        apart = Interval(low=found.interval.low - margin, high=found.interval.high - margin)
        test = verdicts.Test(found.units, found.mean_difference - margin, p, None, apart)
        return _Test(claim, test, "holds", f"a gain of {margin:g} or more is excluded")
    towards: Verdict = "holds" if found.mean_difference < 0 else "does not hold"
    claim = claim.model_copy(update={"reason": text, "p": found.sign_flip_p})
    return _Test(claim, test_of(found, None), towards)


def _judged(judged: _Test, decision: verdicts.Decision) -> Claim:
    claim, test, tests = judged.claim, judged.test, decision.tests
    if claim.p is None or decision.p_holm is None:
        return claim
    p, p_holm = p_text(claim.p), p_text(decision.p_holm)
    text = f"{claim.reason}; p = {p_holm} after Holm over {tests} tests ({p} for this one alone)"
    if tests == 1:
        text = f"{claim.reason}; p = {p}"
    verdict = judged.towards if decision.verdict in ("higher", "lower") else claim.verdict
    if verdict != "cannot tell":
        text += f": {judged.conclusion}" if judged.conclusion else ""
    else:
        noun = "pairs" if test.n == claim.n else "teachers"
        if test.smallest_p is not None and test.smallest_p >= SIGNIFICANCE:
            text += f"; {test.n} {noun} cannot show p < {p_text(test.smallest_p, 3)}"
        elif decision.least is not None and decision.least >= SIGNIFICANCE:
            text += f"; over {tests} tests {test.n} {noun} cannot show p < {p_text(decision.least)}"
    return claim.model_copy(update={"reason": text, "verdict": verdict, "p_holm": decision.p_holm})


def _baseline(sample: Sample, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in sample.labels:
            text = f"there is no method {wanted!r} in {sample.experiments[0].name}; it has {', '.join(sample.labels)}"
            raise invalid(text, ProblemField(path="baseline", message=text))
        return wanted
    return next((label for label, name in sample.labels.items() if name == "dkd"), None)


def _setting(sample: Sample) -> Setting:
    """The classes and the temperature of the experiment; CIFAR-100's and the usual ones where it does not say."""
    try:
        dataset = DatasetChoice.model_validate(sample.spec["dataset"])
    except ValidationError:  # of a plugin that is away
        facts = None
    else:
        facts = DATASETS[dataset.name].facts(dataset.typed_params)
    params = [choice["params"] for choice in sample.spec["methods"] if choice["name"] == "dkd_align"]
    temperature = params[0]["temperature"] if params else _TEMPERATURE
    return Setting(facts.num_classes if facts and facts.num_classes > 2 else _CLASSES, temperature)


def _notes(sample: Sample, setting: Setting, tests: int) -> list[str]:
    found = [
        *same_data.notes(sample),
        *setting_differences.pooled(sample),
        f"Claims 1 and 2 are of the loss itself, computed for {setting.classes} classes and T = "
        f"{setting.temperature:g}; nearly the same means within 5 %.",
        "Claims 3 to 5 are judged by pairs: a verdict needs p < 0.05 after Holm, and for 3 and 5 an interval without "
        "zero. Claim 4 is tested by signs, since a run that never got there is later than any.",
    ]
    found[:0] = sample.misnamed
    if tests > 1:
        found.append(f"Holm is over the {tests} tests of this report.")
    if sample.teachers and not sample.teachers_vary:
        found.append("Conditional on this teacher.")
    if not sample.complete:
        found.append("Not every run has ended: verdicts may change.")
    return found


def _bounds(interval: Interval | None) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high} if interval else {}


def _interval_text(found: Paired) -> str:
    return f" (95 % interval {span_text(found.interval, '', found.mean_difference)})" if found.interval else ""
