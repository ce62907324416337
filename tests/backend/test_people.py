"""Projects and people: what each role may see and change, and that a stranger of a project finds nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from backend.db import Database
from tests.backend import rows
from tests.backend.conftest import TestClient
from tests.backend.lab import Json, Lab, metrics, plain, spec, started
from tests.backend.test_files import safetensors

API = "/api/v1"
LAYOUT = {"figures": [{"metric": "test/top1"}]}


def ok(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def project(lab: Lab, name: str) -> str:
    ok(lab.admin.post(f"{API}/projects", json={"name": name}), 201)
    return name


def person(
    lab: Lab, name: str, /, *, scopes: tuple[str, ...] = ("admin",), admin: bool = False, **roles: str
) -> TestClient:
    """Create a person with roles in projects, and return a client with a token of that person."""
    ok(lab.admin.post(f"{API}/people", json={"name": name, "admin": admin}), 201)
    for place, role in roles.items():
        ok(lab.admin.put(f"{API}/projects/{place}/members/{name}", json={"role": role}))
    return token_of(lab, name, *scopes)


def token_of(lab: Lab, name: str, *scopes: str) -> TestClient:
    body = {"name": f"{name} {' '.join(scopes)}", "scopes": list(scopes), "person": name}
    made = ok(lab.admin.post(f"{API}/tokens", json=body), 201)
    return lab.client(headers={"Authorization": f"Bearer {made['token']}"})


def submit(client: TestClient, body: Json, place: str | None = None) -> Json:
    query = {} if place is None else {"project": place}
    made: Json = ok(client.post(f"{API}/experiments", json=body, params=query), 201)
    return made


@pytest.fixture
def secret(lab: Lab, database: Database) -> Json:
    """A project with one of everything: finished and running runs, a sweep, a layout and an upload."""
    project(lab, "secret")
    anna = person(lab, "anna", secret="submitter")
    made = submit(anna, spec("secret-experiment", tags=["secret-tag"], seeds=[0, 1]))
    base = {key: value for key, value in plain().items() if key != "name"}
    ok(
        anna.post(
            f"{API}/sweeps", json={"name": "secret-sweep", "experiment": base, "grid": {"training.epochs": [1, 2]}}
        ),
        201,
    )
    ok(anna.post(f"{API}/layouts", json={"name": "secret-layout", "layout": LAYOUT}), 201)
    ok(anna.post(f"{API}/teachers/uploads?name=secret-weights", content=safetensors()), 201)
    lab.register(slots=2)
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 10, {"train/loss": 1.0, "test/top1": 50.0, "x/secret_metric": 1.0}))
    for run in made["runs"]:
        if run["id"] != claim["run_id"]:
            rows.succeed(database, run["id"], [40.0 + run["seed"], 50.0 + run["seed"]])
    return {"experiment": made, "running": claim["run_id"], "anna": anna}


QUERIES = {"experiment": "secret-experiment", "paper": "dkd", "method": "dkd", "label": "kd", "run": "{run}"}


def get_requests(lab: Lab, secret: Json) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the address and the query of every GET route, with the objects of the secret project."""
    done = next(run["id"] for run in secret["experiment"]["runs"] if run["id"] != secret["running"])
    values = {
        "key": "secret-experiment",
        "run_id": done,
        "artifact_id": "0" * 16,
        "item": "0",
        "name": "secret-sweep",
        "layout": "secret-layout",
        "project": "secret",
        "person": "anna",
        "session": "current",
    }
    for path, methods in lab.app.openapi()["paths"].items():
        if "get" not in methods or not path.startswith(API):
            continue
        url = path
        for name, value in values.items():
            url = url.replace("{" + name + "}", value)
        assert "{" not in url, f"a value for the path parameters of {path} is missing"
        names = {item["name"] for item in methods["get"].get("parameters", ()) if item["in"] == "query"}
        query = {name: value.replace("{run}", done) for name, value in QUERIES.items() if name in names}
        if url.endswith("/news"):
            query["wait"] = "0"
        yield url, query


