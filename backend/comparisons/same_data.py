"""Which runs were trained and tested on the same images: only their numbers may be averaged or compared.

A spec names images by a path or a name, so what lies there may change between two runs of one spec. Every run records
the SHA-256 of its images with their labels, and how many there are; runs of versions that did not record the hash are
told apart by the numbers of their images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from backend.comparisons.run_data import Data, Sample, Student, Teacher

# Their images come with a package or are computed: runs that did not record them had the same.
_GIVEN = ("digits", "synthetic")


def differ(one: Data, other: Data) -> bool:
    """Whether the images are known to be others; what is not recorded does not tell."""
    pairs: tuple[tuple[str | int, str | int], ...] = (
        (one.images, other.images),
        (one.train, other.train),
        (one.test, other.test),
    )
    return any(mine and theirs and mine != theirs for mine, theirs in pairs)


def sets(students: Iterable[Student]) -> list[list[Student]]:
    """The students by data set, the one with most runs that succeeded first; those that have not started are nowhere.

    A run that did not record its images joins the only set that it may be of; where there are several, such runs are
    a set of their own.
    """
    started = [student for student in students if student.data != Data()]
    found: list[list[Student]] = []
    for student in sorted(started, key=lambda item: not item.data.images):
        alike = [members for members in found if not differ(members[0].data, student.data)]
        exact = [members for members in alike if members[0].data.images == student.data.images]
        if exact:
            exact[0].append(student)
        elif len(alike) == 1:
            alike[0].append(student)
        else:
            found.append([student])
    place = {id(student): index for index, student in enumerate(started)}
    ordered = [sorted(members, key=lambda item: place[id(item)]) for members in found]
    return sorted(
        ordered,
        key=lambda members: (-sum(item.state == "succeeded" for item in members), place[id(members[0])]),
    )


def words(data: Data) -> str:
    """How a data set is named, as "images 3fa2b1c4, 898 for training and 899 for the test"."""
    counts = f"{data.train:,} for training and {data.test:,} for the test" if data.train else ""
    counts = counts or (f"{data.test:,} for the test" if data.test else "")
    name = f"images {data.images[:8]}" if data.images else "images not recorded"
    return f"{name}, {counts}" if counts else name


def split(sample: Sample) -> list[Sample]:
    """A sample for each data set; one that has a single set, or has not started, as it is."""
    found = sets(sample.students)
    if len(found) < 2:
        return [_with_teachers(sample)]
    waiting = tuple(student for student in sample.students if student.data == Data())
    parts = []
    for index, members in enumerate(found):
        students = tuple(members) + (waiting if index == 0 else ())
        parts.append(_with_teachers(replace(sample, students=students, data=members[0].data)))
    return parts


def of_one(sample: Sample) -> Sample:
    """The sample with every run of other images set aside: it stays there, named, and gives no value.

    What is compared is the data set of most runs that succeeded, of equal ones that of the first run.
    """
    found = sets(sample.students)
    if len(found) < 2:
        return _with_teachers(sample)
    chosen = found[0][0].data
    others = {student.run_id: words(members[0].data) for members in found[1:] for student in members}

    def judged(student: Student) -> Student:
        name = others.get(student.run_id, "")
        why = f"trained on other data ({name}) than what is compared ({words(chosen)})" if name else ""
        return replace(student, set_aside=why, other_data=name)

    students = tuple(map(judged, sample.students))
    return _with_teachers(replace(sample, students=students, data=chosen))


def _with_teachers(sample: Sample) -> Sample:
    """Without the accuracy of teachers that were tested on other images: it is no target for these students."""
    counted = [student.data for student in sample.students if not student.set_aside and student.data != Data()]
    if not counted:
        return sample

    def judged(teacher: Teacher) -> Teacher:
        return replace(teacher, top1=None, other_data=True) if differ(teacher.data, counted[0]) else teacher

    teachers = {teacher.run_id: judged(teacher) for teacher in sample.teachers}
    students = tuple(
        replace(student, teacher=teachers.get(student.teacher.run_id, student.teacher)) if student.teacher else student
        for student in sample.students
    )
    return replace(sample, students=students, teachers=tuple(teachers.values()))


def notes(sample: Sample) -> list[str]:
    """What a reader must know of the images: which runs are set aside, and what is not known."""
    found = []
    aside = [student for student in sample.students if student.set_aside]
    if aside:
        each: dict[str, list[str]] = {}
        for student in aside:
            each.setdefault(words(student.data), []).append(f"{student.label} seed {student.seed}")
        listed = "; ".join(f"{name}: {_some(runs)}" for name, runs in each.items())
        found.append(
            f"The data changed between runs. Everything here is of {words(sample.data)}; {_runs(len(aside))} of other "
            f"data are left out ({listed})."
        )
    if any(teacher.other_data for teacher in sample.teachers):
        found.append(
            "The teacher was trained and tested on other data than these students: its accuracy is not compared with "
            "theirs, and no share of it is a target."
        )
    counted = [student for student in sample.students if student.state == "succeeded" and not student.set_aside]
    unknown = sum(not student.data.images for student in counted)
    given = str(sample.spec["dataset"]["name"]) in _GIVEN if sample.experiments else True
    if unknown and (unknown < len(counted) or not given):
        found.append(
            f"{unknown} of {_runs(len(counted))} did not record which images they were trained on, as older versions "
            "did not: that they were the same as the others' is not known."
        )
    return found


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
