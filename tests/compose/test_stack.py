"""The system in containers, started from a clone: used over HTTP, with killed services, and restarted.

All tests share one stack, and run in this order. ``make test-compose`` runs them.
"""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from client import ApiError, Client
from client.bound import BoundExperiment
from tests.browser import browser, error_texts, wait_until_drawn
from tests.compose.conftest import times
from tests.compose.stack import APP, ONE_SHOT, ROOT, SERVERS, WORKER, Stack, docker
from tests.supply_chain.test_sbom import problems
from tests.waiting import until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

PRINT_ADMIN_TOKEN = ("exec", "-T", "backend", "cat", "/secrets/admin/token")
SBOM = "/usr/share/dkd-lab/sbom.cdx.json"
_EPOCHS = 60  # 15 s for a student, so that it trains while services are killed or stopped


def spec(name: str, *, seeds: int, epochs: int) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": "digits",
        "teacher": {"model": "resnet8", "training": {"epochs": 3}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
        "methods": ["dkd", {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}}],
        "seeds": list(range(seeds)),
        "training": {"epochs": epochs},
    }


def finished(client: Client, experiment: BoundExperiment) -> None:
    """Wait until every run has succeeded, then check that each of its epochs is stored once."""
    client.experiments.wait(experiment.id, timeout=600)
    for run in client.all_runs(experiment=experiment.id):
        assert run.state == "succeeded", f"{run.label}: {run.state} {run.reason}"
        [points] = run.metrics(["test/top1"]).series
        assert points.epoch == list(range(1, run.total_epochs + 1)), run.label


@pytest.fixture(scope="module")
def admin(stack: Stack) -> str:
    return stack.run(*PRINT_ADMIN_TOKEN).strip()


def test_readme_command_prints_the_admin_token() -> None:
    command = " ".join(part for part in PRINT_ADMIN_TOKEN if part != "-T")
    assert f"docker compose {command}" in (ROOT / "README.md").read_text()


def test_images_are_small_and_complete(stack: Stack, report_lines: list[str]) -> None:
    def size(image: str) -> float:
        return int(json.loads(docker("image", "inspect", image))[0]["Size"]) / 1e6

    base = size("python:3.11-slim")
    report_lines.append(
        f"images: app {size(APP):.0f} MB, worker {size(WORKER):.0f} MB; of both {base:.0f} MB are python:3.11-slim, "
        "which has about 130 MB where it comes from the registry"
    )
    assert size(APP) - base < 630
    has_torch = "import importlib.util as u; print(bool(u.find_spec('torch')))"
    assert docker("run", "--rm", APP, "python", "-c", has_torch).strip() == "False"
    assert docker("run", "--rm", WORKER, "python", "-c", has_torch).strip() == "True"
    assert "g++" in docker("run", "--rm", WORKER, "g++", "--version")


