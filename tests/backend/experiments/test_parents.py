"""An experiment records the experiment that it was copied from."""

from __future__ import annotations

from tests.backend.lab import Lab, plain

EXPERIMENTS = "/api/v1/experiments"


def test_clone_records_its_parent_and_can_be_found_by_it(lab: Lab) -> None:
    first = lab.submit(plain("first"))
    assert first["parent"] == ""
    copy = lab.admin.post(f"{EXPERIMENTS}/first/clone", json={"changes": {"training.epochs": 3}}).json()
    assert copy["parent"] == first["id"]
    assert lab.experiment(copy["id"])["parent"] == first["id"]
    found = lab.admin.get(EXPERIMENTS, params={"parent": first["id"]}).json()["items"]
    assert [item["id"] for item in found] == [copy["id"]]


def test_parent_can_be_set_by_name_and_removed(lab: Lab) -> None:
    first, second = lab.submit(plain("first")), lab.submit(plain("second"))
    changed = lab.admin.patch(f"{EXPERIMENTS}/second", json={"parent": "first"}).json()
    assert changed["parent"] == first["id"]
    assert lab.admin.patch(f"{EXPERIMENTS}/second", json={"notes": "kept"}).json()["parent"] == first["id"]
    assert lab.admin.patch(f"{EXPERIMENTS}/{second['id']}", json={"parent": ""}).json()["parent"] == ""


def test_unknown_parents_and_circles_are_refused(lab: Lab) -> None:
    for name in ("first", "second"):
        lab.submit(plain(name))
    assert lab.admin.patch(f"{EXPERIMENTS}/second", json={"parent": "nothing"}).status_code == 404
    assert lab.admin.patch(f"{EXPERIMENTS}/second", json={"parent": "first"}).status_code == 200
    for name, parent in (("first", "second"), ("first", "first")):
        answer = lab.admin.patch(f"{EXPERIMENTS}/{name}", json={"parent": parent})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == "parent"
    assert lab.experiment("first")["parent"] == ""


def test_copy_of_a_deleted_experiment_still_names_it(lab: Lab) -> None:
    first = lab.submit(plain("first"))
    lab.cancel_experiment("first")
    copy = lab.admin.post(f"{EXPERIMENTS}/first/clone", json={}).json()
    assert lab.admin.delete(f"{EXPERIMENTS}/first").status_code == 204
    assert lab.experiment(copy["id"])["parent"] == first["id"]


def test_submission_records_the_parent_in_the_same_request(lab: Lab) -> None:
    first = lab.submit(plain("first"))
    for name, parent in (("by id", first["id"]), ("by name", "first")):
        answer = lab.admin.post(EXPERIMENTS, params={"parent": parent}, json=plain(name))
        assert answer.status_code == 201, answer.text
        assert answer.json()["parent"] == first["id"]
        assert lab.experiment(answer.json()["id"])["parent"] == first["id"]


def test_submission_with_an_unknown_parent_creates_nothing(lab: Lab) -> None:
    answer = lab.admin.post(EXPERIMENTS, params={"parent": "nothing"}, json=plain("second"))
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem == {"path": "parent", "message": "there is no experiment 'nothing'; it may have been deleted"}
    assert lab.admin.get(EXPERIMENTS).json()["items"] == []
