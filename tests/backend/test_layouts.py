"""Layouts of Compare's board: stored by name, replaced only when asked, and bounded."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from backend.db import models
from core.protocol.layouts import MAX_FIGURES, MAX_LAYOUTS
from tests.backend.lab import Lab

PATH = "/api/v1/layouts"
FIGURES: list[dict[str, Any]] = [{"metric": "test/top1", "right": "train/loss"}, {"metric": "zz/plugin", "log": True}]


def save(lab: Lab, name: str = "paper", replace: bool = False, **layout: Any) -> Any:
    body = {"name": name, "layout": {"figures": FIGURES} | layout, "replace": replace}
    return lab.admin.post(PATH, json=body)


def test_a_layout_is_stored_listed_read_and_deleted(lab: Lab) -> None:
    assert lab.admin.get(PATH).json() == {"items": []}
    made = save(lab, "table 3 / left", x="steps", smoothing=0.5)
    assert made.status_code == 201, made.text
    save(lab, "about")
    listed = lab.admin.get(PATH).json()["items"]
    assert [(item["name"], item["figures"], item["saved_by"]) for item in listed] == [
        ("about", 2, "admin"),
        ("table 3 / left", 2, "admin"),
    ]
    read = lab.admin.get(f"{PATH}/table 3 / left").json()
    assert read == made.json()
    assert read["layout"]["figures"] == [
        {"metric": "test/top1", "right": "train/loss", "log": False},
        {"metric": "zz/plugin", "right": "", "log": True},
    ]
    assert (read["layout"]["x"], read["layout"]["smoothing"], read["layout"]["size"]) == ("steps", 0.5, "medium")
    assert lab.admin.delete(f"{PATH}/table 3 / left").status_code == 204
    assert lab.admin.get(f"{PATH}/table 3 / left").status_code == 404
    assert lab.admin.delete(f"{PATH}/table 3 / left").status_code == 404
    assert [item["name"] for item in lab.admin.get(PATH).json()["items"]] == ["about"]


def test_a_layout_is_replaced_only_if_the_request_says_so(lab: Lab) -> None:
    save(lab)
    refused = save(lab, x="time")
    assert refused.status_code == 409
    assert refused.json()["errors"] == [{"path": "name", "message": "is taken"}]
    assert lab.admin.get(f"{PATH}/paper").json()["layout"]["x"] == "epochs"
    assert save(lab, x="time", replace=True).status_code == 201
    assert lab.admin.get(f"{PATH}/paper").json()["layout"]["x"] == "time"
    assert len(lab.admin.get(PATH).json()["items"]) == 1


def test_the_number_of_layouts_is_bounded(lab: Lab) -> None:
    save(lab)
    with lab.app.state.database.write() as session:
        row = session.get(models.BoardLayout, "paper")
        common = {"layout": row.layout, "saved_at": row.saved_at, "saved_by": ""}
        session.execute(insert(models.BoardLayout), [{"name": f"layout {n}", **common} for n in range(MAX_LAYOUTS - 1)])
    refused = save(lab, "one more")
    assert refused.status_code == 409
    assert "delete one first" in refused.json()["detail"]
    assert save(lab, x="steps", replace=True).status_code == 201, "one of the stored layouts can still be replaced"


@pytest.mark.parametrize(
    ("name", "layout", "path"),
    [
        ("", {}, "name"),
        (" x", {}, "name"),
        ("a\u200bb", {}, "name"),
        ("x" * 61, {}, "name"),
        ("x", {"x": "hours"}, "layout.x"),
        ("x", {"smoothing": 1.0}, "layout.smoothing"),
        ("x", {"figures": [{"metric": ""}]}, "layout.figures.0.metric"),
        ("x", {"figures": [{"metric": "m" * 201}]}, "layout.figures.0.metric"),
        ("x", {"figures": [{"metric": "m", "colour": "red"}]}, "layout.figures.0.colour"),
        ("x", {"figures": [{"metric": "m"}, {"metric": "m"}]}, "layout"),
        ("x", {"figures": [{"metric": f"m{n}"} for n in range(MAX_FIGURES + 1)]}, "layout.figures"),
        ("x", {"columns": 3}, "layout.columns"),
    ],
)
def test_an_invalid_layout_is_refused_by_its_field(lab: Lab, name: str, layout: dict[str, Any], path: str) -> None:
    refused = save(lab, name, **layout)
    assert refused.status_code == 422
    assert [error["path"] for error in refused.json()["errors"]] == [path]
    assert lab.admin.get(PATH).json() == {"items": []}


def test_reading_needs_no_more_than_the_scope_read(lab: Lab) -> None:
    save(lab)
    token = lab.admin.post("/api/v1/tokens", json={"name": "reader", "scopes": ["read"]}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert lab.admin.get(f"{PATH}/paper", headers=headers).status_code == 200
    body = {"name": "mine", "layout": {"figures": []}}
    assert lab.admin.post(PATH, json=body, headers=headers).status_code == 403
    assert lab.admin.delete(f"{PATH}/paper", headers=headers).status_code == 403
