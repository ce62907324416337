"""In what the two runs of a pair differ besides their method: what was chosen for speed, the machine, the versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from backend.comparisons.run_data import Sample, Student
from core.events import DECODING_KEY, RANKS_KEY
from core.protocol.comparisons import SettingDifference

SPEED = ("precision", "compile", "cuda_graphs", "channels_last", "fused", "threads", RANKS_KEY, "teacher_logits")
MACHINE = ("torch", "processor", "device", "commit", DECODING_KEY)
_POOLED = ("precision", "teacher_logits", DECODING_KEY)
"""What changes a run's numbers by more than the order of additions."""
# What differs between any two machines, and what is kept to repeat a run rather than to judge it.
_IGNORED = frozenset({"python", "platform", "packages", "diff", "host"})


def unlike(pairs: Iterable[tuple[Student, Student]]) -> list[SettingDifference]:
    """Every setting in which a pair differs, with its seeds; those chosen for speed first."""
    found: dict[str, list[int]] = {}
    values: dict[str, str] = {}
    for one, other in pairs:
        first, second = _all(one), _all(other)
        # What one side alone has says nothing: it has no teacher, or is older than the setting.
        differing = {name for name in first.keys() & second.keys() if first[name] != second[name]} - _IGNORED
        for name in sorted(differing):
            found.setdefault(name, []).append(one.seed)
            values.setdefault(name, f"{first[name]} against {second[name]}")
    order = {name: place for place, name in enumerate((*SPEED, *MACHINE))}
    return [
        SettingDifference(setting=name, kind=_kind(name), seeds=seeds, values=values[name])
        for name, seeds in sorted(found.items(), key=lambda item: (order.get(item[0], len(SPEED) - 0.5), item[0]))
    ]


def pooled(sample: Sample) -> list[str]:
    """In what runs differ whose values are averaged as one method's: a sentence for each method that has such runs."""
    found = []
    for label in sample.labels:
        runs = [item for item in sample.students if item.label == label and item.state == "succeeded"]
        values: dict[str, set[str]] = {}
        for student in runs:
            if not student.set_aside:
                for name, value in _all(student).items():
                    if name in _POOLED:
                        values.setdefault(name, set()).add(value)
        apart = [f"{name} ({', '.join(sorted(values[name]))})" for name in _POOLED if len(values.get(name, ())) > 1]
        if apart:
            found.append(f"The runs of {label} that are averaged differ in {', '.join(apart)}.")
    return found


def sentences(differences: Iterable[SettingDifference], pairs: int) -> list[str]:
    """What a reader must be told of them: one sentence for choices, one for machines and versions."""
    words = {
        "speed": "were trained with different settings",
        "machine": "were trained on different machines or versions",
    }
    every = list(differences)
    found = []
    for kind, text in words.items():
        of_kind = [item for item in every if item.kind == kind]
        if of_kind:
            count = len({seed for item in of_kind for seed in item.seeds})
            names = ", ".join(item.setting for item in of_kind)
            found.append(f"{count} of {pairs} pairs {text}: {names}.")
    return found


def _all(student: Student) -> Mapping[str, str]:
    found = dict(student.environment)
    if student.devices:
        found["device"] = ", ".join(student.devices)
    return found


def _kind(name: str) -> Literal["speed", "machine"]:
    return "machine" if name in MACHINE else "speed"
