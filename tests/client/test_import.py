"""``dkd import``: runs of other programs, in the files that these programs write."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.cli.app import run as dkd
from client.importers import mlflow, tensorboard, wandb
from client.importers.foreign import ForeignPoint, ForeignRun, ImportSourceError, MetricName, renamed
from tests.client.captured import Captured

ROOT = Path(__file__).parents[2]
SECOND = 1_760_000_000


def _run(name: str = "net", **config: Any) -> ForeignRun:
    return ForeignRun(source="wandb", id="x", name=name, group="g", config=config)


@pytest.mark.parametrize(
    ("run", "label", "seed"),
    [
        (_run("resnet", seed=3), "resnet", 3),
        (_run("resnet seed 4"), "resnet", 4),
        (_run("resnet-seed=12/lr"), "resnet/lr", 12),
        (_run("seed_5"), "seed_5", 5),
        (_run("resnet seed 4", random_seed="7"), "resnet", 7),
        (_run("resnet", seed="many"), "resnet", None),
    ],
)
def test_seed_and_label_come_from_parameters_and_name(run: ForeignRun, label: str, seed: int | None) -> None:
    assert (run.label, run.seed) == (label, seed)


def test_metrics_get_the_names_and_units_of_the_lab() -> None:
    points = [ForeignPoint("acc", 1, None, 0.9), ForeignPoint("loss", 1, None, 0.5)]
    names = [MetricName.parse("acc=test/top1*100")]
    assert [(point.name, point.value) for point in renamed(points, names)] == [("test/top1", 90.0), ("loss", 0.5)]
    for wrong in ("acc", "=a", "a="):
        with pytest.raises(ValueError, match="expected THEIRS=OURS"):
            MetricName.parse(wrong)
    for wrong in ("a=b*c", "a=b*nan", "a=b*"):
        with pytest.raises(ValueError, match="is not a number"):
            MetricName.parse(wrong)


# TensorBoard


def _event_file(path: Path, *contents: bytes, cut: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [struct.pack("<Q", len(item)) + b"CRC1" + item + b"CRC2" for item in contents]
    path.write_bytes(b"".join(records)[: -cut or None])


def test_scalars_of_event_files_are_read(tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

    def event(step: int, **value: Any) -> bytes:
        return bytes(
            event_pb2.Event(wall_time=SECOND + step, step=step, summary={"value": [value]}).SerializeToString()
        )

    scalar = {"metadata": {"plugin_data": {"plugin_name": "scalars"}}}
    image = {"metadata": {"plugin_data": {"plugin_name": "images"}}}
    one = struct.pack("<f", 0.75)
    _event_file(
        tmp_path / "a" / "events.out.tfevents.1.host",
        event(1, tag="acc", simple_value=0.5),
        event(2, tag="acc", tensor={"float_val": [0.25]}, **scalar),
        event(3, tag="acc", tensor={"tensor_content": one, "tensor_shape": {"dim": []}}, **scalar),
        event(3, tag="picture", tensor={"float_val": [1.0]}, **image),
        event(4, tag="acc", simple_value=1.0),
        cut=3,  # the program was ended while it wrote
    )
    _event_file(tmp_path / "b seed 2" / "events.out.tfevents.1.host", event(1, tag="acc", simple_value=0.5))
    first, second = tensorboard.read(tmp_path)
    assert [(point.name, point.step, point.value) for point in first.points] == [
        ("acc", 1, 0.5),
        ("acc", 2, 0.25),
        ("acc", 3, 0.75),
    ]
    assert first.started_at is not None
    assert first.started_at.timestamp() == SECOND + 1
    assert (second.name, second.label, second.seed) == ("b seed 2", "b", 2)


def test_a_folder_without_event_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportSourceError, match="no event files"):
        list(tensorboard.read(tmp_path))
    _event_file(tmp_path / "events.out.tfevents.1", b"")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\xff" * 100)
    with pytest.raises(ImportSourceError, match="not an event file"):
        list(tensorboard.read(tmp_path))


# MLflow


def _file_store(store: Path) -> None:
    experiment = store / "0"
    (experiment / "r1" / "metrics" / "val").mkdir(parents=True)
    (experiment / "r1" / "params").mkdir()
    (experiment / "meta.yaml").write_text(yaml.safe_dump({"name": "Default", "experiment_id": "0"}))
    meta = {"run_id": "r1", "run_name": "net", "status": 3, "start_time": 1000 * SECOND, "lifecycle_stage": "active"}
    (experiment / "r1" / "meta.yaml").write_text(yaml.safe_dump(meta))
    (experiment / "r1" / "metrics" / "val" / "acc").write_text(f"{1000 * SECOND} 0.5 1\n{1000 * SECOND + 500} nan 2\n")
    (experiment / "r1" / "params" / "seed").write_text("3")
    (experiment / "r2").mkdir()
    (experiment / "r2" / "meta.yaml").write_text(yaml.safe_dump(meta | {"run_id": "r2", "lifecycle_stage": "deleted"}))


def _database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE experiments (experiment_id INTEGER, name TEXT);"
            "CREATE TABLE runs (run_uuid TEXT, name TEXT, experiment_id INTEGER, status TEXT, start_time INTEGER,"
            " end_time INTEGER, lifecycle_stage TEXT);"
            "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE metrics (key TEXT, value DOUBLE, timestamp INTEGER, run_uuid TEXT, step INTEGER,"
            " is_nan BOOLEAN);"
            "INSERT INTO experiments VALUES (1, 'Default');"
            f"INSERT INTO runs VALUES ('r1', 'net', 1, 'FINISHED', {1000 * SECOND}, NULL, 'active');"
            f"INSERT INTO runs VALUES ('r2', 'old', 1, 'FAILED', {1000 * SECOND}, NULL, 'deleted');"
            "INSERT INTO params VALUES ('seed', '3', 'r1');"
            f"INSERT INTO metrics VALUES ('val/acc', 0.5, {1000 * SECOND}, 'r1', 1, 0);"
            f"INSERT INTO metrics VALUES ('val/acc', 0, {1000 * SECOND + 500}, 'r1', 2, 1);"
        )
    connection.close()


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_a_store_of_mlflow_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    if kind == "folder":
        _file_store(path)
    else:
        _database(path)
    (run,) = mlflow.read(path)
    assert (run.id, run.name, run.group, run.seed, run.state) == ("r1", "net", "Default", 3, "succeeded")
    assert str([(point.name, point.step, point.value, point.time) for point in run.points]) == str(
        [("val/acc", 1, 0.5, float(SECOND)), ("val/acc", 2, float("nan"), SECOND + 0.5)]
    )
    assert run.started_at is not None
    assert run.started_at.timestamp() == SECOND


def test_what_is_no_store_of_mlflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportSourceError, match="has no runs"):
        list(mlflow.read(tmp_path))
    with pytest.raises(ImportSourceError, match="does not exist"):
        list(mlflow.read(tmp_path / "nothing"))
    (tmp_path / "text").write_text("text")
    with pytest.raises(ImportSourceError, match="not an SQLite database"):
        list(mlflow.read(tmp_path / "text"))
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(ImportSourceError, match="not a store of MLflow, or is damaged: no such table"):
        list(mlflow.read(tmp_path / "other.db"))


@pytest.mark.parametrize(
    ("file", "content"),
    [("meta.yaml", "run_id: ["), ("metrics/val/acc", "no number"), ("params/x", b"\xff")],
)
def test_a_damaged_folder_of_mlflow_is_refused(tmp_path: Path, file: str, content: str | bytes) -> None:
    _file_store(tmp_path)
    (tmp_path / "0" / "r1" / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ImportSourceError, match="is not a store of MLflow, or is damaged"):
        list(mlflow.read(tmp_path))


# Weights & Biases


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _message(**fields: bytes | int | list[bytes]) -> bytes:
    """Encode a protocol buffer; fields are named f1, f2, … by their number."""
    content = b""
    for name, value in fields.items():
        number = int(name[1:])
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                content += _varint(number << 3) + _varint(item)
            else:
                content += _varint(number << 3 | 2) + _varint(len(item)) + item
    return content


def _item(key: str, value: Any) -> bytes:
    return _message(f1=key.encode(), f16=json.dumps(value).encode())


def _log(records: list[bytes]) -> bytes:
    """Return a file: records are divided into blocks of 32 KiB."""
    log = b":W&B" + b"\x9d\xbe\x00"
    for content in records:
        record, first = content, True
        while True:
            room = 32768 - len(log) % 32768
            if room < 7:
                log += bytes(room)
                room = 32768
            part, record = record[: room - 7], record[room - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            log += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
            if not record:
                break
    return log


def _wandb_file(path: Path) -> None:
    config = _message(f1=[_item("seed", 3), _item("training", {"epochs": 2}), _item("_wandb", {"x": 1})])
    run = _message(f1=b"abc", f3=b"project", f4=config, f6=b"group", f8=b"net", f17=_message(f1=SECOND))
    double = _message(f1=b"loss") + _varint(6 << 3 | 1) + struct.pack("<d", 0.25)
    integer = _message(f1=b"count", f5=5)  # −3 as zigzag
    rows = [
        _message(f1=[_item("acc", 0.5), _item("_step", 1), _item("_timestamp", SECOND + 1), _item("epoch", 1)]),
        _message(f1=[double, integer, _item("name", "a text")], f2=_message(f1=2)),
    ]
    large = _message(f4=b"x" * 70_000)  # a record over three blocks
    records = [_message(f17=run), large, *(_message(f2=row) for row in rows), _message(f18=_message(f1=0))]
    path.parent.mkdir(parents=True)
    path.write_bytes(_log(records))


def test_an_offline_run_of_wandb_is_read(tmp_path: Path) -> None:
    _wandb_file(tmp_path / "offline-run-1-abc" / "run-abc.wandb")
    (run,) = wandb.read(tmp_path)
    assert (run.id, run.name, run.group, run.seed, run.state) == ("abc", "net", "project/group", 3, "succeeded")
    assert run.config == {"seed": 3, "training.epochs": 2}
    assert run.points == [
        ForeignPoint("acc", 1, SECOND + 1.0, 0.5, 1.0),
        ForeignPoint("loss", 2, None, 0.25),
        ForeignPoint("count", 2, None, -3.0),
    ]
    assert run.started_at is not None
    assert run.started_at.timestamp() == SECOND


def test_a_damaged_run_of_wandb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportSourceError, match="no offline runs"):
        list(wandb.read(tmp_path))
    path = tmp_path / "run-a.wandb"
    path.write_bytes(b"not a log")
    with pytest.raises(ImportSourceError, match="does not begin with"):
        list(wandb.read(tmp_path))
    path.write_bytes(_log([b"\x0f\xff"]))
    with pytest.raises(ImportSourceError, match="damaged"):
        list(wandb.read(tmp_path))
    path.write_bytes(_log([_message(f17=_message(f1=b"abc"))])[:-2])  # its program was ended while it wrote
    assert [run.id for run in wandb.read(tmp_path)] == ["a"]


# The tables


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    _database(tmp_path / "mlflow.db")
    return tmp_path


def test_foreign_runs_are_marked_in_the_tables(stores: Path, capsys: Captured) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    arguments = ["--format", "mlflow", "--out", "foreign", "--metric", "val/acc=test/top1*100"]
    assert dkd(["import", "mlflow.db", *arguments]) == 0
    assert capsys.readouterr().out == "foreign: 1 foreign run(s), 2 points\n"
    (run,) = pq.read_table("foreign/runs.parquet").to_pylist()
    assert (run["run_id"], run["source"], run["label"], run["seed"]) == ("mlflow:r1", "mlflow", "net", 3)
    assert json.loads(run["spec"]) == {"seed": "3"}
    points = pq.read_table("foreign/metrics.parquet").to_pylist()
    assert [(point["run_id"], point["name"], point["step"]) for point in points] == [
        ("mlflow:r1", "test/top1", 1),
        ("mlflow:r1", "test/top1", 2),
    ]
    assert points[0]["value"] == 50.0
    (experiment,) = pq.read_table("foreign/experiments.parquet").to_pylist()
    assert (experiment["experiment_id"], experiment["name"]) == ("mlflow:Default", "Default")


def test_an_import_that_fails_keeps_the_tables_of_an_earlier_one(stores: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert dkd(["import", "mlflow.db", "--format", "mlflow", "--out", "foreign"]) == 0
    with sqlite3.connect("mlflow.db") as connection:
        connection.execute("DROP TABLE metrics")
    connection.close()
    assert dkd(["import", "mlflow.db", "--format", "mlflow", "--out", "foreign"]) == 2
    assert pq.read_table("foreign/metrics.parquet").num_rows == 2
    assert sorted(path.name for path in Path("foreign").iterdir()) == [
        "experiment_runs.parquet",
        "experiments.parquet",
        "metrics.parquet",
        "runs.parquet",
    ]


def test_the_documented_query_pairs_own_and_foreign_runs_by_seed(stores: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    from client.exporters.parquet import OWN, Tables

    assert (
        dkd(["import", "mlflow.db", "--format", "mlflow", "--out", "foreign", "--metric", "val/acc=test/top1*100"]) == 0
    )
    with sqlite3.connect("mlflow.db") as connection:
        connection.execute("DELETE FROM metrics WHERE is_nan")
    connection.close()
    assert (
        dkd(["import", "mlflow.db", "--format", "mlflow", "--out", "foreign", "--metric", "val/acc=test/top1*100"]) == 0
    )
    with Tables(Path("lab")) as tables:
        for seed in (2, 3):
            run = {"run_id": f"own-{seed}", "source": OWN, "label": "dkd", "role": "student", "seed": seed}
            tables.add("runs", [run])
            tables.add("metrics", [{"run_id": f"own-{seed}", "name": "test/top1", "step": 5, "value": 60.0 + seed}])
    _, query = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "exports.md").read_text(), re.DOTALL)
    ((own, foreign, source, pairs, difference, sd),) = duckdb.sql(query).fetchall()
    assert (own, foreign, source, pairs, difference, sd) == ("dkd", "net", "mlflow", 1, 13.0, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mlflow.db", "--format", "csv"], "--format csv: must be one of tensorboard, mlflow, wandb"),
        (["mlflow.db", "--format", "mlflow", "--metric", "acc"], "--metric acc: expected THEIRS=OURS"),
        (["mlflow.db", "--format", "wandb"], "is not a folder"),
        (["nothing", "--format", "mlflow"], "nothing does not exist"),
    ],
)
def test_wrong_arguments_are_refused(stores: Path, capsys: Captured, words: list[str], message: str) -> None:
    assert dkd(["import", *words, "--out", "foreign"]) == 2
    assert message in capsys.readouterr().err
