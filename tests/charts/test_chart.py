"""charts/dkd-lab: it is accepted by helm and by Kubernetes' schemas, and its settings do what they say."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.charts.rendering import CHART, EVERYTHING, KUBERNETES, NAME, ROOT, Object, helm, render, template

OF_OPERATORS = {"ScaledObject", "ServiceMonitor"}
"""Kinds that operators define: Kubernetes has no schema of them."""
EXTERNAL: Object = {
    "postgresql": {"enabled": False, "externalUrl": "postgresql://dkd:p%40ss@db.example/dkd"},
    "redis": {"enabled": False, "externalUrl": "rediss://:word@broker.example:6379/0"},
    "artifacts": {
        "url": "s3://dkd/lab",
        "s3": {"endpointUrl": "https://minio.example", "region": "eu", "existingSecret": "bucket"},
    },
    "data": {"existingClaim": "datasets", "readOnly": True},
    "imagePullSecrets": [{"name": "registry"}],
}
KEDA: Object = {"worker": {"cpu": {"keda": {"enabled": True}}, "gpu": {"enabled": True, "kind": "Deployment"}}}
CHOICES = {"defaults": {}, "everything": EVERYTHING, "external": EXTERNAL, "keda": KEDA}


@pytest.mark.parametrize("choice", CHOICES)
def test_helm_lints_the_chart(choice: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(CHOICES[choice]))
    done = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("choice", CHOICES)
def test_every_object_conforms_to_the_schema_of_kubernetes(choice: str) -> None:
    for (kind, name), item in render(CHOICES[choice]).objects.items():
        if kind not in OF_OPERATORS:
            for version in KUBERNETES:
                kubernetes_validate.validate(item, version, strict=True)
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", item["metadata"]["name"]), name
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "lab", (kind, name)


def test_every_kind_of_object_is_rendered_by_a_choice() -> None:
    kinds = {kind for choice in CHOICES.values() for kind, _ in render(choice).objects}
    named = set(re.findall(r"^kind: (\w+)$", "\n".join(path.read_text() for path in CHART.glob("templates/*")), re.M))
    assert named <= kinds
    assert kinds - named == {"DaemonSet"}, "its kind is a value"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"postgresql": {"enabled": False}}, "give postgresql.externalUrl or secrets.database.existingSecret"),
        ({"redis": {"enabled": False}}, "give redis.externalUrl or secrets.broker.existingSecret"),
        ({"postgresql": {"externalUrl": "postgresql://x"}}, "set postgresql.enabled to false"),
        ({"worker": {"cpu": {"keda": {"enabled": True}, "autoscaling": {"enabled": True}}}}, "not both"),
        ({"backend": {"env": {"DKD_MAX_BODY_BYTES": 2000000}}}, "got number, want string"),
        ({"backend": {"replica": 2}}, "additional properties 'replica' not allowed"),
        ({"dashboard": {"login": "open"}}, "value must be one of"),
        ({"worker": {"gpu": {"kind": "StatefulSet"}}}, "value must be one of"),
        ({"ingress": {"host": "https://lab.example"}}, "does not match pattern"),
        ({"artifacts": {"persistence": {"size": "many"}}}, "does not match pattern"),
    ],
)
def test_values_that_cannot_work_are_refused(values: Object, message: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert message in done.stderr


def test_every_value_is_in_the_schema_and_conforms_to_it() -> None:
    def compare(values: Any, schema: Any, path: str) -> None:
        if "$ref" in schema:
            schema = document["definitions"][schema["$ref"].removeprefix("#/definitions/")]
        if not isinstance(values, dict) or "properties" not in schema:
            return
        assert set(values) <= set(schema["properties"]), path
        for name, value in values.items():
            compare(value, schema["properties"][name], f"{path}.{name}")

    document = json.loads((CHART / "values.schema.json").read_text())
    compare(yaml.safe_load((CHART / "values.yaml").read_text()), document, "")


def test_the_chart_has_the_version_of_the_package_and_its_oldest_kubernetes_is_tested() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    assert f'\nversion = "{chart["appVersion"]}"' in project


def test_external_servers_are_used_and_none_is_started() -> None:
    chart = render(EXTERNAL)
    assert not chart.of_kind("StatefulSet", "PersistentVolumeClaim")
    assert chart.get("Secret", "database")["stringData"] == {
        "dkd_database_url": "postgresql://dkd:p%40ss@db.example/dkd"
    }
    assert chart.get("Secret", "broker")["stringData"] == {"dkd_broker_url": "rediss://:word@broker.example:6379/0"}
    for component in ("backend", "worker-cpu"):
        environment = chart.environment(component)
        assert environment["DKD_ARTIFACTS"] == "s3://dkd/lab"
        assert environment["AWS_ENDPOINT_URL"] == "https://minio.example"
        assert environment["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "bucket"
        assert "/artifacts" not in {item["mountPath"] for item in chart.container(component)["volumeMounts"]}
    [data] = [item for item in chart.pods()["worker-cpu"]["spec"]["volumes"] if item["name"] == "data"]
    assert data["persistentVolumeClaim"] == {"claimName": "datasets"}
    assert chart.pods()["backend"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_existing_secrets_are_mounted_instead_of_new_ones() -> None:
    kinds = ("admin", "worker", "dashboard", "database", "broker")
    chart = render({"secrets": {kind: {"existingSecret": f"own-{kind}"} for kind in kinds}})
    assert not chart.of_kind("Secret")
    volumes = {item["name"]: item for item in chart.pods()["backend"]["spec"]["volumes"]}
    assert {volumes[f"{kind}-secret"]["secret"]["secretName"] for kind in kinds} == {f"own-{kind}" for kind in kinds}


def test_new_secrets_are_long_random_and_distinct() -> None:
    first, second = ({name: item["stringData"] for name, item in render().of_kind("Secret").items()} for _ in range(2))
    assert set(first) == {"admin", "worker", "dashboard", "database", "broker"}
    single = [secrets[name]["token"] for secrets in (first, second) for name in ("admin", "worker", "dashboard")]
    single += [secrets[name]["password"] for secrets in (first, second) for name in ("database", "broker")]
    assert len(set(single)) == 10
    assert min(map(len, single)) > 40
    database, broker = first["database"], first["broker"]
    assert database["dkd_database_url"] == f"postgresql://dkd:{database['password']}@{NAME}-postgresql/dkd"
    assert broker["dkd_broker_url"] == f"redis://:{broker['password']}@{NAME}-redis:6379/0"
    assert broker["redis.conf"] == f"requirepass {broker['password']}\n"
    for item in render().of_kind("Secret").values():
        assert item["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


RESOURCES = {
    "v1": ["Secret", "Service", "ServiceAccount", "PersistentVolumeClaim"],
    "apps/v1": ["Deployment", "StatefulSet", "DaemonSet"],
    "batch/v1": ["Job", "CronJob"],
    "networking.k8s.io/v1": ["NetworkPolicy", "Ingress"],
    "policy/v1": ["PodDisruptionBudget"],
}


def resource_list(version: str) -> Object:
    resources = [
        {"name": kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s"), "kind": kind}
        | {"namespaced": True, "verbs": ["get", "list"], "singularName": kind.lower()}
        for kind in RESOURCES[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def group_list() -> Object:
    versions = [{"groupVersion": version, "version": "v1"} for version in RESOURCES if "/" in version]
    groups = [
        {"name": item["groupVersion"].partition("/")[0], "versions": [item], "preferredVersion": item}
        for item in versions
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


@contextmanager
def cluster(secrets: dict[str, dict[str, str]]) -> Iterator[str]:
    """Serve the few answers of Kubernetes' API that ``lookup`` needs. Yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            answers: dict[str, Object] = {
                "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
                "/api": {"kind": "APIVersions", "versions": ["v1"]},
                "/apis": group_list(),
                **{f"/{'apis' if '/' in name else 'api'}/{name}": resource_list(name) for name in RESOURCES},
            }
            answer = answers.get(path)
            match = re.fullmatch(r"/api/v1/namespaces/science/secrets/(.+)", path)
            if match and (data := secrets.get(match[1])):
                answer = {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": match[1], "namespace": "science"},
                    "data": {name: b64encode(value.encode()).decode() for name, value in data.items()},
                }
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer or missing).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_upgrade_keeps_the_secrets_of_the_cluster(tmp_path: Path) -> None:
    kept = {
        f"{NAME}-admin": {"token": "the-token-of-the-admin"},
        f"{NAME}-database": {"password": "the-password", "dkd_database_url": "of an earlier version of the chart"},
    }
    with cluster(kept) as address:
        config = tmp_path / "kubeconfig"
        config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [{"name": "test", "cluster": {"server": address}}],
                    "users": [{"name": "test", "user": {}}],
                }
            )
        )
        chart = render({}, "--dry-run=server", "--is-upgrade", "--disable-openapi-validation", KUBECONFIG=str(config))
    assert chart.get("Secret", "admin")["stringData"] == {"token": "the-token-of-the-admin"}
    assert chart.get("Secret", "database")["stringData"] == {
        "password": "the-password",
        "dkd_database_url": f"postgresql://dkd:the-password@{NAME}-postgresql/dkd",
    }
    assert len(chart.get("Secret", "worker")["stringData"]["token"]) > 40, "it did not exist"


