"""The commands that would fill the holes of a table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backend.comparisons.groups import Method, missing_pair
from backend.comparisons.run_data import Key, Sample
from core.catalog import METHODS
from core.protocol.comparisons import MissingPair


def holes(method: Method, sample: Sample, keys: Iterable[Key]) -> list[MissingPair]:
    """Every pair that the method has no value for, and why."""
    return [item for key in keys for item in missing_pair(key, (method,), sample)]


def commands(methods: Mapping[str, Method], sample: Sample, keys: Iterable[Key]) -> list[str]:
    """What a person would type: a retry for each run that did not succeed, new experiments for what was never planned.

    Methods that lack the same seeds under the same teacher are queued together. Nothing for a run that is still to
    end, and nothing for one that succeeded without a value: another try would end the same way.
    """
    found: list[str] = []
    unplanned: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        for label, method in methods.items():
            run = method.runs.get(key)
            if run is None:
                unplanned.setdefault((label, key[0]), []).append(key[1])
            elif run.state in ("failed", "cancelled"):
                found.append(f"dkd retry {run.run_id}")
    together: dict[tuple[int, str, tuple[int, ...]], list[str]] = {}
    for (label, block), seeds in unplanned.items():
        together.setdefault((_source(label, sample), block, tuple(sorted(seeds))), []).append(label)
    found += [_submit(sample, place, block, seeds, labels) for (place, block, seeds), labels in together.items()]
    return found


def _source(label: str, sample: Sample) -> int:
    """Which of the experiments has the method."""
    having = (
        index
        for index, item in enumerate(sample.experiments)
        if any(choice["label"] == label for choice in item.spec["methods"])
    )
    return next(having)


def _submit(sample: Sample, place: int, block: str, seeds: tuple[int, ...], labels: list[str]) -> str:
    source = sample.experiments[place]
    spec = source.spec
    choices = [item for item in spec["methods"] if item["label"] in labels]
    which = "" if len(choices) == len(spec["methods"]) else f" {','.join(labels)[:25]}"
    teacher = next((item for item in sample.teachers if item.fingerprint == block), None)
    under = f" teacher {teacher.seed}" if teacher is not None and sample.teachers_vary else ""
    name = f"{source.name[:35]}{which}{under} seeds {_ranges(seeds)}"[:100].rstrip()  # as long as a name may be
    changes = [f"name={_quoted(name)}", f"seeds={list(seeds)}"]
    if which:
        changes.append(f"methods={json.dumps([_short(choice) for choice in choices], ensure_ascii=False)}")
    if teacher is not None and spec.get("teacher") and spec["teacher"]["seed"] != teacher.seed:
        changes.append(f"teacher.seed={teacher.seed}")
    sets = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    # A name that begins like an option would be taken for one.
    asked = source.id if source.name.startswith("-") else shlex.quote(source.name)
    return f"dkd export {asked} --format spec | dkd submit - {sets}"


def _short(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A method without what its catalog entry fills in by itself."""
    fields = METHODS[choice["name"]].params.model_fields if choice["name"] in METHODS else {}
    params = {
        key: value
        for key, value in choice["params"].items()
        if key not in fields or fields[key].is_required() or fields[key].default != value
    }
    return {"name": choice["name"], "label": choice["label"], "params": params}


def _quoted(text: str) -> str:
    """As YAML reads it back unchanged."""
    return json.dumps(text, ensure_ascii=False)


def _ranges(seeds: Sequence[int]) -> str:
    """As "0-2,5"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