def test_a_stranger_finds_nothing_of_a_project(lab: Lab, secret: Json) -> None:
    """Every GET route, with the ids and names of another project's objects, answers 404 or without any of them."""
    project(lab, "other")
    eve = person(lab, "eve", other="admin")
    submit(eve, plain("eves own"))
    made = secret["experiment"]
    marks = ["secret", made["id"], *(run["id"] for run in made["runs"]), "anna"]
    seen_by_anna, routes = set(), 0
    for url, query in get_requests(lab, secret):
        if url.endswith("/runs/" + secret["running"]):
            continue
        routes += 1
        answer = eve.get(url, params=query)
        assert answer.status_code in (200, 403, 404, 422), (url, answer.text)
        if answer.status_code == 200:
            found = [mark for mark in marks if mark in answer.text]
            assert not found, (url, found, answer.text[:500])
        if "secret" in url or made["runs"][0]["id"] in url or query.get("experiment"):
            assert answer.status_code in (403, 404), (url, answer.status_code, answer.text[:300])
        if not url.endswith("/events"):
            own = secret["anna"].get(url, params=query)
            if own.status_code == 200 and any(mark in own.text for mark in marks):
                seen_by_anna.add(url)
    assert routes > 40
    assert len(seen_by_anna) > 12, "the walk asks for what a member does see"
    assert [item["name"] for item in eve.get(f"{API}/experiments").json()["items"]] == ["eves own"]
    activity = eve.get(f"{API}/activity").json()
    assert activity["running"] == []
    assert sum(activity["counts"].values()) == 1
    (worker,) = eve.get(f"{API}/workers").json()["items"]
    assert (worker["busy"], worker["runs"]) == (1, [])
    assert eve.get(f"{API}/comparisons/metrics", params={"run": secret["running"]}).json()["names"] == []
    exposition = eve.get("/metrics").text
    assert 'dkd_runs{state="running"} 0.0' in exposition


def test_a_stranger_changes_nothing_of_a_project(lab: Lab, secret: Json) -> None:
    project(lab, "other")
    eve = person(lab, "eve", other="submitter")
    run_id = secret["running"]
    requests: list[tuple[str, str, Any]] = [
        ("DELETE", "/layouts/secret-layout", None),
        ("DELETE", "/teachers/uploads/secret-weights", None),
        ("PATCH", "/experiments/secret-experiment", {"notes": "x"}),
        ("DELETE", "/experiments/secret-experiment", None),
        ("POST", "/experiments/secret-experiment/clone", {}),
        ("POST", "/experiments/secret-experiment/clone/preview", {}),
        ("PUT", "/projects/secret/members/eve", {"role": "admin"}),
        ("DELETE", "/projects/secret/members/anna", None),
        ("POST", "/experiments?project=secret", plain("x")),
        *(
            ("POST", f"/experiments/secret-experiment/{verb}", None)
            for verb in ("cancel", "pause", "resume", "archive")
        ),
        *(("POST", f"/runs/{run_id}/{verb}", None) for verb in ("cancel", "pause", "resume", "retry")),
        ("DELETE", f"/runs/{run_id}", None),
    ]
    for method, path, body in requests:
        assert eve.request(method, f"{API}{path}", json=body).status_code == 404, (method, path)
    mine = submit(eve, plain("mine"))
    parent = eve.patch(f"{API}/experiments/mine", json={"parent": "secret-experiment"})
    assert parent.status_code == 404
    assert eve.patch(f"{API}/experiments/mine", json={"project": "secret"}).status_code == 404
    assert eve.post(f"{API}/experiments?parent=secret-experiment", json=plain("y")).status_code == 422
    weights = spec("w", teacher={"model": "resnet8", "weights": "upload:secret-weights"})
    for path in ("/experiments", "/experiments/preview"):
        answer = eve.post(f"{API}{path}", json=weights)
        assert "there is no upload" in answer.text, answer.text
    taken = eve.post(f"{API}/teachers/uploads?name=same", content=safetensors())
    assert taken.status_code == 409
    assert "secret" not in taken.text
    taken = eve.post(f"{API}/layouts", json={"name": "secret-layout", "layout": LAYOUT, "replace": True})
    assert taken.status_code == 409
    assert "anna" not in taken.text
    assert lab.experiment(mine["id"])["project"] == "other"
    assert lab.run(run_id)["state"] == "running"


