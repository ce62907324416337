"""supply_chain/sbom.py: the SBOM of this machine is complete, valid and reproducible."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import cyclonedx
import jsonschema_rs
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    command = [
        sys.executable,
        "-m",
        "supply_chain.sbom",
        "--name",
        "lab",
        "--version",
        "1.2",
        "--python",
        sys.executable,
    ]
    return [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)]


@pytest.fixture(scope="module")
def sbom(texts: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(texts[0])
    return document


def components(sbom: dict[str, Any], kind: str) -> dict[str, str]:
    return {
        item["name"]: item["version"] for item in sbom["components"] if item.get("purl", "").startswith(f"pkg:{kind}/")
    }


def problems(sbom: dict[str, Any]) -> list[str]:
    """Validate with another library than the program, and all formats, against the schema that CycloneDX publishes."""
    folder = Path(cyclonedx.__file__).parent / "schema" / "_res"
    [own, *others] = [
        json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text()) for name in ("bom-1.6", "spdx", "jsf-0.82")
    ]
    registry = jsonschema_rs.Registry(
        [(schema["$id"].replace(".schema", ".SNAPSHOT.schema"), schema) for schema in others]
    )
    validator = jsonschema_rs.validator_for(own, registry=registry, validate_formats=True)
    return [error.message for error in validator.iter_errors(sbom)]


def test_the_sbom_conforms_to_the_schema(sbom: dict[str, Any]) -> None:
    assert problems(sbom) == []
    sbom = json.loads(json.dumps(sbom))
    sbom["components"][0]["type"] = "thing"
    sbom["components"][1]["externalReferences"] = [{"type": "website", "url": "http://a b"}]
    assert len(problems(sbom)) == 2


def test_the_sbom_is_the_same_each_time(texts: list[str], sbom: dict[str, Any]) -> None:
    assert texts[0] == texts[1]
    assert "timestamp" not in sbom["metadata"]
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    image = sbom["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == ("container", "lab", "1.2")


def test_every_python_package_is_listed(sbom: dict[str, Any]) -> None:
    # This package itself has no address in the index of packages.
    listed = components(sbom, "pypi") | {
        item["name"]: item["version"] for item in sbom["components"] if "purl" not in item
    }
    installed = {item.metadata["Name"]: item.version for item in distributions(path=_site_packages())}
    assert len(installed) > 50
    assert {name: listed.get(name) for name in installed} == installed
    assert components(sbom, "generic") == {"python": platform.python_version()}


def test_every_debian_package_is_listed(sbom: dict[str, Any]) -> None:
    if shutil.which("dpkg-query") is None:
        assert not components(sbom, "deb")
        return
    output = subprocess.run(
        ["dpkg-query", "--show", r"--showformat=${db:Status-Status} ${Package} ${Version}\n"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    installed = [line.split()[1:] for line in output.splitlines() if line.startswith("installed ")]
    listed = [item for item in sbom["components"] if item.get("purl", "").startswith("pkg:deb/")]
    assert sorted([item["name"], item["version"]] for item in listed) == sorted(installed)
    refs = [item["bom-ref"] for item in sbom["components"]]
    assert len(refs) == len(set(refs)), "packages of two architectures are two components"


def test_dependencies_refer_to_listed_components(sbom: dict[str, Any]) -> None:
    refs = {item["bom-ref"] for item in sbom["components"]} | {"image"}
    depends_on = {item["ref"]: item.get("dependsOn", []) for item in sbom["dependencies"]}
    assert set(depends_on) == refs
    assert all(refs.issuperset(parts) for parts in depends_on.values())
    assert set(depends_on["image"]) == refs - {"image"}
    by_name = {item["name"]: item["bom-ref"] for item in sbom["components"] if "==" in item["bom-ref"]}
    assert by_name["httpcore"] in depends_on[by_name["httpx"]]


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("-packages")]
