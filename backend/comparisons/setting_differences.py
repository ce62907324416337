"""Settings other than the method in which the runs of a pair differ: for speed, of the machine, and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from backend.comparisons.run_data import Sample, StudentRun
from core.events import DECODING_KEY, RANKS_KEY
from core.protocol.comparisons import SettingDifference

SPEED = ("precision", "compile", "cuda_graphs", "channels_last", "fused", "threads", RANKS_KEY, "teacher_logits")
MACHINE = ("torch", "processor", "device", "commit", DECODING_KEY)
_POOLED = ("precision", "teacher_logits", DECODING_KEY)
"""Settings that change a run's numbers by more than the order of additions does."""
# These differ between any two machines, or are recorded for repeating a run and not for comparing it.
_IGNORED = frozenset({"python", "platform", "packages", "diff", "host"})


def differing_settings(pairs: Iterable[tuple[StudentRun, StudentRun]]) -> list[SettingDifference]:
    """Return every setting in which a pair differs, with its seeds; those chosen for speed come first."""
    seeds_of: dict[str, list[int]] = {}
    values: dict[str, str] = {}
    for one, other in pairs:
        first, second = _settings_of(one), _settings_of(other)
        # A setting of one run alone is ignored: the other has no teacher, or is older than the setting.
        differing = {name for name in first.keys() & second.keys() if first[name] != second[name]} - _IGNORED
        for name in sorted(differing):
            seeds_of.setdefault(name, []).append(one.seed)
            values.setdefault(name, f"{first[name]} against {second[name]}")
    order = {name: index for index, name in enumerate((*SPEED, *MACHINE))}
    return [
        SettingDifference(setting=name, kind=_kind(name), seeds=seeds, values=values[name])
        for name, seeds in sorted(seeds_of.items(), key=lambda item: (order.get(item[0], len(SPEED) - 0.5), item[0]))
    ]


def pooled(sample: Sample) -> list[str]:
    """Return a sentence for each method whose averaged runs differ in a setting that changes their numbers."""
    notes = []
    for label in sample.labels:
        runs = [item for item in sample.students if item.label == label and item.state == "succeeded"]
        values: dict[str, set[str]] = {}
        for student in runs:
            if not student.set_aside:
                for name, value in _settings_of(student).items():
                    if name in _POOLED:
                        values.setdefault(name, set()).add(value)
        varying = [f"{name} ({', '.join(sorted(values[name]))})" for name in _POOLED if len(values.get(name, ())) > 1]
        if varying:
            notes.append(f"The averaged runs of {label} differ in {', '.join(varying)}.")
    return notes


def sentences(differences: Iterable[SettingDifference], pairs: int) -> list[str]:
    """Return one sentence about settings chosen for speed and one about machines and versions, if pairs differ."""
    texts = {
        "speed": "were trained with different settings",
        "machine": "were trained on different machines or versions",
    }
    differences = list(differences)
    notes = []
    for kind, text in texts.items():
        of_kind = [item for item in differences if item.kind == kind]
        if of_kind:
            count = len({seed for item in of_kind for seed in item.seeds})
            names = ", ".join(item.setting for item in of_kind)
            notes.append(f"{count} of {pairs} pairs {text}: {names}.")
    return notes


def _settings_of(student: StudentRun) -> Mapping[str, str]:
    settings = dict(student.environment)
    if student.devices:
        settings["device"] = ", ".join(student.devices)
    return settings


def _kind(name: str) -> Literal["speed", "machine"]:
    return "machine" if name in MACHINE else "speed"