# For each action: the status for a stranger, a reader, a submitter, an admin of the project, an admin of the lab, and a
# service's token with the scope admin.
MATRIX: dict[tuple[str, str], tuple[Any, tuple[int, int, int, int, int, int]]] = {
    ("GET", "/experiments/one"): (None, (404, 200, 200, 200, 200, 200)),
    ("GET", "/projects/lab"): (None, (404, 200, 200, 200, 200, 200)),
    ("GET", "/projects/lab/members"): (None, (404, 200, 200, 200, 200, 200)),
    ("POST", "/experiments/one/cancel"): (None, (404, 403, 200, 200, 200, 200)),
    ("PATCH", "/experiments/one"): ({"notes": "n"}, (404, 403, 200, 200, 200, 200)),
    ("POST", "/experiments?project=lab"): (plain("two"), (404, 403, 201, 201, 201, 201)),
    ("POST", "/experiments/one/clone"): ({}, (404, 403, 201, 201, 201, 201)),
    ("POST", "/runs/{run}/cancel"): (None, (404, 403, 200, 200, 200, 200)),
    ("DELETE", "/layouts/board"): (None, (404, 403, 204, 204, 204, 204)),
    ("DELETE", "/teachers/uploads/w"): (None, (404, 403, 204, 204, 204, 204)),
    ("PUT", "/projects/lab/members/anna"): ({"role": "reader"}, (404, 403, 403, 200, 200, 200)),
    ("POST", "/projects"): ({"name": "new"}, (403, 403, 403, 403, 201, 201)),
    ("PATCH", "/projects/lab"): ({"title": "t"}, (403, 403, 403, 403, 200, 200)),
    ("GET", "/people"): (None, (403, 403, 403, 403, 200, 200)),
    ("POST", "/people"): ({"name": "new"}, (403, 403, 403, 403, 201, 201)),
    ("POST", "/tokens"): ({"name": "t", "scopes": ["read"]}, (403, 403, 403, 403, 201, 201)),
    ("GET", "/audit"): (None, (403, 403, 403, 403, 200, 200)),
}


@pytest.mark.parametrize("action", MATRIX, ids=" ".join)
def test_roles_and_actions(lab: Lab, action: tuple[str, str]) -> None:
    method, path = action
    body, expected = MATRIX[action]
    project(lab, "lab")
    anna = person(lab, "anna")
    senders = [
        anna,
        person(lab, "reader", lab="reader"),
        person(lab, "submitter", lab="submitter"),
        person(lab, "manager", lab="admin"),
        person(lab, "boss", admin=True),
        lab.admin,
    ]
    run_id = submit(lab.admin, plain("one"), "lab")["runs"][0]["id"]
    for sender, status in zip(senders, expected, strict=True):
        lab.admin.post(f"{API}/layouts?project=lab", json={"name": "board", "layout": LAYOUT})
        lab.admin.post(f"{API}/teachers/uploads?name=w&project=lab", content=safetensors())
        answer = sender.request(method, f"{API}{path.replace('{run}', run_id)}", json=body)
        assert answer.status_code == status, (senders.index(sender), answer.text)
        for name in ("two", "one (2)"):
            lab.admin.post(f"{API}/experiments/{name}/cancel")
            lab.admin.delete(f"{API}/experiments/{name}")
        # The next sender uses another name.
        if isinstance(body, dict) and action[1] in ("/projects", "/people", "/tokens"):
            body = {**body, "name": body["name"] + "x"}


def test_scope_of_the_token_limits_the_role(lab: Lab) -> None:
    project(lab, "lab")
    person(lab, "anna", lab="admin")
    submit(lab.admin, plain("one"), "lab")
    reader, submitter = token_of(lab, "anna", "read"), token_of(lab, "anna", "submit")
    assert reader.get(f"{API}/experiments/one").status_code == 200
    assert reader.post(f"{API}/experiments/one/cancel").status_code == 403
    assert submitter.post(f"{API}/experiments/one/cancel").status_code == 200
    assert submitter.put(f"{API}/projects/lab/members/anna", json={"role": "reader"}).status_code == 403
    boss = person(lab, "boss", admin=True, scopes=("submit",))
    assert boss.get(f"{API}/experiments/one").status_code == 404, "rights over the lab need the scope admin"
    assert boss.get(f"{API}/people").status_code == 403


def test_tokens_of_a_disabled_person_are_refused_at_once(lab: Lab) -> None:
    project(lab, "lab")
    anna = person(lab, "anna", lab="submitter")
    made = submit(anna, plain())
    assert made["submitted_by"] == "anna"
    ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": True}))
    assert anna.get(f"{API}/experiments").status_code == 401
    assert lab.admin.post(f"{API}/tokens", json={"name": "t", "scopes": ["read"], "person": "anna"}).status_code == 422
    assert ok(lab.admin.get(f"{API}/projects/lab/members"))["items"][0]["disabled"] is True
    ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": False}))
    assert anna.get(f"{API}/experiments").status_code == 200


