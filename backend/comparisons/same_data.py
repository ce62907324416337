"""Which runs were trained and tested on the same images: only their values may be averaged or compared.

A spec names images by a path or a name, so the files may change between two runs of one spec. Every run records the
SHA-256 of its images with their labels, and their number. Runs of versions that did not record the hash are
distinguished by the number of their images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from backend.comparisons.run_data import Data, Sample, Student, Teacher

# Their images come with a package or are computed, so runs that did not record them had the same images.
_FIXED_DATASETS = ("digits", "synthetic")


def differ(one: Data, other: Data) -> bool:
    """Return whether the images are known to differ; values that were not recorded are not compared."""
    pairs: tuple[tuple[str | int, str | int], ...] = (
        (one.images, other.images),
        (one.train, other.train),
        (one.test, other.test),
    )
    return any(mine and theirs and mine != theirs for mine, theirs in pairs)


def sets(students: Iterable[Student]) -> list[list[Student]]:
    """Group students by data set, the one with the most succeeded runs first; runs that have not started are left out.

    A run that did not record its images joins a set if it can belong to only one; otherwise such runs form a set.
    """
    started = [student for student in students if student.data != Data()]
    groups: list[list[Student]] = []
    for student in sorted(started, key=lambda item: not item.data.images):
        compatible = [members for members in groups if not differ(members[0].data, student.data)]
        exact = [members for members in compatible if members[0].data.images == student.data.images]
        if exact:
            exact[0].append(student)
        elif len(compatible) == 1:
            compatible[0].append(student)
        else:
            groups.append([student])
    position = {id(student): index for index, student in enumerate(started)}
    ordered = [sorted(members, key=lambda item: position[id(item)]) for members in groups]
    return sorted(
        ordered,
        key=lambda members: (-sum(item.state == "succeeded" for item in members), position[id(members[0])]),
    )


def describe(data: Data) -> str:
    """Return a data set in describe, such as "images 3fa2b1c4, 898 for training and 899 for the test"."""
    counts = f"{data.train:,} for training and {data.test:,} for the test" if data.train else ""
    counts = counts or (f"{data.test:,} for the test" if data.test else "")
    name = f"images {data.images[:8]}" if data.images else "images not recorded"
    return f"{name}, {counts}" if counts else name


def split(sample: Sample) -> list[Sample]:
    """Split a sample into one per data set; a sample with a single set, or that has not started, stays whole."""
    groups = sets(sample.students)
    if len(groups) < 2:
        return [_with_teachers(sample)]
    not_started = tuple(student for student in sample.students if student.data == Data())
    samples = []
    for index, members in enumerate(groups):
        students = tuple(members) + (not_started if index == 0 else ())
        samples.append(_with_teachers(replace(sample, students=students, data=members[0].data)))
    return samples


def of_one(sample: Sample) -> Sample:
    """Set every run of other images aside: it stays in the sample, with the reason, and contributes no value.

    The data set of most succeeded runs is compared; of equal ones, that of the first run.
    """
    groups = sets(sample.students)
    if len(groups) < 2:
        return _with_teachers(sample)
    chosen = groups[0][0].data
    others = {student.run_id: describe(members[0].data) for members in groups[1:] for student in members}

    def set_aside(student: Student) -> Student:
        name = others.get(student.run_id, "")
        why = f"trained on other data ({name}) than the compared runs ({describe(chosen)})" if name else ""
        return replace(student, set_aside=why, other_data=name)

    students = tuple(map(set_aside, sample.students))
    return _with_teachers(replace(sample, students=students, data=chosen))


def _with_teachers(sample: Sample) -> Sample:
    """Remove the accuracy of teachers that were tested on other images: it is not a target for these students."""
    counted = [student.data for student in sample.students if not student.set_aside and student.data != Data()]
    if not counted:
        return sample

    def checked(teacher: Teacher) -> Teacher:
        return replace(teacher, top1=None, other_data=True) if differ(teacher.data, counted[0]) else teacher

    teachers = {teacher.run_id: checked(teacher) for teacher in sample.teachers}
    students = tuple(
        replace(student, teacher=teachers.get(student.teacher.run_id, student.teacher)) if student.teacher else student
        for student in sample.students
    )
    return replace(sample, students=students, teachers=tuple(teachers.values()))


def notes(sample: Sample) -> list[str]:
    """Return what a reader needs to know about the images: which runs are set aside, and what was not recorded."""
    notes = []
    excluded = [student for student in sample.students if student.set_aside]
    if excluded:
        by_data: dict[str, list[str]] = {}
        for student in excluded:
            by_data.setdefault(describe(student.data), []).append(f"{student.label} seed {student.seed}")
        listed = "; ".join(f"{name}: {_some(runs)}" for name, runs in by_data.items())
        notes.append(
            f"The data changed between runs. All values here are of {describe(sample.data)}; {_runs(len(excluded))} of "
            f"other data are left out ({listed})."
        )
    if any(teacher.other_data for teacher in sample.teachers):
        notes.append(
            "The teacher was trained and tested on other data than these students: its accuracy is not compared with "
            "theirs, and no share of it is a target."
        )
    counted = [student for student in sample.students if student.state == "succeeded" and not student.set_aside]
    unknown = sum(not student.data.images for student in counted)
    fixed = str(sample.spec["dataset"]["name"]) in _FIXED_DATASETS if sample.experiments else True
    if unknown and (unknown < len(counted) or not fixed):
        notes.append(
            f"{unknown} of {_runs(len(counted))} did not record their training images, because older versions did "
            "not: whether they are the same as those of the other runs is unknown."
        )
    return notes


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
