"""Documentation: every spec in YAML, and every part of one, is valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.catalog.datasets import task_of
from core.catalog.detection_task import DETECTION
from core.specs import ExperimentSpec
from core.specs.yaml_loader import SpecLoader

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Sweeps and the tutorial, whose method is a plug-in, have tests of their own; the values of the chart are no specs.
_PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.stem not in {"api", "kubernetes", "tutorial"}
]
_COMPLETION: dict[str, Any] = {
    "name": "part",
    "dataset": "cifar100",
    "teacher": {"model": "resnet20"},
    "student": {"model": "resnet8"},
    "methods": ["kd"],
    "seeds": [0],
    "training": {"epochs": 1},
}


def _specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the content of each block with its page; a block with several teachers has one part per line."""
    for page in _PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            several = len(re.findall(r"^teacher:", block, re.MULTILINE)) > 1
            alternatives = block.splitlines() if several else [block]
            for text in filter(str.strip, alternatives):
                yield page.name, yaml.load(text.replace("…", "0" * 64), SpecLoader)


@pytest.mark.parametrize(("page", "content"), list(_specs()))
def test_specs_in_the_documentation_are_valid(page: str, content: dict[str, Any]) -> None:
    completion = {name: value for name, value in _COMPLETION.items() if name != "teacher" or "teachers" not in content}
    dataset = content.get("dataset", "cifar100")
    if task_of(dataset["name"] if isinstance(dataset, dict) else dataset) is DETECTION:
        completion |= {str(role): {"model": "faster_rcnn"} for role in ("teacher", "student") if role in completion}
    spec = ExperimentSpec.model_validate(completion | content)
    assert spec.methods, page