def test_a_role_ends_with_the_next_request(lab: Lab) -> None:
    project(lab, "lab")
    anna = person(lab, "anna", lab="reader")
    run_id = submit(lab.admin, plain("one"), "lab")["runs"][0]["id"]
    first = ok(anna.get(f"{API}/runs/{run_id}/news?wait=0"))
    ok(lab.admin.delete(f"{API}/projects/lab/members/anna"), 204)
    cursor = {"cursor": first["cursor"], "wait": 0}
    assert anna.get(f"{API}/runs/{run_id}/news", params=cursor).status_code == 404
    assert anna.get(f"{API}/experiments/one").status_code == 404
    assert ok(anna.get(f"{API}/projects"))["items"] == []


def test_laptop_users_see_nothing_of_projects(lab: Lab) -> None:
    """With tokens of services and no project, every request is as before, and everything is in the default project."""
    made = lab.submit(plain())
    assert made["project"] == "default"
    assert made["submitted_by"] == "admin"
    listed = ok(lab.admin.get(f"{API}/projects"))["items"]
    assert [(item["name"], item["role"], item["experiments"]) for item in listed] == [("default", None, 1)]
    ok(lab.admin.get(f"{API}/projects/default"))
    assert ok(lab.admin.get(f"{API}/projects/default/members"))["items"] == []
    assert ok(lab.admin.get(f"{API}/people"))["items"] == []


def test_where_a_submission_goes_without_a_project(lab: Lab) -> None:
    for name in ("a", "b"):
        project(lab, name)
    one = person(lab, "one", a="submitter", b="reader")
    two = person(lab, "two", a="submitter", b="admin")
    member = person(lab, "member", default="submitter", b="submitter")
    none = person(lab, "none", a="reader")
    assert submit(one, plain("1"))["project"] == "a"
    assert submit(member, plain("2"))["project"] == "default"
    refused = two.post(f"{API}/experiments", json=plain("3"))
    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"path": "project", "message": "name the project: a, b"}]
    assert submit(two, plain("3"), "b")["project"] == "b"
    assert none.post(f"{API}/experiments", json=plain("4")).status_code == 403
    assert lab.admin.post(f"{API}/experiments?project=nowhere", json=plain("5")).status_code == 404
    ok(lab.admin.patch(f"{API}/projects/b", json={"archived": True}))
    assert two.post(f"{API}/experiments?project=b", json=plain("6")).status_code == 409
    assert ok(two.get(f"{API}/experiments/3"))["project"] == "b", "what is in an archived project stays readable"
    assert lab.admin.patch(f"{API}/projects/default", json={"archived": True}).status_code == 409
    many = ok(one.post(f"{API}/experiments/bulk", json={"experiments": [plain("7"), plain("8")]}), 201)
    assert len(many["items"]) == 2
    assert {item["project"] for item in ok(one.get(f"{API}/experiments?text=8"))["items"]} == {"a"}


def test_lists_are_filtered_by_project(lab: Lab) -> None:
    project(lab, "a")
    submit(lab.admin, plain("in a", runs=2), "a")
    submit(lab.admin, plain("in default"))
    for query, names in (("project=a", {"in a"}), ("project=a&project=default", {"in a", "in default"})):
        assert {item["name"] for item in ok(lab.admin.get(f"{API}/experiments?{query}"))["items"]} == names
        assert {item["experiment"] for item in ok(lab.admin.get(f"{API}/runs?{query}"))["items"]} == names
    assert ok(lab.admin.get(f"{API}/runs?project=nowhere"))["items"] == []
    narrowed = {"X-DKD-Project": "a"}
    assert [item["name"] for item in ok(lab.admin.get(f"{API}/experiments", headers=narrowed))["items"]] == ["in a"]
    assert ok(lab.admin.get(f"{API}/activity", headers=narrowed))["counts"]["queued"] == 2
    assert lab.admin.get(f"{API}/experiments/in default", headers=narrowed).status_code == 404
    for name in ("nowhere", "No Name"):
        assert lab.admin.get(f"{API}/experiments", headers={"X-DKD-Project": name}).status_code == 404
    anna = person(lab, "anna", a="reader")
    assert anna.get(f"{API}/experiments", headers={"X-DKD-Project": "default"}).status_code == 404