def test_the_database_is_migrated_by_a_job_and_before_an_upgrade_by_a_hook() -> None:
    job = render().get("Job", "migrate-1")
    assert "annotations" not in job["metadata"]
    hook = render({}, "--is-upgrade").get("Job", "migrate-1")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    [wait] = render().pods()["backend"]["spec"]["initContainers"]
    assert wait["command"][:5] == ["python", "-m", "backend", "migrate", "--wait"]


def test_cpu_workers_are_scaled_by_the_runs_that_are_queued_or_running() -> None:
    chart = render(EVERYTHING)
    scaler = chart.get("HorizontalPodAutoscaler", "worker-cpu")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{NAME}-worker-cpu"}
    [metric] = scaler["metrics"]
    assert metric["external"]["metric"] == {
        "name": "dkd_runs_by_device",
        "selector": {
            "matchExpressions": [
                {"key": "state", "operator": "In", "values": ["queued", "running"]},
                {"key": "device", "operator": "In", "values": ["any", "cpu"]},
            ]
        },
    }
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert "replicas" not in chart.get("Deployment", "worker-cpu")["spec"], "an upgrade would undo the scaling"
    assert render().get("Deployment", "worker-cpu")["spec"]["replicas"] == 1
    scaled = render(KEDA).get("ScaledObject", "worker-cpu")["spec"]
    assert scaled["scaleTargetRef"] == {"name": f"{NAME}-worker-cpu"}
    assert 'dkd_runs_by_device{state=~"queued|running",device=~"any|cpu"}' in scaled["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize("kind", ["DaemonSet", "Deployment"])
def test_gpu_workers_get_gpus_and_run_on_their_nodes(kind: str) -> None:
    pool = {"enabled": True, "kind": kind, "gpusPerWorker": 4, "runtimeClassName": "nvidia"}
    chart = render({"worker": {"gpu": pool}})
    worker = chart.get(kind, "worker-gpu")
    pod = worker["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["runtimeClassName"] == "nvidia"
    [container] = pod["containers"]
    for part in ("limits", "requests"):
        assert container["resources"][part]["nvidia.com/gpu"] == "4"
        assert "memory" in container["resources"][part]
    [memory] = [item for item in pod["volumes"] if item["name"] == "shared-memory"]
    assert memory["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert "nvidia.com/gpu" not in chart.container("worker-cpu")["resources"]["limits"]
    name = chart.environment("worker-gpu")["DKD_WORKER_NAME"]["fieldRef"]["fieldPath"]
    assert name == ("spec.nodeName" if kind == "DaemonSet" else "metadata.name")


def test_a_pool_adds_to_the_settings_of_all_workers() -> None:
    env = {"DKD_LABELS": "rack1", "DKD_CPU_SLOTS": "2"}
    chart = render({"worker": {"env": env, "gpu": {"enabled": True, "env": {"DKD_LABELS": "h200"}}}})
    cpu, gpu = chart.environment("worker-cpu"), chart.environment("worker-gpu")
    assert (cpu["DKD_LABELS"], cpu["DKD_CPU_SLOTS"]) == ("rack1", "2")
    assert (gpu["DKD_LABELS"], gpu["DKD_CPU_SLOTS"]) == ("h200", "2")


def test_the_ingress_publishes_the_same_paths_as_the_caddyfile() -> None:
    chart = render(EVERYTHING)
    spec = chart.get("Ingress", "")["spec"]
    assert spec["tls"] == [{"hosts": ["lab.example.org"], "secretName": "dkd-lab-tls"}]
    [rule] = spec["rules"]
    services = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    paths = {path: service.removeprefix(f"{NAME}-") for path, service in services.items()}
    caddy = re.search(r"@api path (.+)", (ROOT / "examples/caddy/Caddyfile").read_text())
    assert caddy is not None
    assert {path for path, service in paths.items() if service == "backend"} == {
        path.removesuffix("/*") for path in caddy[1].split()
    }
    assert paths["/"] == "dashboard"
    assert "/metrics" not in paths
    backend, dashboard = chart.environment("backend"), chart.environment("dashboard")
    assert backend["DKD_ALLOWED_HOSTS"].split(",") == [
        "127.0.0.1", "localhost", f"{NAME}-backend", "$(POD_IP)", "lab.example.org"
    ]  # fmt: skip
    assert (
        backend["DKD_ALLOWED_ORIGINS"]
        == dashboard["STREAMLIT_SERVER_CORS_ALLOWED_ORIGINS"]
        == "https://lab.example.org"
    )
    assert dashboard["STREAMLIT_SERVER_ALLOWED_HOSTS"] == "127.0.0.1 localhost lab.example.org"


def test_secret_settings_are_files_of_the_backend() -> None:
    chart = render(EVERYTHING)
    assert chart.environment("backend")["DKD_SECRETS"] == "/secrets/database:/secrets/broker:/secrets/settings"
    volumes = {item["name"]: item for item in chart.pods()["backend"]["spec"]["volumes"]}
    assert volumes["settings-secret"]["secret"]["secretName"] == "own-settings"


def test_two_replicas_are_spread_and_only_one_may_be_evicted() -> None:
    chart = render()
    assert chart.get("Deployment", "backend")["spec"]["replicas"] == 2
    budget = chart.get("PodDisruptionBudget", "backend")["spec"]
    assert budget["maxUnavailable"] == 1
    labels = chart.pods()["backend"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    [spread] = chart.pods()["backend"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert ("PodDisruptionBudget", "backend") not in render({"backend": {"replicas": 1}}).objects


def test_a_backup_is_verified_before_old_ones_are_removed() -> None:
    script = render(EVERYTHING).container("backup")["command"][-1].splitlines()
    assert script[0].startswith("python -m backend db backup --verify ")
    assert script[1].endswith("-mtime +30 -delete")


def test_the_notes_name_the_secret_of_the_admin() -> None:
    done = helm("install", "lab", str(CHART), "--namespace", "science", "--dry-run=client", "--output", "json")
    assert done.returncode == 0, done.stderr
    notes = json.loads(done.stdout)["info"]["notes"]
    assert f"kubectl -n science get secret {NAME}-admin -o jsonpath='{{.data.token}}' | base64 -d" in notes
    assert f"port-forward service/{NAME}-dashboard 8501" in notes
