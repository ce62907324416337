"""Lists the Python packages and the Debian packages of the machine on which it runs, as a CycloneDX SBOM.

    python -m supply_chain.sbom --name dkd-lab-app --python /venv/bin/python > app.cdx.json

The build of an image runs it in the image (docker/Dockerfile). The output depends only on what is installed: it has
no time, and its serial number is computed from its content. It needs the dependency group ``sbom``, in an environment
of its own, so that the tools are not listed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft7Validator
from packageurl import PackageURL

_DPKG_FORMAT = r"${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\n"


class SbomError(Exception):
    """The SBOM cannot be made; the text says why."""


def make_sbom(name: str, version: str, pythons: list[str]) -> str:
    """Return the SBOM of this machine as JSON of CycloneDX 1.6.

    Args:
        name: Name of the image.
        version: Its version.
        pythons: Interpreters whose packages are listed: that of the virtual environment, and that below it.

    Raises:
        SbomError: A program that lists packages failed, or the SBOM does not conform to the schema.
    """
    image = Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref="image")
    bom = Bom(metadata=BomMetaData(component=image))
    refs = set()
    for python in pythons:
        for component, dependencies in _python_packages(python):
            if str(component.bom_ref) not in refs:
                refs.add(str(component.bom_ref))
                bom.components.add(component)
                bom.register_dependency(component, dependencies)
    for component in (_interpreter(), *_debian_packages()):
        bom.components.add(component)
    bom.register_dependency(image, bom.components)
    return _reproducible(bom)


def _python_packages(python: str) -> list[tuple[Component, list[Component]]]:
    """Return the packages that an interpreter can import, each with the packages that it depends on."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate"]
    command += ["--spec-version", "1.6", "--output-format", "JSON", python]
    listed: Bom = Bom.from_json(json.loads(_output(command)))  # type: ignore[attr-defined]  # of a decorator
    by_ref = {component.bom_ref: component for component in listed.components}
    depends_on = {item.ref: [part.ref for part in item.dependencies] for item in listed.dependencies}
    return [
        (component, [by_ref[ref] for ref in depends_on.get(component.bom_ref, []) if ref in by_ref])
        for component in sorted(listed.components)
    ]


def _interpreter() -> Component:
    """Return Python itself, which is no Debian package in the public images."""
    version = platform.python_version()
    purl = PackageURL("generic", name="python", version=version)
    return Component(
        type=ComponentType.PLATFORM,
        name="python",
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        cpe=f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
    )


def _debian_packages() -> list[Component]:
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return []
    if "debian" not in (system["ID"], *system.get("ID_LIKE", "").split()):
        return []
    distribution = f"{system['ID']}-{system.get('VERSION_ID', 'unstable')}"
    components = []
    for line in _output(["dpkg-query", "--show", f"--showformat={_DPKG_FORMAT}"]).splitlines():
        status, name, version, architecture, source, source_version = line.split("\t")
        if status != "installed":
            continue
        qualifiers = {"arch": architecture, "distro": distribution}
        if (source, source_version) != (name, version):
            # Advisories are about source packages.
            qualifiers["upstream"] = source if source_version == version else f"{source}@{source_version}"
        purl = PackageURL("deb", system["ID"], name, version, qualifiers)
        components.append(
            Component(type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=purl.to_string())
        )
    return components


def _reproducible(bom: Bom) -> str:
    """Return the JSON of a bill of materials, without its time and with a serial number of its content."""
    data = json.loads(JsonV1Dot6(bom).output_as_string())
    del data["serialNumber"]
    data["metadata"].pop("timestamp", None)
    content = json.dumps(data, sort_keys=True, ensure_ascii=False)
    data["serialNumber"] = UUID(bytes=hashlib.sha256(content.encode()).digest()[:16], version=4).urn
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    _validate(text)
    return text


def _validate(text: str) -> None:
    # The check of one IRI took 0.14 s, and the SBOM of a checkout has 874 of them.
    Draft7Validator.FORMAT_CHECKER.checkers.pop("iri-reference", None)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SbomError(f"the SBOM does not conform to CycloneDX 1.6: {error}")


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SbomError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the CycloneDX SBOM of this machine.")
    parser.add_argument("--name", required=True, help="name of the image")
    parser.add_argument("--version", default="0.1.0", help="version of the image")
    parser.add_argument("--python", action="append", required=True, help="interpreter whose packages are listed")
    parser.add_argument("--out", type=Path, help="file to write; by default standard output")
    arguments = parser.parse_args()
    try:
        text = make_sbom(arguments.name, arguments.version, arguments.python)
    except SbomError as error:
        sys.exit(f"sbom: {error}")
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