def test_a_teacher_is_shared_between_projects_and_tells_nothing(lab: Lab) -> None:
    """It is trained once. Each project sees it because an experiment of its own uses it, and not who else does."""
    for name in ("a", "b", "c"):
        project(lab, name)
    anna, bert = person(lab, "anna", a="submitter"), person(lab, "bert", b="submitter")
    carl = person(lab, "carl", c="submitter")
    first = submit(anna, spec("annas"))
    teacher = next(run["id"] for run in first["runs"] if run["role"] == "teacher")
    preview = ok(bert.post(f"{API}/experiments/preview", json=spec("berts")))
    assert preview["teacher"]["run_id"] is None, "a preview does not tell that somebody trains the teacher"
    second = submit(bert, spec("berts"))
    shared = next(run for run in second["runs"] if run["role"] == "teacher")
    assert (shared["id"], shared["experiment_id"], shared["experiment"]) == (teacher, "", "")
    for url in (f"runs/{teacher}", "runs", "teachers", "experiments/berts", "activity", f"exports/runs/{teacher}"):
        answer = bert.get(f"{API}/{url}")
        assert answer.status_code == 200
        assert "annas" not in answer.text
        assert first["id"] not in answer.text
    assert ok(bert.get(f"{API}/runs/{teacher}"))["experiments"] == [second["id"]]
    assert ok(bert.get(f"{API}/teachers"))["items"][0]["students"] == 2
    assert carl.get(f"{API}/runs/{teacher}").status_code == 404
    assert ok(carl.get(f"{API}/teachers"))["items"] == []
    for sender in (anna, bert):
        for verb in ("cancel", "pause"):
            assert sender.post(f"{API}/runs/{teacher}/{verb}").status_code == 403
    ok(anna.post(f"{API}/experiments/annas/cancel"))
    assert lab.run(teacher)["state"] == "queued", "another project needs it"
    ok(anna.delete(f"{API}/experiments/annas"), 204)
    assert ok(bert.get(f"{API}/runs/{teacher}"))["experiment"] == "berts"
    assert bert.post(f"{API}/experiments/berts/cancel").status_code == 200
    assert lab.run(teacher)["state"] == "cancelled"


def test_each_person_sees_the_own_projects(lab: Lab) -> None:
    """The same statement for different people, one after the other, as the cache of compiled statements reuses it."""
    clients = {}
    for name in ("a", "b", "c"):
        project(lab, name)
        submit(lab.admin, plain(f"in {name}"), name)
        clients[name] = person(lab, f"of-{name}")
        ok(lab.admin.put(f"{API}/projects/{name}/members/of-{name}", json={"role": "reader"}))
    nobody = person(lab, "nobody")
    for _ in range(2):
        for name, client in clients.items():
            for path, field in (("experiments", "name"), ("runs", "experiment")):
                page = ok(client.get(f"{API}/{path}?count=true"))
                assert [item[field] for item in page["items"]] == [f"in {name}"]
                assert page["total"] == 1
        assert ok(nobody.get(f"{API}/experiments?count=true"))["total"] == 0
    assert ok(lab.admin.get(f"{API}/experiments?count=true"))["total"] == 3


def test_experiments_move_between_projects(lab: Lab) -> None:
    for name in ("a", "b", "c"):
        project(lab, name)
    anna = person(lab, "anna", a="submitter", b="submitter", c="reader")
    made = submit(anna, spec("one"), "a")
    bert = person(lab, "bert", b="reader")
    assert bert.get(f"{API}/experiments/one").status_code == 404
    moved = ok(anna.patch(f"{API}/experiments/one", json={"project": "b"}))
    assert (moved["project"], moved["spec"]) == ("b", made["spec"])
    assert len(ok(bert.get(f"{API}/experiments/one"))["runs"]) == len(made["runs"])
    assert anna.patch(f"{API}/experiments/one", json={"project": "c"}).status_code == 403
    assert anna.patch(f"{API}/experiments/one", json={"project": "default"}).status_code == 404
    assert bert.patch(f"{API}/experiments/one", json={"project": "b"}).status_code == 403
    entry = ok(lab.admin.get(f"{API}/audit?action=experiments.change&refused=false"))["items"][0]
    assert (entry["person"], entry["project"], entry["details"]["moved_to"]) == ("anna", "a", "b")


