"""The groups of calls, the plain data that they return, and the aliases that scripts use."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from client import Client, ClientSettingsError, Experiment, NotABackend, Run, SpecError
from client.bound import BoundExperiment, BoundRun, BoundRunSummary
from tests.client import fakes
from tests.client.fakes import FakeBackend

EXPERIMENT = "/api/v1/experiments/exp-1"
EVENT_STREAM = {"Content-Type": "text/event-stream"}


@pytest.fixture
def lab() -> FakeBackend:
    return FakeBackend(
        {
            "POST /api/v1/experiments": fakes.experiment(),
            f"GET {EXPERIMENT}": fakes.experiment(),
            f"POST {EXPERIMENT}/cancel": fakes.experiment(state="cancelled"),
            "GET /api/v1/runs": fakes.page(fakes.run_summary()),
            "GET /api/v1/runs/run-1": fakes.run(state="succeeded"),
            "POST /api/v1/runs/run-1/cancel": fakes.run(state="cancelled"),
            "POST /api/v1/runs/run-1/retry": fakes.run(state="queued"),
            "GET /api/v1/runs/run-1/metrics": {"run_id": "run-1", "state": "running", "cursor": 2, "series": []},
            "GET /api/v1/comparisons": fakes.comparison(),
            "GET /api/v1/workers": {"items": []},
            "GET /api/v1/teachers": {"items": []},
            "GET /api/v1/tokens": {"items": []},
            "GET /api/v1/projects": {"items": []},
            "GET /api/v1/people": {"items": []},
            "GET /api/v1/audit": {"items": []},
        }
    )


@pytest.fixture
def client(lab: FakeBackend) -> Client:
    return Client("http://127.0.0.1:9", transport=lab.transport())


def test_groups_return_plain_data(client: Client) -> None:
    assert type(client.experiments.create(fakes.spec())) is Experiment
    assert type(client.experiments.get("exp-1")) is Experiment
    assert type(client.runs.get("run-1")) is Run
    (summary,) = client.runs.list().items
    assert not isinstance(summary, BoundRunSummary)
    assert [run.id for run in client.runs.iterate(state="running")] == ["run-1"]


def test_a_run_is_waited_for_by_its_id(client: Client, lab: FakeBackend) -> None:
    lab.answers["GET /api/v1/runs/run-1"] = [fakes.run(), fakes.run(state="succeeded")]
    assert client.runs.wait("run-1", interval=0.0).state == "succeeded"
    lab.answers["GET /api/v1/runs/run-1"] = fakes.run()
    with pytest.raises(TimeoutError, match="run run-1 is still running"):
        client.runs.wait("run-1", timeout=0.0)


def test_submit_and_clone_return_experiments_with_calls(client: Client, lab: FakeBackend) -> None:
    lab.answers[f"POST {EXPERIMENT}/clone"] = fakes.experiment()
    experiment = client.submit(fakes.spec())
    assert isinstance(experiment, BoundExperiment)
    assert isinstance(experiment, Experiment)
    assert experiment.model_dump() == fakes.experiment().model_dump()
    assert isinstance(client.clone("exp-1"), BoundExperiment)
    assert experiment.refresh().id == "exp-1"
    assert experiment.cancel().state == "cancelled"
    assert experiment.comparison(baseline="kd").baseline == "kd"
    assert lab.requests[-1].url.params["experiment"] == "exp-1"


def test_runs_of_aliases_have_calls(client: Client) -> None:
    for run in (client.experiment("exp-1").runs[0], client.runs().items[0], next(iter(client.all_runs()))):
        assert isinstance(run, BoundRunSummary)
        assert run.metrics(["train/loss"]).cursor == 2
        assert isinstance(run.details(), BoundRun)
        assert run.details().wait().state == "succeeded"
        assert run.cancel().state == "cancelled"
        assert run.retry().state == "queued"


def test_groups_can_be_called_as_lists(client: Client) -> None:
    assert client.workers() == client.workers.list()
    assert client.teachers() == client.teachers.list()
    assert client.tokens() == client.tokens.list()
    assert client.projects() == client.projects.list()
    assert client.people() == client.people.list()
    assert client.audit() == client.audit.list()


def test_a_client_of_a_project_says_so_in_every_request(lab: FakeBackend) -> None:
    for project in ("detection", None):
        client = Client("http://127.0.0.1:9", project=project, transport=lab.transport())
        client.runs.list()
        assert lab.requests[-1].headers.get("X-DKD-Project") == project


def test_an_object_that_was_not_read_from_a_backend_has_none_to_call(client: Client) -> None:
    stored = BoundExperiment.model_validate(client.experiment("exp-1").model_dump())
    with pytest.raises(ClientSettingsError, match="not read from a backend"):
        stored.wait()


@pytest.mark.parametrize("text", [": keep-alive\n\n", "id: 3\n\n: keep-alive\n\n"])
def test_comments_of_an_event_stream_are_no_events(text: str) -> None:
    backend = FakeBackend({"GET /api/v1/runs/r/events": httpx.Response(200, text=text, headers=EVENT_STREAM)})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    assert list(client.runs.events("r")) == []


def test_response_that_is_not_an_event_stream_is_refused() -> None:
    backend = FakeBackend({"GET /api/v1/runs/r/events": fakes.text("hello")})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    with pytest.raises(NotABackend, match="text/event-stream"):
        list(client.runs.events("r"))


def test_follow_continues_after_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.resources.events._RECONNECT_SECONDS", 0.0)
    streams: list[Any] = [
        httpx.Response(200, text="id: 7\nevent: state\ndata: {}\n\n", headers=EVENT_STREAM),
        httpx.ReadError("reset"),
        httpx.Response(200, text="id: 8\nevent: end\ndata: {}\n\n", headers=EVENT_STREAM),
    ]
    backend = FakeBackend({"GET /api/v1/runs/r/events": streams})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    assert [event.id for event in client.runs.follow("r")] == ["7", "8"]
    assert [request.headers.get("Last-Event-ID") for request in backend.requests] == [None, "7", "7"]


def test_follow_goes_on_after_a_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    limited = fakes.problem(429, "too many requests")
    limited.headers["Retry-After"] = "2"
    end = httpx.Response(200, text="id: 8\nevent: end\ndata: {}\n\n", headers=EVENT_STREAM)
    backend = FakeBackend({"GET /api/v1/runs/r/events": [limited, limited, limited, end]})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    assert [event.id for event in client.runs.follow("r")] == ["8"]
    assert len(waited) == 3
    assert min(waited) >= 2.0


def test_detections_are_read_as_plain_data() -> None:
    image = {"item": 3, "id": 3, "name": "", "width": 10, "height": 10, "picture": True}
    page = {"run_id": "run-1", "classes": ["cat"], "kinds": {"missed": "missed object"}, "images": 4, "pictures": 1}
    page |= {"least_score": 0.05, "scores": {"student": {"ap": "NaN"}}, "counts": {"student": {"missed": 2}}}
    page |= {"calibration": {"student": []}}
    page |= {"items": [image | {"objects": 1, "counts": {"student": {"missed": 1}}}]}
    jpeg = b"\xff\xd8\xff"
    backend = FakeBackend(
        {
            "GET /api/v1/runs/run-1/detections": page,
            "GET /api/v1/runs/run-1/detections/3": image | {"run_id": "run-1", "objects": [], "detections": []},
            "GET /api/v1/runs/run-1/pictures/3": httpx.Response(
                200, content=jpeg, headers={"Content-Type": "image/jpeg"}
            ),
        }
    )
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    found = client.runs.detections("run-1", kind="missed", pictured=True)
    assert [item.counts for item in found.items] == [{"student": {"missed": 1}}]
    assert dict(backend.requests[-1].url.params) == {
        "kind": "missed",
        "source": "student",
        "score": "0.5",
        "pictured": "true",
        "limit": "50",
    }
    assert client.runs.image_detections("run-1", 3, score=0.3).detections == []
    assert backend.requests[-1].url.params["score"] == "0.3"
    assert client.runs.picture("run-1", 3) == jpeg


def test_features_are_read_as_plain_data() -> None:
    kept = {"length": 4, "images": 2, "measured": 9, "measured_classes": 1, "epochs": [1], "measures": {"nc1": [None]}}
    summary = {"run_id": "run-1", "classes": ["cat"], "all_classes": 1, "networks": {"run": kept}, "unavailable": {}}
    points = {"run_id": "run-1", "network": "teacher", "projection": "tsne", "epoch": 0, "classes": ["cat"]}
    points |= {"item": [1, 2], "label": [0, 0], "x": [0.0, 1.0], "y": [0.0, 1.0], "angles": [[None]]}
    backend = FakeBackend(
        {
            "GET /api/v1/runs/run-1/features": summary,
            "GET /api/v1/runs/run-1/features/map": points | {"extent": None, "explained": None},
        }
    )
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    assert client.runs.features("run-1").networks["run"].epochs == [1]
    assert client.runs.feature_map("run-1", network="teacher", projection="tsne", epoch=0).item == [1, 2]
    assert dict(backend.requests[-1].url.params) == {"network": "teacher", "projection": "tsne", "epoch": "0"}
    client.runs.feature_map("run-1")
    assert dict(backend.requests[-1].url.params) == {"network": "run", "projection": "pca"}


def test_predictions_are_read_as_plain_data() -> None:
    counts = {"right": 2, "by_class": [{"images": 3, "right": 2, "predicted": 2}], "calibration": None, "ece": None}
    summary = {"run_id": "run-1", "reference": "", "classes": ["cat"], "images": 3, "pictures": 0, "agreement": None}
    matrix = {"run_id": "run-1", "reference": "", "classes": ["cat"], "target": [0], "predicted": [0], "run": [2]}
    images = {"run_id": "run-1", "reference": "", "images": 3, "items": []}
    difference = {"run_id": "kd", "reference": "teacher", "classes": ["cat"], "classes_per_cell": 1}
    compared = {"baseline": "ce", "classes": [], "images": 3, "images_by_class": [], "methods": [], "teacher": None}
    backend = FakeBackend(
        {
            "GET /api/v1/runs/run-1/predictions": summary | {"networks": {"run": counts}},
            "GET /api/v1/runs/run-1/predictions/confusion": matrix | {"of_reference": None, "left_out": 0},
            "GET /api/v1/runs/run-1/predictions/correlations": difference | {"difference": [[None]], "mean": None},
            "GET /api/v1/runs/run-1/predictions/images": images,
            "GET /api/v1/comparisons/predictions": compared | {"notes": []},
            "GET /api/v1/comparisons/predictions/confusion": matrix | {"of_reference": [1], "left_out": 0},
            "GET /api/v1/comparisons/predictions/correlations": difference | {"difference": [[0.0]], "mean": 0.0},
        }
    )
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    assert client.runs.predictions("run-1").networks["run"].right == 2
    assert dict(backend.requests[-1].url.params) == {}
    assert client.runs.confusion("run-1", against="run-2").run == [2]
    assert dict(backend.requests[-1].url.params) == {"against": "run-2", "limit": "10000"}
    assert client.runs.correlations("run-1").difference == [[None]]
    assert client.runs.predicted_images("run-1", kind="differ", label="cat", pictured=True).items == []
    assert dict(backend.requests[-1].url.params) == {
        "kind": "differ",
        "label": "cat",
        "margin": "0.0",
        "pictured": "true",
        "limit": "50",
    }
    assert client.comparisons.predictions("exp", baseline="ce").baseline == "ce"
    assert client.comparisons.confusion("exp", "kd").of_reference == [1]
    assert client.comparisons.correlations("exp", "kd", against="ce").mean == 0
    assert dict(backend.requests[-1].url.params) == {"experiment": "exp", "label": "kd", "against": "ce"}


def test_layouts_of_a_board_are_saved_and_deleted() -> None:
    about = {"name": "a/b", "figures": 1, "saved_at": "2026-01-01T00:00:00Z", "saved_by": "ann"}
    layout = {"figures": [{"metric": "test/top1", "colour": "of a newer version"}], "newer": 1}
    backend = FakeBackend(
        {
            "POST /api/v1/layouts": about | {"layout": layout},
            "GET /api/v1/layouts": {"items": [about]},
            "GET /api/v1/layouts/a/b": about | {"layout": layout},
            "DELETE /api/v1/layouts/a/b": httpx.Response(204),
        }
    )
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    assert [item.name for item in client.layouts.list().items] == ["a/b"]
    read = client.layouts.get("a/b").layout
    assert backend.requests[-1].url.raw_path.endswith(b"/layouts/a%2Fb")
    client.layouts.save("mine", read.model_copy(update={"x": "steps"}), replace=True)
    sent = json.loads(backend.requests[-1].content)
    assert (sent["name"], sent["replace"], sent["layout"]["x"]) == ("mine", True, "steps")
    assert sent["layout"]["figures"] == [{"metric": "test/top1", "right": "", "log": False}]
    with pytest.raises(SpecError, match="name"):
        client.layouts.save(" ", read)
    client.layouts.delete("a/b")
    assert backend.requests[-1].method == "DELETE"
