"""The commands that would fill the holes of a table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from backend.comparisons.data import Key, Sample
from backend.comparisons.groups import Method, missing_pair
from core.wire.comparisons import MissingPair


def holes(method: Method, sample: Sample, keys: Iterable[Key]) -> list[MissingPair]:
    """Every pair that the method has no value for, and why."""
    return [item for key in keys for item in missing_pair(key, (method,), sample)]


def commands(method: Method, sample: Sample, keys: Iterable[Key]) -> list[str]:
    """What a person would type: a retry for each run that did not succeed, one new experiment a teacher for the rest.

    Nothing for a run that is still to end, and nothing for one that succeeded without a value: another try would end
    the same way.
    """
    found: list[str] = []
    unplanned: dict[str, list[int]] = {}
    for key in keys:
        run = method.runs.get(key)
        if run is None:
            unplanned.setdefault(key[0], []).append(key[1])
        elif run.state in ("failed", "cancelled"):
            found.append(f"dkd retry {run.run_id}")
    source = _source(method.label, sample)
    if source is not None:
        found += [_submit(source, method.label, block, seeds, sample) for block, seeds in unplanned.items()]
    return found


def _source(label: str, sample: Sample) -> tuple[str, Mapping[str, Any]] | None:
    """Name and spec of an experiment that has the method."""
    for item in sample.experiments:
        if any(choice["label"] == label for choice in item.spec["methods"]):
            return item.name, item.spec
    return None


def _submit(source: tuple[str, Mapping[str, Any]], label: str, block: str, seeds: list[int], sample: Sample) -> str:
    name, spec = source
    choice = next(item for item in spec["methods"] if item["label"] == label)
    seeds = sorted(seeds)
    changes = [
        # Cut, since a name has at most 100 characters.
        f"name={_quoted(f'{name[:40]}: {label[:20]} seeds {_ranges(seeds)[:30]}')}",
        f"seeds={json.dumps(seeds)}",
        f"methods={json.dumps([choice], ensure_ascii=False)}",
    ]
    teacher = next((item for item in sample.teachers if item.fingerprint == block), None)
    if teacher is not None and spec.get("teacher") and spec["teacher"]["seed"] != teacher.seed:
        changes.append(f"teacher.seed={teacher.seed}")
    sets = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    return f"dkd export {shlex.quote(name)} --format spec | dkd submit - {sets}"


def _quoted(text: str) -> str:
    """As YAML reads it back unchanged."""
    return json.dumps(text, ensure_ascii=False)


def _ranges(seeds: list[int]) -> str:
    """As "0-2,5"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