def test_uploads_and_layouts_are_in_projects(lab: Lab) -> None:
    project(lab, "a")
    anna, bert = person(lab, "anna", a="submitter"), person(lab, "bert", a="reader")
    ok(anna.post(f"{API}/teachers/uploads?name=w", content=safetensors()), 201)
    ok(anna.post(f"{API}/layouts", json={"name": "board", "layout": LAYOUT}), 201)
    for client in (anna, bert, lab.admin):
        (upload,) = ok(client.get(f"{API}/teachers/uploads"))["items"]
        assert (upload["project"], upload["submitted_by"]) == ("a", "anna")
        assert ok(client.get(f"{API}/layouts/board"))["project"] == "a"
    assert submit(anna, spec("w", teacher={"model": "resnet8", "weights": "upload:w"}))["project"] == "a"


def test_names_of_projects_and_people(lab: Lab) -> None:
    project(lab, "a")
    for name in ("a", "default"):
        assert lab.admin.post(f"{API}/projects", json={"name": name}).status_code == 409
    for name in ("", "A", "a b", "-a", "ä", "x" * 61, "a/b"):
        assert lab.admin.post(f"{API}/projects", json={"name": name}).status_code == 422
    person(lab, "anna@lab.example")
    assert lab.admin.post(f"{API}/people", json={"name": "anna@lab.example"}).status_code == 409
    for body in ({"name": "a b"}, {"name": "x", "mail": "nowhere"}):
        assert lab.admin.post(f"{API}/people", json=body).status_code == 422
    assert lab.admin.put(f"{API}/projects/a/members/nobody", json={"role": "reader"}).status_code == 404
    assert lab.admin.put(f"{API}/projects/b/members/anna@lab.example", json={"role": "reader"}).status_code == 404
    assert lab.admin.delete(f"{API}/projects/a/members/anna@lab.example").status_code == 404
    for scopes in (["worker"], ["submit", "worker"]):
        token: Json = {"name": "t", "scopes": scopes, "person": "anna@lab.example"}
        assert lab.admin.post(f"{API}/tokens", json=token).status_code == 422


def test_an_admin_keeps_the_own_rights(lab: Lab) -> None:
    boss = person(lab, "boss", admin=True)
    for body in ({"disabled": True}, {"admin": False}):
        assert boss.patch(f"{API}/people/boss", json=body).status_code == 409
    changed = ok(boss.patch(f"{API}/people/boss", json={"mail": "boss@lab.example"}))
    assert changed["mail"] == "boss@lab.example"
    assert ok(boss.patch(f"{API}/people/boss", json={"mail": ""}))["mail"] is None
    assert ok(lab.admin.patch(f"{API}/people/boss", json={"admin": False}))["admin"] is False
    assert boss.get(f"{API}/people").status_code == 403


def test_token_shows_its_person(lab: Lab) -> None:
    anna = person(lab, "anna", scopes=("read",))
    assert anna.get(f"{API}/experiments").status_code == 200
    listed = {item["name"]: item["person"] for item in ok(lab.admin.get(f"{API}/tokens"))["items"]}
    assert listed == {"anna read": "anna", "admin": None, "worker": None}
    assert ok(lab.admin.get(f"{API}/people/anna"))["tokens"] == 1


def test_a_claim_asks_nothing_of_people(lab: Lab) -> None:
    """Workers and services pay nothing for projects but a look at their quotas: no limited statement."""
    lab.register()
    lab.submit(plain())
    statements: list[str] = []
    engine = lab.app.state.database.engine

    def keep(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", keep)
    try:
        lab.claim()
    finally:
        event.remove(engine, "before_cursor_execute", keep)
    assert len(statements) > 3
    own = ("people", "memberships", "audit_log")
    assert not [item for item in statements if item.startswith("WITH ") or any(name in item for name in own)]
    assert all("slots_limit" in item for item in statements if "projects" in item)


def test_replicas_agree_on_rights(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    second = make_lab()
    project(lab, "a")
    anna = person(second, "anna", a="submitter")
    submit(anna, plain("one"))
    ok(lab.admin.delete(f"{API}/projects/a/members/anna"), 204)
    assert anna.get(f"{API}/experiments/one").status_code == 404
    assert lab.experiment("one")["project"] == "a"


def test_bodies_of_the_examples_are_accepted(lab: Lab) -> None:
    paths = lab.app.openapi()["paths"]
    for path, method in ((f"{API}/projects", "post"), (f"{API}/people", "post")):
        example = paths[path][method]["requestBody"]["content"]["application/json"]["example"]
        assert lab.admin.post(path, json=json.loads(json.dumps(example))).status_code == 201
