"""The installed Compose accepts every compose file, alone or combined as the comment at its start says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose.stack import ROOT, compose_command

pytestmark = pytest.mark.compose

SERVER = "docker-compose.yml"
NODE = {"DKD_API_URL": "http://10.0.0.5:8000", "DKD_WORKER_TOKEN": "token"}


def config(tmp_path: Path, *files: str, **values: str) -> subprocess.CompletedProcess[str]:
    env = tmp_path / "env"
    env.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    chosen = [part for file in files for part in ("--file", str(ROOT / file))]
    command = [*compose_command(), "--env-file", str(env), *chosen, "config"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def read(tmp_path: Path, *files: str, **values: str) -> dict[str, Any]:
    done = config(tmp_path, *files, **values)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return services


@pytest.mark.parametrize(("base", "values"), [(SERVER, {}), ("docker-compose.worker.yml", NODE)])
def test_a_worker_gets_every_gpu(tmp_path: Path, base: str, values: dict[str, str]) -> None:
    worker = read(tmp_path, base, "docker-compose.gpu.yml", **values)["worker"]
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"], str(device["count"])) == ("nvidia", ["gpu"], "all")
    assert worker["environment"]["DKD_DEVICE"] == "gpu"


def test_node_runs_a_worker_only_and_reports_missing_settings(tmp_path: Path) -> None:
    services = read(tmp_path, "docker-compose.worker.yml", **NODE, DKD_ARTIFACTS="s3://dkd")
    assert set(services) == {"worker"}
    assert services["worker"]["environment"]["DKD_ARTIFACTS"] == "s3://dkd"
    refused = config(tmp_path, "docker-compose.worker.yml", DKD_API_URL="http://10.0.0.5:8000")
    assert refused.returncode != 0
    assert "the token of workers" in refused.stderr


def test_only_a_server_with_nodes_opens_its_broker(tmp_path: Path) -> None:
    assert "ports" not in read(tmp_path, SERVER)["redis"]
    opened = read(tmp_path, SERVER, "docker-compose.nodes.yml", DKD_BROKER_BIND="10.0.0.5")["redis"]
    assert "10.0.0.5" in str(opened["ports"])
    refused = config(tmp_path, SERVER, "docker-compose.nodes.yml")
    assert refused.returncode != 0
    assert "the address at which other machines reach the broker" in refused.stderr
