"""The client and the command line against a real backend."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from client import ApiError, Client, ClientSettingsError
from client.cli.app import run as dkd
from client.resources import Runs
from tests import served
from tests.backend.lab import plain, spec


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with served.backend(tmp_path) as url:
        monkeypatch.setenv("DKD_API_URL", url)
        monkeypatch.setenv("DKD_API_TOKEN", served.ADMIN_TOKEN)
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client() as client:
        yield client


def test_submit_wait_and_read_metrics_as_a_data_frame(client: Client, url: str, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    created = client.submit(spec("one", training={"epochs": 3}))
    with pytest.raises(TimeoutError, match="one has not ended"):
        created.wait(timeout=0.1, interval=0.05)
    with served.worker(url, tmp_path):
        done = created.wait(progress=True, timeout=60)
    assert done.state == "finished"
    run = next(run for run in done.runs if run.label == "kd")
    frame = run.metrics(["test/top1"]).to_pandas()
    assert list(frame["epoch"]) == [1.0, 2.0, 3.0]
    assert set(frame["name"]) == {"test/top1"}
    assert run.metrics().last("train/loss") == pytest.approx(1 / 3)
    assert done.comparison().groups[0].n == 1
    assert run.details().wait().state == "succeeded"
    stored = type(done).model_validate(done.model_dump())
    with pytest.raises(ClientSettingsError, match="not read from a backend"):
        stored.wait()


def test_runs_are_listed_over_several_pages(client: Client) -> None:
    client.submit_many([plain(f"number {index}", runs=3, tags=["t"] if index else []) for index in range(3)])
    assert len(list(client.all_runs(tag="t"))) == 6
    page = client.runs(experiment="number 0", sort="created", limit=2)
    rest = client.runs(experiment="number 0", sort="created", limit=2, cursor=page.next_cursor)
    assert [run.seed for run in (*page.items, *rest.items)] == [0, 1, 2]
    with pytest.raises(ApiError) as caught:
        client.submit_many([plain("fresh"), plain("number 0")])
    assert caught.value.problem.errors[0].path == "experiments.1.name"


def test_upload_download_and_deletion_of_files(client: Client, url: str, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"abcd")
    assert client.upload_teacher(file, name="t").parameters == 4
    assert [item.name for item in client.uploads().items] == ["t"]
    with served.worker(url, tmp_path):
        done = client.submit(plain()).wait(timeout=60, interval=0.1)
    run = done.runs[0]
    (item,) = client.artifacts(run.id).items
    to = tmp_path / "weights"
    to.mkdir()  # so that the download cannot be moved there, and remains beside it
    with pytest.raises(OSError, match="weights"):
        client.download(run.id, item.id, to)
    to.rmdir()
    (rest,) = tmp_path.glob("weights.*.part")
    rest.write_bytes(b"x" * 300)  # the rest of an interrupted download, distinguishable from the content
    assert client.download(run.id, item.id, to) == 1000
    assert to.read_bytes() == b"x" * 299 + bytes(701)
    assert not list(tmp_path.glob("weights.*"))
    rest.write_bytes(b"x" * 300)
    rest.with_suffix(".etag").write_text('"of what it was before"')
    assert client.download(run.id, item.id, to) == 1000
    assert to.read_bytes() == bytes(1000)
    client.delete_experiment(done.id)
    with pytest.raises(ApiError):
        client.artifacts(run.id)


def test_follow_reconnects_when_a_stream_breaks(client: Client, url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("client.resources.events._RECONNECT_SECONDS", 0.01)
    created = client.submit(plain())
    seen: list[str] = []
    cut = [True]
    real = Runs.events

    def breaking(self: Runs, run_id: str, *, last_event_id: str | None = None) -> Iterator[Any]:
        for event in real(self, run_id, last_event_id=last_event_id):
            yield event
            if event.event == "metrics" and cut:
                cut.clear()
                return

    monkeypatch.setattr(Runs, "events", breaking)

    def follow() -> None:
        seen.extend(event.event for event in client.follow(created.runs[0].id))

    thread = threading.Thread(target=follow)
    thread.start()
    with served.worker(url, tmp_path):
        thread.join(60)
    assert seen.count("metrics") == 1
    assert seen.count("log") == 1
    assert seen[-1] == "end"


def test_commands_that_create_and_edit_experiments(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {name: value for name, value in spec().items() if name != "name"}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"name": "s", "experiment": base, "grid": {"teacher.seed": "0..1"}}))

    def run_dkd(*arguments: str, code: int = 0) -> str:
        assert dkd(list(arguments)) == code, capsys.readouterr()
        return capsys.readouterr().out

    assert "2 experiment(s), 6 run(s)" in run_dkd("sweep", str(file), "--dry-run")
    created = json.loads(run_dkd("sweep", str(file), "--json"))
    assert [item["name"] for item in created["items"]] == ["s seed=0", "s seed=1"]
    assert run_dkd("tag", "s seed=0", "paper", "x").strip() == "s seed=0: paper, x"
    assert run_dkd("tag", "s seed=0", "--", "-x").strip() == "s seed=0: paper"
    assert "s seed=0" in run_dkd("experiments", "--tag", "paper")
    assert (
        json.loads(run_dkd("runs", "--tag", "paper", "--sort", "created", "--json"))["items"][0]["label"] == "teacher"
    )
    run_dkd("note", "s seed=0", "look at this")
    assert run_dkd("note", "s seed=0") == "look at this\n"
    clone = json.loads(run_dkd("clone", "s seed=0", "--name", "c", "--set", "seeds=5..6", "--json"))
    assert clone["spec"]["seeds"] == [5, 6]
    longer = run_dkd("clone", "s seed=0", "--set", "training.epochs=9", "--dry-run")
    assert "this run is used, and no teacher is trained" in " ".join(longer.split())
    assert "the existing teacher is used: run" in run_dkd(
        "clone", "s seed=0", "--name", "longer", "--set", "training.epochs=9"
    )
    other = ("--set", "training.epochs=9", "--set", "teacher.training=null")
    assert "training.epochs (9 here, " in " ".join(run_dkd("clone", "s seed=0", *other, "--dry-run").split())
    run_dkd("cancel", "longer")
    run_dkd("delete", "longer", "--yes")
    run_dkd("archive", "c")
    assert [item["name"] for item in json.loads(run_dkd("experiments", "--json"))["items"]] == ["s seed=1", "s seed=0"]
    run_dkd("delete", "c", "--yes", code=1)
    run_dkd("cancel", "c")
    run_dkd("delete", "c", code=2)
    assert run_dkd("delete", "c", "--yes") == "c: deleted\n"
    run_dkd("clone", "s seed=0", "--set", "training.epochs=0", code=2)
    file.write_text(yaml.safe_dump({"name": "s", "experiment": base, "grid": {"training.epochs": [1, 0]}}))
    assert dkd(["sweep", str(file)]) == 2
    assert "grid.training.epochs.1" in capsys.readouterr().err


def test_labels_follow_the_methods_through_export_and_set(
    client: Client, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align = {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}}
    first = client.submit(spec("first", methods=["dkd", align, {**align, "label": "ours"}]))
    file = tmp_path / "spec.yaml"
    assert dkd(["export", "first", "--format", "spec", "--out", str(file)]) == 0
    again = client.submit(yaml.safe_load(file.read_text()) | {"name": "again"})
    assert again.spec["methods"] == first.spec["methods"]
    file.write_text(yaml.safe_dump(first.spec))  # complete, with every label
    changes = ["--set", "methods.1.params.reduction=log", "--set", "methods.0.name=nkd", "--set", "methods.0.params={}"]
    capsys.readouterr()
    assert dkd(["submit", str(file), "--set", "name=second", *changes, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["nkd", "dkd_align (log)", "ours"]
    exported = client.preview_clone("first", changes={"training.epochs": 5})
    assert exported.teacher is not None
    assert exported.teacher.run_id == first.runs[0].id
    sweep = tmp_path / "sweep.yaml"
    base = {name: value for name, value in first.spec.items() if name != "name"}
    grid = {"experiment.methods.1.params.reduction": "log"}
    sweep.write_text(yaml.safe_dump({"name": "s", "experiment": base, "grid": {"teacher.seed": [4]}}))
    settings = [word for path, value in grid.items() for word in ("--set", f"{path}={value}")]
    assert dkd(["sweep", str(sweep), *settings, "--json"]) == 0
    (created,) = json.loads(capsys.readouterr().out)["items"]
    assert client.experiment(created["id"]).methods == ["dkd", "dkd_align (log)", "ours"]
