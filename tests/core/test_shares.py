"""Terms that are weighted by their share of the gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.catalog import METHODS, load_plugins
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.specs import MethodRef, SpecError, parse_experiment
from tests.core.test_objective import experiment

load_plugins(["tests.core.hint_plugin"])


def rows(weight: torch.Tensor | None = None) -> Rows:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    return Rows(student.requires_grad_(), 2 * teacher, torch.randint(10, (8,), generator=generator), weight)


@pytest.mark.parametrize(
    ("name", "params", "shares"),
    [
        ("kd", {}, {"kd": 0.9}),
        ("dkd", {}, {"nckd": 0.3}),
        ("dkd", {"standardise": True}, {"tckd": 0.2, "nckd": 0.5}),
        ("dkd_align", {"reduction": "log", "epsilon": 6.0}, {"align": 0.1}),
        ("dist", {}, {"inter": 0.25, "intra": 0.25}),
        ("rld", {}, {"mcd": 0.4}),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_each_term_has_its_share_of_the_gradient(
    name: str, params: dict[str, Any], shares: dict[str, float], weighted: bool
) -> None:
    batch = rows(torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 1.0, 3.0, 1.0]) if weighted else None)
    terms = build_loss(MethodRef(name=name, params=params, shares=shares))(batch, None)
    (gradient,) = torch.autograd.grad(terms.total, batch.student)
    torch.testing.assert_close(gradient, torch.stack(list(terms.gradients.values())).sum(0), rtol=1e-10, atol=1e-14)
    norms = {term: part.norm() for term, part in terms.gradients.items()}
    total = torch.stack(list(norms.values())).sum()
    for term, share in shares.items():
        assert float(norms[term] / total) == pytest.approx(share, rel=1e-10)
        assert float(terms.values[f"weight_{term}"]) > 0
    plain = build_loss(MethodRef(name=name, params=params))(batch, None)
    for term in terms.gradients.keys() - shares.keys():
        assert torch.equal(terms.gradients[term], plain.gradients[term])


def test_share_of_alignment_equals_epsilon_share() -> None:
    batch = rows()
    by_parameter = MethodRef(name="dkd_align", params={"reduction": "log", "epsilon_share": 0.1})
    by_share = MethodRef(name="dkd_align", params={"reduction": "log", "epsilon": 1.0}, shares={"align": 0.1})
    first, second = (build_loss(method)(batch, None) for method in (by_parameter, by_share))
    torch.testing.assert_close(first.gradients["align"], second.gradients["align"], rtol=1e-10, atol=1e-14)
    assert float(first.total.detach()) == pytest.approx(float(second.total.detach()), rel=1e-10)


def test_term_without_a_gradient_stays_at_zero() -> None:
    student = rows().student
    batch = Rows(student, student.detach(), rows().target)
    terms = build_loss(MethodRef(name="dkd", shares={"nckd": 0.3}))(batch, None)
    assert float(terms.values["weight_nckd"]) == 0
    assert terms.total.isfinite()
    assert not terms.gradients["nckd"].any()


@pytest.mark.parametrize("changes", [{"training": {"epochs": 1, "accumulate": 2}}, {"resources": {"gpus": 2}}])
def test_shares_of_a_method_with_taps_do_not_need_the_whole_batch(changes: dict[str, Any]) -> None:
    (method,) = experiment({"name": "test_hint", "shares": {"hint": 0.3}}, **changes).methods
    assert method.shares == {"hint": 0.3}


def test_specs_without_shares_keep_their_fingerprints_and_their_form() -> None:
    spec = experiment("kd", "dkd")
    assert "shares" not in str(spec.model_dump(mode="json"))
    empty = experiment("kd", {"name": "dkd", "shares": {}})
    assert empty.plan()[-1].spec.fingerprint() == spec.plan()[-1].spec.fingerprint()
    shared = experiment("kd", {"name": "dkd", "shares": {"nckd": 0.3}})
    assert parse_experiment(shared.model_dump(mode="json")) == shared
    assert shared.plan()[-1].spec.fingerprint() != spec.plan()[-1].spec.fingerprint()


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ({"name": "dkd", "shares": {"nkcd": 0.3}}, "methods.0.shares.nkcd", "no term 'nkcd'; did you mean nckd"),
        ({"name": "dkd", "shares": {"nckd": 0.0}}, "methods.0.shares.nckd", "greater than 0 and less than 1"),
        ({"name": "dkd", "shares": {"nckd": 0.6, "tckd": 0.4}}, "methods.0.shares", "the shares add up to 1"),
        (
            {"name": "dkd", "shares": {"nckd": 0.3, "tckd": 0.3, "ce": 0.3}},
            "methods.0.shares",
            "at least one term needs a weight of its own",
        ),
        (
            {"name": "kd", "params": {"ce_weight": 0}, "shares": {"kd": 0.3}},
            "methods.0.shares",
            "at least one term needs a weight of its own",
        ),
        (
            {"name": "simkd", "shares": {"simkd": 0.3}, "with": [{"name": "kd", "shares": {"kd": 0.3}}]},
            "methods.0.shares",
            "at least one term needs a weight of its own",
        ),
        (
            {"name": "dkd", "params": {"beta": 0}, "shares": {"nckd": 0.3}},
            "methods.0.shares.nckd",
            "beta is 0, which switches this term off",
        ),
        (
            {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}, "shares": {"align": 0.2}},
            "methods.0.shares.align",
            "epsilon_share gives this term its share already",
        ),
        (
            {"name": "dkd", "params": {"beta": 3.0}, "shares": {"nckd": 0.3}},
            "methods.0.shares.nckd",
            "beta gives this term a weight already, of 3; remove one of the two",
        ),
    ],
)
def test_bad_share_is_refused_with_its_field(method: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        experiment(method)
    assert [problem.path for problem in refused.value.problems] == [path]
    assert message in refused.value.problems[0].message


def test_entries_name_the_parameters_that_are_weights_of_terms() -> None:
    for entry in METHODS:
        assert entry.weight_params.keys() <= set(entry.terms), entry.name
        assert set(entry.weight_params.values()) <= entry.params.model_fields.keys(), entry.name
