"""The objects that helm makes of the chart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "dkd-lab"
RELEASE = "lab"
NAME = "lab-dkd-lab"
KUBERNETES = ("1.27", "1.37")
"""The oldest version that the chart supports, and the newest one with known schemas."""

Object = dict[str, Any]


def helm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run helm, without this machine's configuration. Skip the test if it is not installed."""
    beside = Path(sys.executable).with_name("helm")
    program = str(beside) if beside.exists() else shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed: make helm")
    with tempfile.TemporaryDirectory() as home:
        own = {"HELM_CACHE_HOME": home, "HELM_CONFIG_HOME": home, "HELM_DATA_HOME": home, "KUBECONFIG": f"{home}/none"}
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, env=os.environ | own | environment
        )


@dataclass(frozen=True)
class Chart:
    """The objects of a release, by kind and by name without that of the release."""

    objects: dict[tuple[str, str], Object]

    def get(self, kind: str, name: str) -> Object:
        return self.objects[kind, name]

    def of_kind(self, *kinds: str) -> dict[str, Object]:
        return {name: item for (kind, name), item in self.objects.items() if kind in kinds}

    def pods(self) -> dict[str, Object]:
        """Return the template of each workload's pods, by component."""
        pods = {}
        for (kind, _), item in self.objects.items():
            if kind in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
                pod = item["spec"]["template"]
            elif kind == "CronJob":
                pod = item["spec"]["jobTemplate"]["spec"]["template"]
            else:
                continue
            pods[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = pod
        return pods

    def container(self, component: str) -> Object:
        [container] = self.pods()[component]["spec"]["containers"]
        found: Object = container
        return found

    def environment(self, component: str) -> dict[str, Any]:
        """Return the variables of a component: a text, or the source of the value."""
        variables = self.container(component).get("env", [])
        assert len({item["name"] for item in variables}) == len(variables), "a variable is set twice"
        return {item["name"]: item.get("value", item.get("valueFrom")) for item in variables}


def template(values: Object | None = None, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}), encoding="utf-8")
        chosen = ["--namespace", "science", "--values", str(file), *arguments]
        return helm("template", RELEASE, str(CHART), *chosen, **environment)


def render(values: Object | None = None, *arguments: str, **environment: str) -> Chart:
    """Render the chart with these values."""
    done = template(values, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    objects: dict[tuple[str, str], Object] = {}
    for item in yaml.safe_load_all(done.stdout):
        if item is not None:
            key = item["kind"], item["metadata"]["name"].removeprefix(NAME).removeprefix("-")
            assert key not in objects, f"two objects are {key}"
            objects[key] = item
    return Chart(objects)


EVERYTHING: Object = {
    "worker": {
        "cpu": {"autoscaling": {"enabled": True}},
        "gpu": {"enabled": True},
    },
    "ingress": {"enabled": True, "className": "nginx"},
    "backups": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "dashboard": {"replicas": 2},
    "secrets": {"settings": {"existingSecret": "own-settings"}},
}
"""Values with which every object is rendered, except KEDA's, which excludes the HorizontalPodAutoscaler."""
