"""Verdicts on the claims of a published paper, from the runs of an experiment. ``core.papers`` defines the claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy.orm import Session

from backend.comparisons import (
    convergence,
    metric_selection,
    same_data,
    sequential,
    setting_differences,
    statistics,
    verdicts,
)
from backend.comparisons.comparison import convergence_target, sample_of, teacher_summary
from backend.comparisons.groups import ComparisonSpec, Method, methods_of, paired, test_of
from backend.comparisons.run_data import Sample, curves
from backend.db import models
from backend.errors import invalid
from common.formatting import SIGNIFICANCE, p_text, point_text, span_text
from core.catalog import DATASETS
from core.papers import PAPERS, LossFinding, LossSetting, Paper, RunClaim, with_claims
from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.comparisons import Interval, PairedDifference, PaperClaim, PaperClaims, Verdict
from core.protocol.public import ProblemField
from core.specs import DatasetRef
from core.specs.labels import combined_name

_DEFAULT_CLASSES = 100
_DEFAULT_TEMPERATURE = 4.0

_UNTESTED = verdicts.Test(0, None, None)


@dataclass(frozen=True)
class _JudgedClaim:
    """A claim with the test that decides it, before p is adjusted for the other tests of the report.

    Attributes:
        claim: The claim; its verdict is "cannot tell" until all tests of the report are known.
        test: The test; ``_UNTESTED`` if there is nothing to test.
        verdict_if_different: Verdict if the test is significant; it follows from the sign of the difference.
        conclusion: Text that is appended to the reason if the test is significant.
    """

    claim: PaperClaim
    test: verdicts.Test = _UNTESTED
    verdict_if_different: Verdict = "cannot tell"
    conclusion: str = ""


def judge(
    session: Session,
    experiments: Sequence[models.Experiment],
    options: ComparisonOptions | None = None,
    paper: str | None = None,
) -> PaperClaims:
    """Judge the claims of a paper, by values of the last epoch.

    Args:
        session: Session for reading.
        experiments: Experiments that differ only in their seeds; they are evaluated as one.
        options: Comparison options; only ``baseline``, the target and ``difference`` are used.
        paper: Name in ``core.papers``; by default the first paper that has claims.

    Raises:
        ApiError: 422 if the experiments differ in more than their seeds, the baseline is not one of their methods, or
            the paper is unknown.
    """
    source = _paper(paper)
    options = (options or ComparisonOptions()).model_copy(update={"which": "last", "metric": None})
    sample = sample_of(session, experiments, settings=options.settings)
    controls = {choice["label"] for choice in sample.spec["methods"] if source.is_control(choice["params"])}
    labels = [label for label, name in sample.labels.items() if name == source.method and label not in controls]
    baseline = _baseline(sample, options.baseline, source)
    claims: list[_JudgedClaim] = []
    if labels and baseline:
        claims = _judge_by_runs(session, sample, source, labels, baseline, options)
    else:
        missing = f"{source.baseline_title} method to compare it with" if labels else f"{source.method_title} method"
        claims = [_JudgedClaim(_claim(claim, reason=f"the experiment has no {missing}")) for claim in source.run_claims]
    decisions = verdicts.decide([claim.test for claim in claims])
    count = sum(decision.p_holm is not None for decision in decisions)
    decided = [_with_verdict(claim, decision) for claim, decision in zip(claims, decisions, strict=True)]
    setting = _loss_setting(sample, source)
    findings = source.loss_claims(setting) if source.loss_claims else []
    return PaperClaims(
        paper=source.name,
        paper_title=source.title,
        experiment=sample.experiments[0].name,
        experiments=[item.name for item in sample.experiments],
        condition=teacher_summary(sample),
        claims=[*map(_loss_claim, findings), *sorted(decided, key=lambda claim: claim.number)],
        notes=_notes(sample, source.notes(setting) if source.notes else [], count),
    )


def _paper(name: str | None) -> Paper:
    available = with_claims()
    if name is None:
        return available[0]
    if name not in PAPERS or PAPERS[name] not in available:
        text = f"there are no claims of {name!r}; there are those of {', '.join(paper.name for paper in available)}"
        raise invalid(text, ProblemField(path="paper", message=text))
    return PAPERS[name]


def _claim(claim: RunClaim, method: str = "", baseline: str = "", reason: str = "", n: int = 0) -> PaperClaim:
    return PaperClaim(
        number=claim.number,
        claim=claim.text,
        label=method,
        baseline=baseline,
        verdict="cannot tell",
        reason=reason,
        n=n,
    )


def _loss_claim(finding: LossFinding) -> PaperClaim:
    return PaperClaim(
        number=finding.number,
        claim=finding.text,
        case=finding.case,
        verdict="holds" if finding.holds else "does not hold",
        reason=finding.reason,
        numbers=finding.numbers,
    )


def _judge_by_runs(
    session: Session, sample: Sample, paper: Paper, labels: Sequence[str], baseline: str, options: ComparisonOptions
) -> list[_JudgedClaim]:
    ended = [student.run_id for student in sample.students if student.state in ("succeeded", "failed")]
    series = curves(session, ended, [sample.headline])  # "earlier" counts epochs, so no metric of time is read
    methods = {
        metric: methods_of(
            sample,
            metric_selection.select_values(session, sample, metric, "last"),
            series if metric == sample.headline else {},
            convergence_target(options),
        )
        for metric in dict.fromkeys(_metric(claim, sample) for claim in paper.run_claims)
    }
    return [
        _JUDGES[claim.kind](claim, of_metric[label], of_metric[baseline], sample, options)
        for label in labels
        for claim in paper.run_claims
        for of_metric in (methods[_metric(claim, sample)],)
    ]


def _metric(claim: RunClaim, sample: Sample) -> str:
    """Return the name of the metric that decides a claim."""
    return claim.metric or sample.headline


def _judge_lower(
    claim: RunClaim, method: Method, base: Method, sample: Sample, options: ComparisonOptions
) -> _JudgedClaim:
    pair = paired(method, base, sample, ComparisonSpec(_metric(claim, sample)))
    result = _claim(claim, method.label, base.label, n=pair.n)
    if pair.mean_difference is None:
        return _JudgedClaim(result.model_copy(update={"reason": f"no pair has measured {claim.title} yet"}))
    numbers = {"mean_difference": pair.mean_difference} | _bounds(pair.interval)
    verdict: Verdict = "holds" if pair.mean_difference < 0 else "does not hold"
    text = f"{claim.title} differs by {point_text(pair.mean_difference, pair.interval)}{_interval_text(pair)}"
    result = result.model_copy(update={"reason": text, "p": pair.sign_flip_p, "numbers": numbers})
    return _JudgedClaim(result, test_of(pair, None), verdict)


def _judge_earlier(
    claim: RunClaim, method: Method, base: Method, sample: Sample, options: ComparisonOptions
) -> _JudgedClaim:
    result = _claim(claim, method.label, base.label)
    pairs = convergence.compare(method.reached, base.reached)
    if pairs is None:
        return _JudgedClaim(result.model_copy(update={"reason": "no pair has both a target and an end yet"}))
    unit = ComparisonSpec(_metric(claim, sample)).unit
    target = (
        f"{options.target:g} {unit}".rstrip()
        if options.target is not None
        else f"{100 * options.target_share:g} % of the teacher's"
    )
    numbers: dict[str, float] = {"earlier": pairs.earlier, "later": pairs.later, "equal": pairs.equal}
    if pairs.speed_up is not None:
        numbers["speed_up"] = pairs.speed_up
    if pairs.area_difference is not None:
        numbers["area_difference"] = pairs.area_difference
    text = f"to {target}: earlier in {pairs.earlier}, later in {pairs.later}, equal in {pairs.equal} of {pairs.n} pairs"
    if pairs.units != pairs.n:
        text += f" (of {pairs.units} teachers, earlier with {pairs.units_earlier}, later with {pairs.units_later})"
    if pairs.speed_up is not None:
        text += f"; {pairs.speed_up:.2f} times as fast in epochs if both reached it ({pairs.both_reached})"
    if pairs.earlier + pairs.later == 0 and not pairs.both_reached:
        text += "; no run reached it"
    verdict: Verdict = "holds" if pairs.units_earlier > pairs.units_later else "does not hold"
    result = result.model_copy(update={"reason": text, "n": pairs.n, "p": pairs.sign_p, "numbers": numbers})
    # Tested by signs alone: a run that never reached the target has no number of epochs, so there is no interval.
    direction = float(pairs.units_later - pairs.units_earlier)
    smallest = statistics.sign_test_p(pairs.units, 0)
    return _JudgedClaim(result, verdicts.Test(pairs.units, direction, pairs.sign_p, smallest), verdict)


def _judge_no_gain(
    claim: RunClaim, method: Method, base: Method, sample: Sample, options: ComparisonOptions
) -> _JudgedClaim:
    student = sample.spec["student"]["model"]["name"]
    result = _claim(claim, method.label, base.label)
    if claim.students and not any(name in student for name in claim.students):
        return _JudgedClaim(result.model_copy(update={"reason": f"{student} is not a {claim.students_title}"}))
    spec = ComparisonSpec(_metric(claim, sample))
    pair = paired(method, base, sample, spec)
    if pair.mean_difference is None:
        return _JudgedClaim(result.model_copy(update={"reason": "no pair has ended yet", "n": pair.n}))
    numbers = {"mean_difference": pair.mean_difference} | _bounds(pair.interval)
    text = f"the gain is {point_text(pair.mean_difference, pair.interval)} {spec.difference_unit}".rstrip()
    text += _interval_text(pair)
    result = result.model_copy(update={"n": pair.n, "numbers": numbers})
    margin = options.difference
    if margin is not None and pair.units >= 4 and pair.interval and pair.interval.high < margin:
        # The gain is tested against the margin, not against zero: one more test of the report, like every other.
        p = statistics.t_p(pair.mean_difference, pair.sd, pair.units, limit=margin)
        text += f", tested by t against a gain of {margin:g}, assuming normally distributed differences"
        result = result.model_copy(update={"reason": text, "p": p})
        shifted = Interval(low=pair.interval.low - margin, high=pair.interval.high - margin)
        test = verdicts.Test(pair.units, pair.mean_difference - margin, p, None, shifted)
        return _JudgedClaim(result, test, "holds", f"a gain of {margin:g} or more is excluded")
    verdict: Verdict = "holds" if pair.mean_difference < 0 else "does not hold"
    result = result.model_copy(update={"reason": text, "p": pair.sign_flip_p})
    return _JudgedClaim(result, test_of(pair, None), verdict)


_JUDGES: dict[str, Callable[[RunClaim, Method, Method, Sample, ComparisonOptions], _JudgedClaim]] = {
    "lower": _judge_lower,
    "earlier": _judge_earlier,
    "no_gain": _judge_no_gain,
}


def _with_verdict(judged: _JudgedClaim, decision: verdicts.Decision) -> PaperClaim:
    """Return the claim with its verdict and its adjusted p value."""
    claim, test, tests = judged.claim, judged.test, decision.tests
    if claim.p is None or decision.p_holm is None:
        return claim
    p, p_holm = p_text(claim.p), p_text(decision.p_holm)
    text = f"{claim.reason}; p = {p_holm} after Holm over {tests} tests ({p} for this one alone)"
    if tests == 1:
        text = f"{claim.reason}; p = {p}"
    verdict = judged.verdict_if_different if decision.verdict in ("higher", "lower") else claim.verdict
    if verdict != "cannot tell":
        text += f": {judged.conclusion}" if judged.conclusion else ""
    else:
        noun = "pairs" if test.n == claim.n else "teachers"
        if test.smallest_p is not None and test.smallest_p >= SIGNIFICANCE:
            text += f"; {test.n} {noun} cannot show p < {p_text(test.smallest_p, 3)}"
        elif decision.smallest_p_holm is not None and decision.smallest_p_holm >= SIGNIFICANCE:
            text += f"; over {tests} tests {test.n} {noun} cannot show p < {p_text(decision.smallest_p_holm)}"
    return claim.model_copy(update={"reason": text, "verdict": verdict, "p_holm": decision.p_holm})


def _baseline(sample: Sample, label: str | None, paper: Paper) -> str | None:
    if label is not None:
        if label not in sample.labels:
            text = f"there is no method {label!r} in {sample.experiments[0].name}; it has {', '.join(sample.labels)}"
            raise invalid(text, ProblemField(path="baseline", message=text))
        return label
    return next((other for other, name in sample.labels.items() if name == paper.baseline), None)


def _loss_setting(sample: Sample, paper: Paper) -> LossSetting:
    """Return the number of classes and the temperature of the experiment; by default 100, as in CIFAR-100, and 4."""
    try:
        dataset = DatasetRef.model_validate(sample.spec["dataset"])
    except ValidationError:  # a plugin's data set, and the plugin is not installed
        facts = None
    else:
        facts = DATASETS[dataset.name].facts(dataset.parsed_params)
    params = [choice["params"] for choice in sample.spec["methods"] if combined_name(choice) == paper.method]
    temperature = params[0]["temperature"] if params else _DEFAULT_TEMPERATURE
    return LossSetting(facts.num_classes if facts and facts.num_classes > 2 else _DEFAULT_CLASSES, temperature)


def _notes(sample: Sample, of_paper: Sequence[str], tests: int) -> list[str]:
    notes = [*sample.misnamed, *same_data.notes(sample), *setting_differences.pooled(sample), *of_paper]
    if tests > 1:
        notes.append(f"Holm's correction is over the {tests} tests of this report.")
    if sample.teachers and not sample.teachers_vary:
        notes.append("The results are conditional on this teacher.")
    notes += sequential.notes(sample)
    if not sample.complete:
        notes.append("Not every run has ended: verdicts may change.")
    return notes


def _bounds(interval: Interval | None) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high} if interval else {}


def _interval_text(pair: PairedDifference) -> str:
    return f" (95 % interval {span_text(pair.interval, '', pair.mean_difference)})" if pair.interval else ""
