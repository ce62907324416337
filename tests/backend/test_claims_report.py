"""The claims of Decoupled Gradient Knowledge Distillation (2025), judged."""

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
    """The last case of each claim."""
    answer = api.get("/api/v1/comparisons/claims", params={"experiment": experiment, **query})
    assert answer.status_code == 200, answer.text
    return {claim.number: claim for claim in PaperClaims.model_validate(answer.json()).claims}


def _trained(
    database: Database, seeds: int, nc1: float = 0.0, earlier: bool = False, gain: float = 0.0, **changes: Any
) -> str:
    """DKD and DKD-Align, which differs in NC1 and accuracy by about that much, and may be an epoch earlier."""
    experiment = rows.experiment(database, **{"methods": METHODS, "seeds": list(range(seeds))} | changes)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label == "teacher":
            rows.succeed(database, run_id, [50, 80, 91, 90])
            continue
        ours, wobble = label == "align", 1 + 0.1 * (seed % 3)
        curve = [60.0, 88.0, 88.0] if ours and earlier else [60.0, 80.0, 88.0]
        rows.succeed(database, run_id, [*curve, 88.0 + seed / 10 + ours * gain * wobble])
        rows.take(database, run_id, rows.metrics(40, {"collapse/nc1": 1.0 + seed / 10 + ours * nc1 * wobble}, epoch=4))
    return experiment


def test_what_seven_clear_pairs_show(database: Database, api: TestClient) -> None:
    found = _report(api, _trained(database, 7, nc1=-0.3, earlier=True, gain=1.0, **MOBILE))
    assert (found[3].verdict, found[3].n) == ("holds", 7)
    assert found[3].p == pytest.approx(2.0**-6)
    assert found[3].p_holm == pytest.approx(3 * 2.0**-6)
    assert (found[4].verdict, found[4].numbers["earlier"]) == ("holds", 7)
    assert found[5].verdict == "does not hold"  # there is a gain


def test_the_same_the_other_way_round(database: Database, api: TestClient) -> None:
    found = _report(api, _trained(database, 7, nc1=0.3, gain=-1.0, **MOBILE))
    assert found[3].verdict == "does not hold"
    assert found[4].verdict == "cannot tell"  # equal in every pair
    assert found[5].verdict == "holds"


def test_five_pairs_cannot_tell_however_clear(database: Database, api: TestClient) -> None:
    found = _report(api, _trained(database, 5, nc1=-0.3, earlier=True))
    assert {found[number].verdict for number in (3, 4)} == {"cannot tell"}
    assert "5 pairs cannot show p < 0.0625" in found[3].reason
    assert (found[5].verdict, found[5].reason) == ("cannot tell", "small_cnn is not a small mobile network")


def test_no_gain_by_a_difference_that_a_person_names(database: Database, api: TestClient) -> None:
    experiment = _trained(database, 5, gain=0.1, **MOBILE)
    assert _report(api, experiment)[5].verdict == "cannot tell"
    excluded = _report(api, experiment, difference=0.5)[5]
    assert excluded.verdict == "holds"
    assert "a gain of 0.5 or more is excluded" in excluded.reason
    assert _report(api, experiment, difference=0.05)[5].verdict == "cannot tell"


@pytest.mark.parametrize("methods", [["dkd", "kd"], ["kd", METHODS[1]]])
def test_without_both_methods_the_trainings_say_nothing(
    database: Database, api: TestClient, methods: list[Any]
) -> None:
    found = _report(api, rows.experiment(database, methods=methods))
    assert {found[number].verdict for number in (3, 4, 5)} == {"cannot tell"}
    assert "has no" in found[3].reason
    assert found[1].verdict == "does not hold"  # of the loss itself it can be said all the same


def test_before_anything_has_ended(database: Database, api: TestClient) -> None:
    found = _report(api, rows.experiment(database, methods=METHODS))
    assert {found[number].verdict for number in (3, 4, 5)} == {"cannot tell"}


def test_the_claims_of_the_loss_are_computed_for_its_classes_and_temperature() -> None:
    found = judge_loss_claims(LossSetting(classes=10, temperature=4.0))
    assert [(claim.number, claim.holds) for claim in found] == [
        (1, True),
        (1, False),
        (1, False),
        (2, True),
        (2, False),
    ]
    tckd = found[2].numbers
    assert (round(tckd["student_0.6"], 3), round(tckd["student_0.8"], 3)) == (1.464, 1.674)
    # s_A − s_B = −4|Δ|·p̂·(p̂ − q̂), with p̂ peaked (0.92, then 0.01 eight times) and q̂ flat.
    sharp = found[1].numbers
    exact = -4 * 0.2 * (0.92 * (0.92 - 1 / 9) + 8 * 0.01 * (0.01 - 1 / 9))
    assert sharp["student_0.6"] - sharp["student_0.8"] == pytest.approx(exact)


@pytest.mark.parametrize("kind", ["csv", "markdown", "latex"])
def test_as_a_text(database: Database, api: TestClient, kind: str) -> None:
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
    # A paper that is known, but of which no claims are known, is refused too.
    for name in ("no-such-paper", "decoupled-kd-2022"):
        answer = api.get("/api/v1/comparisons/claims", params=query | {"paper": name})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == "paper"
        assert report["paper"] in answer.json()["detail"]
