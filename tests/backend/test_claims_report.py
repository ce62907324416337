"""Verdicts on the claims of Decoupled Gradient Knowledge Distillation (2025)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from core.papers import LossSetting
from core.papers.decoupled_gradient_kd.loss_claims import judge_loss_claims
from core.protocol.comparisons import PaperClaim, PaperClaims
from tests.backend import rows

MOBILE: dict[str, Any] = {"dataset": "cifar10", "student": {"model": "mobilenet_v2_half"}}
METHODS = ["dkd", {"name": "dkd_align", "label": "align", "params": {"reduction": "log", "epsilon": 6.0}}]


def _report(api: TestClient, experiment: str, **query: Any) -> dict[int, PaperClaim]:
    """Return the last case of each claim, by its number."""
    answer = api.get("/api/v1/comparisons/claims", params={"experiment": experiment, **query})
    assert answer.status_code == 200, answer.text
    return {claim.number: claim for claim in PaperClaims.model_validate(answer.json()).claims}


def _trained(
    database: Database, seeds: int, nc1: float = 0.0, earlier: bool = False, gain: float = 0.0, **changes: Any
) -> str:
    """Create trained runs of DKD, and of DKD-Align with about this difference in NC1 and accuracy; return the id.

    Args:
        earlier: Whether DKD-Align reaches the target one epoch earlier.
    """
    experiment = rows.experiment(database, **{"methods": METHODS, "seeds": list(range(seeds))} | changes)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label == "teacher":
            rows.succeed(database, run_id, [50, 80, 91, 90])
            continue
        is_align, wobble = label == "align", 1 + 0.1 * (seed % 3)
        curve = [60.0, 88.0, 88.0] if is_align and earlier else [60.0, 80.0, 88.0]
        rows.succeed(database, run_id, [*curve, 88.0 + seed / 10 + is_align * gain * wobble])
        rows.insert_records(
            database, run_id, rows.metrics(40, {"collapse/nc1": 1.0 + seed / 10 + is_align * nc1 * wobble}, epoch=4)
        )
    return experiment


def test_seven_clear_pairs_decide_each_training_claim(database: Database, api: TestClient) -> None:
    claims = _report(api, _trained(database, 7, nc1=-0.3, earlier=True, gain=1.0, **MOBILE))
    assert (claims[3].verdict, claims[3].n) == ("holds", 7)
    assert claims[3].p == pytest.approx(2.0**-6)
    assert claims[3].p_holm == pytest.approx(3 * 2.0**-6)
    assert (claims[4].verdict, claims[4].numbers["earlier"]) == ("holds", 7)
    assert claims[5].verdict == "does not hold"  # there is a gain


def test_seven_pairs_of_opposite_sign_refute_the_claims(database: Database, api: TestClient) -> None:
    claims = _report(api, _trained(database, 7, nc1=0.3, gain=-1.0, **MOBILE))
    assert claims[3].verdict == "does not hold"
    assert claims[4].verdict == "cannot tell"  # equal in every pair
    assert claims[5].verdict == "holds"


def test_control_with_the_other_sign_is_not_judged(database: Database, api: TestClient) -> None:
    control = {"name": "dkd_align", "label": "align", "params": {"reduction": "log", "epsilon": 6.0, "sign": "added"}}
    claims = _report(api, _trained(database, 7, nc1=-0.3, methods=["dkd", control]))
    assert {claims[number].reason for number in (3, 4, 5)} == {"the experiment has no DKD-Align method"}


def test_five_clear_pairs_decide_no_claim(database: Database, api: TestClient) -> None:
    claims = _report(api, _trained(database, 5, nc1=-0.3, earlier=True))
    assert {claims[number].verdict for number in (3, 4)} == {"cannot tell"}
    assert "5 pairs cannot show p < 0.0625" in claims[3].reason
    assert (claims[5].verdict, claims[5].reason) == ("cannot tell", "small_cnn is not a small mobile network")


def test_no_gain_claim_excludes_the_requested_difference(database: Database, api: TestClient) -> None:
    experiment = _trained(database, 5, gain=0.1, **MOBILE)
    assert _report(api, experiment)[5].verdict == "cannot tell"
    excluded = _report(api, experiment, difference=0.5)[5]
    assert excluded.verdict == "holds"
    assert "a gain of 0.5 or more is excluded" in excluded.reason
    assert _report(api, experiment, difference=0.05)[5].verdict == "cannot tell"


@pytest.mark.parametrize("methods", [["dkd", "kd"], ["kd", METHODS[1]]])
def test_training_claims_without_both_methods_are_undecided(
    database: Database, api: TestClient, methods: list[Any]
) -> None:
    claims = _report(api, rows.experiment(database, methods=methods))
    assert {claims[number].verdict for number in (3, 4, 5)} == {"cannot tell"}
    assert "has no" in claims[3].reason
    assert claims[1].verdict == "does not hold"  # a claim about the loss itself needs no training


def test_training_claims_of_unfinished_runs_are_undecided(database: Database, api: TestClient) -> None:
    claims = _report(api, rows.experiment(database, methods=METHODS))
    assert {claims[number].verdict for number in (3, 4, 5)} == {"cannot tell"}


def test_loss_claims_depend_on_classes_and_temperature() -> None:
    claims = judge_loss_claims(LossSetting(classes=10, temperature=4.0))
    assert [(claim.number, claim.holds) for claim in claims] == [
        (1, True),
        (1, False),
        (1, False),
        (2, True),
        (2, False),
    ]
    tckd = claims[2].numbers
    assert (round(tckd["student_0.6"], 3), round(tckd["student_0.8"], 3)) == (1.464, 1.674)
    # s_A − s_B = −4|Δ|·p̂·(p̂ − q̂), with p̂ peaked (0.92, then 0.01 eight times) and q̂ flat.
    sharp = claims[1].numbers
    exact = -4 * 0.2 * (0.92 * (0.92 - 1 / 9) + 8 * 0.01 * (0.01 - 1 / 9))
    assert sharp["student_0.6"] - sharp["student_0.8"] == pytest.approx(exact)


@pytest.mark.parametrize("kind", ["csv", "markdown", "latex"])
def test_claims_are_exported_as_text(database: Database, api: TestClient, kind: str) -> None:
    experiment = rows.experiment(database, methods=METHODS)
    text = api.get("/api/v1/comparisons/claims", params={"experiment": experiment, "format": kind}).text
    assert "cannot tell" in text
    assert "does not hold" in text


def test_the_report_names_the_paper_and_refuses_an_unknown_one(database: Database, api: TestClient) -> None:
    query = {"experiment": rows.experiment(database, methods=METHODS)}
    report = api.get("/api/v1/comparisons/claims", params=query).json()
    assert (report["paper"], report["paper_title"]) == (
        "decoupled-gradient-kd-2025",
        "Decoupled Gradient Knowledge Distillation (2025)",
    )
    assert api.get("/api/v1/comparisons/claims", params=query | {"paper": report["paper"]}).json() == report
    # A known paper without known claims is refused too.
    for name in ("no-such-paper", "decoupled-kd-2022"):
        answer = api.get("/api/v1/comparisons/claims", params=query | {"paper": name})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == "paper"
        assert report["paper"] in answer.json()["detail"]
