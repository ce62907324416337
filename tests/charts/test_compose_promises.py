"""What docker-compose.yml promises is true of the chart: settings, secrets, privileges, probes, networks, times."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import EVERYTHING, NAME, ROOT, Chart, Object, render

COMPOSE: Object = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
GPU: Object = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
COMPONENTS = {
    "postgres": ["postgresql"],
    "redis": ["redis"],
    "migrate": ["migrate"],
    "backend": ["backend"],
    "worker": ["worker-cpu", "worker-gpu"],
    "dashboard": ["dashboard"],
}
"""The components of the chart by the service of Compose. Compose's service `secrets` is the chart's Secrets."""
PAIRS = [(service, component) for service, components in COMPONENTS.items() for component in components]
OURS = ("migrate", "backend", "worker-cpu", "worker-gpu", "dashboard", "backup")


def with_every_setting() -> Object:
    """Return values with which every optional setting is rendered."""
    values: Object = yaml.safe_load((ROOT / "charts/dkd-lab/values.yaml").read_text())
    env = {part: dict.fromkeys(values[part]["env"], "1") for part in ("backend", "worker", "dashboard")}
    return {
        **EVERYTHING,
        "backend": {"env": env["backend"]},
        "dashboard": {**EVERYTHING["dashboard"], "env": env["dashboard"]},
        "worker": {**EVERYTHING["worker"], "env": env["worker"]},
        "artifacts": {"s3": {"endpointUrl": "https://minio", "region": "eu", "existingSecret": "bucket"}},
    }


@pytest.fixture(scope="module")
def chart() -> Chart:
    return render(with_every_setting())


@pytest.mark.parametrize(("service", "component"), PAIRS)
def test_each_component_has_the_settings_of_its_service(chart: Chart, service: str, component: str) -> None:
    wanted = set(COMPOSE[service].get("environment", {}))
    added = {
        "postgresql": {"PGDATA"},  # a folder in the volume, which may have lost+found
        "backend": {"POD_IP"},  # Prometheus connects to the address of a pod
        "worker-gpu": set(GPU["worker"]["environment"]),
    }.get(component, set())
    # A secret in an environment variable can be read by everybody who can read the pod: it is a file of `settings`.
    assert set(chart.environment(component)) == wanted - {"DKD_WEBHOOK_SECRET"} | added


@pytest.mark.parametrize(("service", "component"), PAIRS)
def test_fixed_settings_have_the_same_values(chart: Chart, service: str, component: str) -> None:
    def of_release(text: str) -> str:
        return text.replace("http://backend:", f"http://{NAME}-backend:")

    environment = chart.environment(component)
    fixed = {
        name: value for name, value in COMPOSE[service].get("environment", {}).items() if value and "$" not in value
    }
    for name, value in fixed.items():
        got = environment[name]
        if name == "DKD_SECRETS":  # the chart may add a folder
            assert got.startswith(value)
        else:
            assert got == of_release(value), name
    assert fixed or service in ("redis", "migrate")


@pytest.mark.parametrize(("service", "component"), PAIRS)
def test_each_component_runs_the_command_of_its_service(chart: Chart, service: str, component: str) -> None:
    container = chart.container(component)
    if service == "worker":
        dockerfile = (ROOT / "docker/Dockerfile").read_text()
        assert f"CMD {container['command']!s}".replace("'", '"') in dockerfile
    elif service == "postgres":
        assert not {"command", "args"} & set(container), "the image starts the server"
    else:
        assert container.get("command", container.get("args")) == COMPOSE[service]["command"]


@pytest.mark.parametrize(("service", "component"), PAIRS)
def test_each_component_mounts_the_secrets_of_its_service_and_no_other(
    chart: Chart, service: str, component: str
) -> None:
    mounts = chart.container(component)["volumeMounts"]
    secrets = {item["mountPath"] for item in mounts if item["mountPath"].startswith("/secrets/")} - {
        "/secrets/settings"
    }
    wanted = {part.split(":")[1] for part in COMPOSE[service]["volumes"] if ":/secrets/" in part}
    assert secrets == wanted
    assert all(item["readOnly"] for item in mounts if item["mountPath"].startswith("/secrets/"))
    volumes = {item["name"]: item for item in chart.pods()[component]["spec"]["volumes"]}
    claims = {
        claim["metadata"]["name"]
        for item in chart.of_kind("StatefulSet").values()
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == component
        for claim in item["spec"]["volumeClaimTemplates"]
    }
    for item in mounts:
        assert item["name"] in {*volumes, *claims}
        if item["name"].endswith("-secret"):
            assert volumes[item["name"]]["secret"]["defaultMode"] == 0o440


@pytest.mark.parametrize(("service", "component"), PAIRS)
def test_folders_of_a_service_are_volumes(chart: Chart, service: str, component: str) -> None:
    mounted = {item["mountPath"] for item in chart.container(component)["volumeMounts"]}
    wanted = {re.sub(r"\$\{[^}]*\}", "x", part).split(":")[1] for part in COMPOSE[service].get("volumes", [])}
    assert wanted - {"/backups"} | {"/tmp"} <= mounted
    if service == "backend":  # a CronJob makes the backups
        assert "/backups" in {item["mountPath"] for item in chart.container("backup")["volumeMounts"]}


def test_every_pod_has_no_privileges(chart: Chart) -> None:
    pods = chart.pods()
    assert set(pods) == {component for _, component in PAIRS} | {"backup"}
    for component, pod in pods.items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, component
        assert spec["securityContext"]["runAsUser"] > 0, component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        if component in OURS:
            assert spec["securityContext"]["runAsUser"] == user_of_the_image()
        assert spec["automountServiceAccountToken"] is False, component
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), component
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is COMPOSE["backend"]["read_only"] is True, component
            assert context["capabilities"] == {"drop": COMPOSE["backend"]["cap_drop"]} == {"drop": ["ALL"]}, component
            assert context["allowPrivilegeEscalation"] is False, component
            assert context["privileged"] is False, component
            assert {"requests", "limits"} <= set(container["resources"]), component
        for volume in spec["volumes"]:
            assert "hostPath" not in volume, component


def user_of_the_image() -> int:
    found = re.search(r"useradd --uid (\d+)", (ROOT / "docker/Dockerfile").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(("service", "component"), [pair for pair in PAIRS if pair[0] != "migrate"])
def test_probes_ask_what_the_health_check_asks(chart: Chart, service: str, component: str) -> None:
    check = COMPOSE[service]["healthcheck"]
    container = chart.container(component)
    ready, alive = container["readinessProbe"], container["livenessProbe"]
    if url := re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", str(check["test"])):
        [port] = [item for item in container["ports"] if item["name"] == "http"]
        assert (str(port["containerPort"]), ready["httpGet"]["path"], ready["httpGet"]["port"]) == (
            *url.groups(),
            "http",
        )
        # A backend that cannot reach its database is not restarted for it.
        assert alive["httpGet"]["path"] == {"/readyz": "/healthz"}.get(url[2], url[2])
    else:
        kind, *command = check["test"]
        command = [part.replace("$$", "$") for part in command]
        wanted = command if kind == "CMD" else ["sh", "-c", *command]
        assert ready["exec"]["command"] == alive["exec"]["command"] == wanted
    for probe in (ready, alive):
        assert f"{probe['periodSeconds']}s" == check["interval"]
        assert f"{probe['timeoutSeconds']}s" == check["timeout"]
    assert alive["failureThreshold"] == check["retries"]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 60


@pytest.mark.parametrize(("service", "component"), [pair for pair in PAIRS if pair[0] != "migrate"])
def test_a_component_has_as_long_to_stop_as_its_service(chart: Chart, service: str, component: str) -> None:
    seconds = re.search(r"(\d+)s\}?$", COMPOSE[service]["stop_grace_period"])
    assert seconds is not None
    assert chart.pods()[component]["spec"]["terminationGracePeriodSeconds"] == int(seconds[1])


def test_shared_memory_is_as_large_as_in_compose(chart: Chart) -> None:
    wanted = {
        "postgresql": COMPOSE["postgres"]["shm_size"],
        "worker-cpu": COMPOSE["worker"]["shm_size"],
        "worker-gpu": GPU["worker"]["shm_size"].split(":-")[1].rstrip("}"),
    }
    for component, size in wanted.items():
        [volume] = [item for item in chart.pods()[component]["spec"]["volumes"] if item["name"] == "shared-memory"]
        assert volume["emptyDir"]["sizeLimit"] == size.replace("mb", "Mi").replace("gb", "Gi"), component


class Policies:
    """Who may connect to whom, by the network policies."""

    def __init__(self, chart: Chart) -> None:
        self.labels = {name: pod["metadata"]["labels"] for name, pod in chart.pods().items()}
        self.policies = [item["spec"] for item in chart.of_kind("NetworkPolicy").values()]

    def allowed(self, source: str, target: str, port: int) -> bool:
        return self._permits("Egress", source, target, port) and self._permits("Ingress", target, source, port)

    def reaches_the_outside(self, source: str) -> bool:
        rules = self._rules("Egress", source)
        return any("to" not in rule and "ports" not in rule for rule in rules)

    def _rules(self, direction: str, component: str) -> list[Any]:
        chosen = [
            policy
            for policy in self.policies
            if direction in policy["policyTypes"] and self._selects(policy["podSelector"], component)
        ]
        assert chosen, f"no policy limits {component}"
        return [rule for policy in chosen for rule in policy.get(direction.lower(), [])]

    def _permits(self, direction: str, component: str, other: str, port: int) -> bool:
        peers = "from" if direction == "Ingress" else "to"
        return any(
            (peers not in rule or any(self._selects(peer["podSelector"], other) for peer in rule[peers]))
            and ("ports" not in rule or port in {item["port"] for item in rule["ports"]})
            for rule in self._rules(direction, component)
        )

    def _selects(self, selector: Object, component: str) -> bool:
        labels = self.labels[component]
        return selector.get("matchLabels", {}).items() <= labels.items() and all(
            expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
            for expression in selector.get("matchExpressions", [])
        )


PORTS = {"postgres": 5432, "redis": 6379, "backend": 8000, "dashboard": 8501}


def test_policies_connect_the_components_that_share_a_network() -> None:
    # Without other pods: a peer without a podSelector is somebody else in the cluster.
    policies = Policies(render({**with_every_setting(), "networkPolicy": {"from": []}}))
    needed = {  # of the connections that Compose's networks allow, those that the system makes
        *(("backend", "postgres"), ("migrate", "postgres"), ("backend", "redis"), ("worker", "redis")),
        *(("worker", "backend"), ("dashboard", "backend")),
    }
    for service, components in COMPONENTS.items():
        for target, port in PORTS.items():
            shared = set(COMPOSE[service]["networks"]) & set(COMPOSE[target]["networks"])
            for component in components:
                allowed = policies.allowed(component, COMPONENTS[target][0], port)
                assert not allowed or shared, (component, target)
                assert allowed or (service, target) not in needed, (component, target)
    assert policies.allowed("backup", "postgresql", 5432)
    assert not policies.allowed("backup", "redis", 6379)


def test_only_services_of_a_network_with_an_outside_reach_it() -> None:
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"]
    policies = Policies(render({**with_every_setting(), "networkPolicy": {"from": []}}))
    for service, component in PAIRS:
        outside = any(not (networks[name] or {}).get("internal") for name in COMPOSE[service]["networks"])
        assert policies.reaches_the_outside(component) is outside, component


def test_other_pods_reach_only_the_api_and_the_dashboard(chart: Chart) -> None:
    open_to_others = {
        name
        for name, policy in chart.of_kind("NetworkPolicy").items()
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
        if "podSelector" not in peer
    }
    assert open_to_others == {"backend", "dashboard"}


def test_images_are_those_of_compose(chart: Chart) -> None:
    for service, component in PAIRS:
        image = COMPOSE[service].get("image", "")
        default = image.split(":-")[1].rstrip("}")
        used = chart.container(component)["image"]
        assert used == default if ":" in default else used.startswith(f"{default}:"), component


def test_every_service_of_compose_is_in_the_chart() -> None:
    assert set(COMPOSE) - {"secrets"} == set(COMPONENTS)
    secrets = Path(ROOT / "docker/make_secrets.py").read_text()
    for kind in render().of_kind("Secret"):
        assert f'"{kind}"' in secrets
