"""Groups runs by their images: only values of runs that used the same images may be averaged or compared.

A spec names images by a path or a name, so the files may change between two runs of one spec. Every run records the
SHA-256 of its images with their labels, and their number. Runs of versions that did not record the hash are
distinguished by the number of their images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from backend.comparisons.run_data import ImageData, Sample, StudentRun, TeacherRun
from backend.comparisons.tasks import headline_title

# These data sets are part of a package or are computed. Runs that did not record their images used the same images.
_FIXED_DATASETS = ("digits", "synthetic", "digit_scenes")


def differ(one: ImageData, other: ImageData) -> bool:
    """Return whether the images are known to differ; values that were not recorded are not compared."""
    pairs: tuple[tuple[str | int, str | int], ...] = (
        (one.images, other.images),
        (one.train, other.train),
        (one.test, other.test),
    )
    return any(first and second and first != second for first, second in pairs)


def group_by_data(students: Iterable[StudentRun]) -> list[list[StudentRun]]:
    """Group students by data set, ordered by the number of succeeded runs. Runs that have not started are omitted.

    A run that did not record its images joins a set if it can belong to only one; otherwise such runs form a set.
    """
    started = [student for student in students if student.data != ImageData()]
    groups: list[list[StudentRun]] = []
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


def describe(data: ImageData) -> str:
    """Return a description of a data set, such as "images 3fa2b1c4, 898 for training and 899 for the test"."""
    counts = f"{data.train:,} for training and {data.test:,} for the test" if data.train else ""
    counts = counts or (f"{data.test:,} for the test" if data.test else "")
    name = f"images {data.images[:8]}" if data.images else "images not recorded"
    return f"{name}, {counts}" if counts else name


def split(sample: Sample) -> list[Sample]:
    """Split a sample into one per data set. A sample with one data set, or without a started run, is not split."""
    groups = group_by_data(sample.students)
    if len(groups) < 2:
        return [_with_teachers(sample)]
    not_started = tuple(student for student in sample.students if student.data == ImageData())
    samples = []
    for index, members in enumerate(groups):
        students = tuple(members) + (not_started if index == 0 else ())
        samples.append(_with_teachers(replace(sample, students=students, data=members[0].data)))
    return samples


def set_others_aside(sample: Sample) -> Sample:
    """Set runs that used other images aside: they stay in the sample, with the reason, and contribute no value.

    The data set with the most succeeded runs is compared. If several have equally many, the first run's is compared.
    """
    groups = group_by_data(sample.students)
    if len(groups) < 2:
        return _with_teachers(sample)
    compared = groups[0][0].data
    other_data_names = {student.run_id: describe(members[0].data) for members in groups[1:] for student in members}

    def set_aside(student: StudentRun) -> StudentRun:
        name = other_data_names.get(student.run_id, "")
        reason = f"trained on other data ({name}) than the compared runs ({describe(compared)})" if name else ""
        return replace(student, set_aside=reason, other_data=name)

    students = tuple(map(set_aside, sample.students))
    return _with_teachers(replace(sample, students=students, data=compared))


def _with_teachers(sample: Sample) -> Sample:
    """Remove the result of teachers that were tested on other images, because it is no target for these students."""
    counted = [student.data for student in sample.students if not student.set_aside and student.data != ImageData()]
    if not counted:
        return sample

    def without_foreign_result(teacher: TeacherRun) -> TeacherRun:
        return replace(teacher, top1=None, other_data=True) if differ(teacher.data, counted[0]) else teacher

    teachers = {teacher.run_id: without_foreign_result(teacher) for teacher in sample.teachers}
    students = tuple(
        replace(student, teacher=teachers.get(student.teacher.run_id, student.teacher)) if student.teacher else student
        for student in sample.students
    )
    return replace(sample, students=students, teachers=tuple(teachers.values()))


def notes(sample: Sample) -> list[str]:
    """Return notes about the images: runs that are set aside, and runs that did not record their images."""
    notes = []
    excluded = [student for student in sample.students if student.set_aside]
    if excluded:
        by_data: dict[str, list[str]] = {}
        for student in excluded:
            by_data.setdefault(describe(student.data), []).append(f"{student.label} seed {student.seed}")
        run_names = "; ".join(f"{name}: {_first_names(runs)}" for name, runs in by_data.items())
        notes.append(
            f"The data changed between runs. All values here are of {describe(sample.data)}; {_runs(len(excluded))} of "
            f"other data are left out ({run_names})."
        )
    if any(teacher.other_data for teacher in sample.teachers):
        notes.append(
            "The teacher was trained and tested on other data than these students: its "
            f"{headline_title(sample.task)} is not compared with theirs, and no share of it is a target."
        )
    counted = [student for student in sample.students if student.state == "succeeded" and not student.set_aside]
    unknown = sum(not student.data.images for student in counted)
    fixed = str(sample.spec["dataset"]["name"]) in _FIXED_DATASETS if sample.experiments else True
    if unknown and (unknown < len(counted) or not fixed):
        notes.append(
            f"{unknown} of {_runs(len(counted))} did not record their training images, because an older version "
            "trained them: whether their images equal those of the other runs is unknown."
        )
    return notes


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _first_names(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