def test_containers_have_minimal_privileges(stack: Stack) -> None:
    containers = stack.containers()
    assert set(containers) == {*ONE_SHOT, *SERVERS}
    for service, item in containers.items():
        host = item["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["Init"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["LogConfig"]["Config"] == {"max-file": "5", "max-size": "10m"}, service
        assert host["RestartPolicy"]["Name"] == ("no" if service in ONE_SHOT else "unless-stopped"), service
        assert item["Config"]["User"] == {"postgres": "postgres", "redis": "redis"}.get(service, "dkd"), service
        for bound in (item["NetworkSettings"]["Ports"] or {}).values():
            assert {place["HostIp"] for place in bound or []} <= {"127.0.0.1"}, service


@pytest.mark.parametrize("service", SERVERS)
def test_every_process_in_a_container_has_no_privileges(stack: Stack, service: str) -> None:
    """Not what Compose was told, but what the kernel says of each process."""
    processes = [
        dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        for text in stack.exec(service, "sh", "-c", "for f in /proc/[0-9]*/status; do cat $f; echo; done").split("\n\n")
        if text.strip()
    ]
    assert len(processes) >= 3, "the init, the server, and this command"
    for process in processes:
        name = process["Name"].strip()
        assert "0" not in process["Uid"].split(), name
        assert "0" not in process["Gid"].split(), name
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(process[kind], 16) == 0, (name, kind)
        assert process["NoNewPrivs"].strip() == "1", name
        assert process["Seccomp"].strip() == "2", name
    [root] = [line.split() for line in stack.exec(service, "cat", "/proc/mounts").splitlines() if " / " in line]
    assert "ro" in root[3].split(",")
    identity = stack.containers()[service]["Id"]
    for folder in ("/", "/etc", "/usr/bin", "/venv"):
        docker("exec", "--user", "0", identity, "sh", "-c", f"touch {folder}/probe 2>/dev/null", check=False)
        listed = docker("exec", identity, "sh", "-c", f"ls {folder} 2>/dev/null || true")
        assert "probe" not in listed.split(), folder
    assert stack.exec(service, "sh", "-c", "touch /tmp/probe && echo written").strip() == "written"


@pytest.mark.parametrize("image", [APP, WORKER])
def test_the_sbom_of_an_image_lists_what_is_in_it(stack: Stack, image: str) -> None:
    assert SBOM in (ROOT / "Makefile").read_text()
    sbom = json.loads(docker("run", "--rm", image, "cat", SBOM))
    assert problems(sbom) == []
    assert sbom["metadata"]["component"]["name"] == image.removesuffix(":test")
    listed = {(item["name"], item["version"]) for item in sbom["components"]}
    code = (
        "from importlib.metadata import distributions as d; print(*(f'{i.name} {i.version}' for i in d()), sep='\\n')"
    )
    python = {tuple(line.split()) for line in docker("run", "--rm", image, "python", "-c", code).splitlines()}
    debian = {
        tuple(line.split())
        for line in docker(
            "run", "--rm", image, "dpkg-query", "--show", "--showformat=${Package} ${Version}\\n"
        ).splitlines()
    }
    assert len(python) > 30
    assert len(debian) > 30
    assert python | debian <= listed
    names = {name for name, _ in listed}
    assert {"dkd-lab", "sqlalchemy" if image == APP else "torch"} <= {name.lower() for name in names}
    assert "cyclonedx-bom" not in names, "the tools that list it are no part of it"


def test_the_database_is_backed_up_and_the_backup_is_verified(stack: Stack) -> None:
    done = stack.exec("backend", "python", "-m", "backend", "db", "backup", "--verify", "/backups/first.sqlite3")
    assert "were restored into a scratch database (PostgreSQL)" in done
    assert "are equal in the original database (postgresql" in done


def test_secrets_are_mounted_where_they_are_needed(stack: Stack) -> None:
    mounted = {
        service: {mount["Destination"].removeprefix("/secrets/") for mount in item["Mounts"]
                  if mount["Destination"].startswith("/secrets/")}
        for service, item in stack.containers().items()
    }  # fmt: skip
    everything = {"admin", "broker", "dashboard", "database", "worker"}
    assert mounted == {
        "secrets": everything,
        "backend": everything,
        "postgres": {"database"},
        "migrate": {"database"},
        "redis": {"broker"},
        "worker": {"broker", "worker"},
        "dashboard": {"dashboard"},
    }
    # No secret is in an environment variable, which `docker inspect` would show.
    environments = " ".join(" ".join(item["Config"]["Env"]) for item in stack.containers().values())
    for place in ("admin/token", "worker/token", "database/password", "broker/password"):
        assert stack.exec("backend", "cat", f"/secrets/{place}").strip() not in environments


def test_the_worker_and_the_dashboard_do_not_reach_the_database(stack: Stack) -> None:
    look = "import socket\ntry: socket.create_connection(('{}', {}), 3); print('reached')\nexcept OSError: print('not')"
    assert stack.exec("backend", "python", "-c", look.format("postgres", 5432)).strip() == "reached"
    assert stack.exec("worker", "python", "-c", look.format("redis", 6379)).strip() == "reached"
    assert stack.exec("worker", "python", "-c", look.format("postgres", 5432)).strip() == "not"
    assert stack.exec("dashboard", "python", "-c", look.format("postgres", 5432)).strip() == "not"
    assert stack.exec("dashboard", "python", "-c", look.format("redis", 6379)).strip() == "not"


def test_experiment_submitted_over_http_is_trained(stack: Stack, admin: str, report_lines: list[str]) -> None:
    with stack.client(admin) as administrator:
        token = administrator.create_token("outside", ["submit"]).token
    with stack.client(token) as client:
        began = time.monotonic()
        experiment = client.submit(spec("outside", seeds=1, epochs=3))
        finished(client, experiment)
        report_lines.append(
            f"an experiment of a teacher and two students, 3 epochs each: {time.monotonic() - began:.0f} s"
        )
        [run] = [run for run in client.all_runs(experiment=experiment.id) if "align" in run.label]
        names = {item.name for item in client.artifacts(run.id).items}
        assert any(name.endswith(".safetensors") for name in names), names
        assert client.comparison(experiment.id).complete
    # The container also has the command line, with the admin's token.
    [worker] = json.loads(stack.exec("backend", "dkd", "workers", "--json"))["items"]
    assert (worker["name"], worker["device"]) == ("worker", "cpu")


def test_dashboard_token_cannot_create_tokens(stack: Stack) -> None:
    assert httpx.get(f"{stack.dashboard}/_stcore/health", timeout=10).text == "ok"
    assert "<title>" in httpx.get(stack.dashboard, timeout=10).text
    token = stack.exec("dashboard", "cat", "/secrets/dashboard/token").strip()
    with stack.client(token) as client:
        assert client.runs().items
        with pytest.raises(ApiError) as refused:
            client.tokens()
    assert refused.value.status == 403


@pytest.mark.browser
def test_dashboard_pages_work_in_a_browser(stack: Stack) -> None:
    try:
        with browser() as running:
            page = running.new_page()
            for name, charts in {"new": 0, "runs": 0, "compare": 1}.items():
                page.goto(f"{stack.dashboard}/{name}")
                wait_until_drawn(page, charts=charts)
                assert error_texts(page) == []
    except RuntimeError as error:
        pytest.skip(str(error))
    # The example specs are package data, and must be available in the form.
    listed = "from core.catalog import describe_examples; print(*(item['title'] for item in describe_examples()))"
    assert "Digits demo" in stack.exec("backend", "python", "-c", listed)


def test_killing_each_service_loses_no_data(stack: Stack, admin: str, report_lines: list[str]) -> None:
    with stack.client(admin) as client:
        experiment = client.submit(spec("killed", seeds=1, epochs=_EPOCHS))
        until(lambda: client.runs(state="running", experiment=experiment.id).items, "a training")
        seconds = {service: stack.crash(service) for service in ("worker", "redis", "postgres", "backend", "dashboard")}
        report_lines.append(f"healthy again after a kill: {times(seconds)}")
        finished(client, experiment)
        assert [worker.state for worker in client.workers().items] == ["online"]


def test_restarted_stack_keeps_its_data(stack: Stack, admin: str, report_lines: list[str]) -> None:
    with stack.client(admin) as client:
        before = {run.id: (run.state, run.label) for run in client.all_runs()}
        [worker] = client.workers().items
        experiment = client.submit(spec("interrupted", seeds=1, epochs=_EPOCHS))
        until(lambda: client.runs(state="running", experiment=experiment.id).items, "a training")
    began = time.monotonic()
    stack.run("down")
    report_lines.append(f"down, with a training that hands its run back: {time.monotonic() - began:.0f} s")
    assert not stack.containers()
    chosen = "chosen-by-a-person-in-the-env-file"
    stack.set(DKD_ADMIN_TOKEN=chosen)
    report_lines.append(f"up again: {times(stack.up())}")
    assert stack.run(*PRINT_ADMIN_TOKEN).strip() == chosen
    with stack.client(chosen) as client:
        assert {run.id: (run.state, run.label) for run in client.all_runs() if run.id in before} == before
        finished(client, client.experiment(experiment.id))
        assert [item.id for item in client.workers().items] == [worker.id]
        assert "are equal in the original database" in stack.exec(
            "backend", "python", "-m", "backend", "db", "verify", "/backups/first.sqlite3"
        )
        # A stopped worker returns its run with a checkpoint: no attempt was lost.
        attempts = [attempt for run in client.all_runs(experiment=experiment.id) for attempt in run.details().attempts]
        assert {attempt.outcome for attempt in attempts} == {"interrupted", "succeeded"}


def test_removed_stack_leaves_nothing(stack: Stack) -> None:
    stack.run("down", "--volumes")
    assert not stack.remaining_resources()
