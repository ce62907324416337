"""Missing cells of a table, and the commands that would fill them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backend.comparisons.groups import Method, missing_pair
from backend.comparisons.run_data import Key, Sample
from core.catalog import METHODS
from core.protocol.comparisons import MissingPair


def gaps(method: Method, sample: Sample, keys: Iterable[Key]) -> list[MissingPair]:
    """Return every pair for which the method has no value, with the reason."""
    return [item for key in keys for item in missing_pair(key, (method,), sample)]


def commands(methods: Mapping[str, Method], sample: Sample, keys: Iterable[Key]) -> list[str]:
    """Return shell commands: a retry for each run that did not succeed, a new experiment for pairs never planned.

    Methods that lack the same seeds under the same teacher are queued together. There is no command for a run that has
    not ended, and none for a run that succeeded without a value, because a retry would end in the same way; nor for a
    pair that was never planned if seeds are added until the comparisons are decided.
    """
    retries: list[str] = []
    unplanned: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        for label, method in methods.items():
            run = method.runs.get(key)
            if run is None and sample.grows:
                continue
            if run is None:
                unplanned.setdefault((label, key[0]), []).append(key[1])
            elif run.state in ("failed", "cancelled"):
                retries.append(f"dkd retry {run.run_id}")
    submissions: dict[tuple[int, str, tuple[int, ...]], list[str]] = {}
    for (label, block), seeds in unplanned.items():
        submissions.setdefault((_source(label, sample), block, tuple(sorted(seeds))), []).append(label)
    return retries + [
        _submit(sample, index, block, seeds, labels) for (index, block, seeds), labels in submissions.items()
    ]


def _source(label: str, sample: Sample) -> int:
    """Return the index of the first experiment that has the method."""
    return next(
        index
        for index, item in enumerate(sample.experiments)
        if any(choice["label"] == label for choice in item.spec["methods"])
    )


def _submit(sample: Sample, index: int, block: str, seeds: tuple[int, ...], labels: list[str]) -> str:
    source = sample.experiments[index]
    spec = source.spec
    choices = [item for item in spec["methods"] if item["label"] in labels]
    label_part = "" if len(choices) == len(spec["methods"]) else f" {','.join(labels)[:25]}"
    teacher = next((item for item in sample.teachers if item.fingerprint == block), None)
    teacher_part = f" teacher {teacher.seed}" if teacher is not None and sample.teachers_vary else ""
    name = f"{source.name[:35]}{label_part}{teacher_part} seeds {_seed_ranges(seeds)}"
    name = name[:100].rstrip()  # the limit of a name
    changes = [f"name={_quoted(name)}", f"seeds={list(seeds)}"]
    if label_part:
        changes.append(f"methods={json.dumps([_without_defaults(choice) for choice in choices], ensure_ascii=False)}")
    if teacher is not None and spec.get("teacher") and spec["teacher"]["seed"] != teacher.seed:
        changes.append(f"teacher.seed={teacher.seed}")
    options = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    # A name that begins with a dash would be read as an option.
    key = source.id if source.name.startswith("-") else shlex.quote(source.name)
    return f"dkd export {key} --format spec | dkd submit - {options}"


def _without_defaults(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method, and those that are added to it, without the parameters that have their default."""
    fields = METHODS[choice["name"]].params.model_fields if choice["name"] in METHODS else {}
    params = {
        key: value
        for key, value in choice["params"].items()
        if key not in fields or fields[key].is_required() or fields[key].default != value
    }
    short = {**choice, "params": params}
    return short | {"with": [_without_defaults(item) for item in choice["with"]]} if choice.get("with") else short


def _quoted(text: str) -> str:
    """Return the text quoted, so that YAML reads it back unchanged."""
    return json.dumps(text, ensure_ascii=False)


def _seed_ranges(seeds: Sequence[int]) -> str:
    """Return seeds as text, such as "0-2,5"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
