"""``python -m core train``: one run, as a worker starts it in a process of its own or hands it to a group process."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from core.events import MACHINE_EXIT, is_full_disk
from core.specs import Problem, RunSpec, SpecError, problems_of

if TYPE_CHECKING:  # torch takes seconds to import
    from core.train.run import Result


@dataclass(frozen=True)
class TrainingRequest:
    """What a worker asks of a training.

    Attributes:
        spec: The run.
        out: The folder of the attempt.
        teachers: The runs that made the teachers.
        teacher_weights: Their weights, in the same order.
        resume: A checkpoint of an earlier attempt.
        students: Of a teacher's run, those that wait for it.
    """

    spec: RunSpec
    out: Path
    teachers: list[RunSpec] = field(default_factory=list)
    teacher_weights: list[Path] = field(default_factory=list)
    resume: Path | None = None
    students: list[RunSpec] = field(default_factory=list)

    @classmethod
    def read(cls, options: argparse.Namespace) -> TrainingRequest:
        """Read the files that the arguments name.

        Raises:
            SpecError: One of them cannot be read, or the arguments do not fit each other.
        """
        spec = _read_run(options.input)
        if len(options.teacher) != len(options.teacher_weights):
            raise SpecError([Problem("", "--teacher and --teacher-weights go together")])
        return cls(
            spec,
            options.out,
            [_read_run(path) for path in options.teacher],
            options.teacher_weights,
            options.resume,
            [_read_run(path) for path in options.student],
        )

    def arguments(self) -> dict[str, Any]:
        """Return the request as arguments of ``run_training``."""
        from core.tasks.task import TeacherSource

        pairs = zip(self.teachers, self.teacher_weights, strict=True)
        teachers = [TeacherSource(teacher, weights) for teacher, weights in pairs]
        return {
            "spec": self.spec,
            "out": self.out,
            "teacher": teachers,
            "resume": self.resume,
            "students": self.students,
        }


@dataclass(frozen=True)
class ExitStatus:
    """How a training ended, for the process that started it.

    Attributes:
        code: The exit code.
        text: What its standard error says about it; empty if the journal says all.
    """

    code: int
    text: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one run to a parser."""
    parser.add_argument("--run", dest="input", type=Path, required=True, metavar="RUN.json")
    parser.add_argument("--out", type=Path, required=True, help="the folder of this attempt")
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="TEACHER_RUN.json",
        help="the run that made the teacher; repeatable",
    )
    parser.add_argument(
        "--teacher-weights",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the teacher's weights (safetensors), once for each --teacher",
    )
    parser.add_argument(
        "--student",
        type=Path,
        action="append",
        default=[],
        metavar="STUDENT_RUN.json",
        help="of a teacher's run, a run that waits for it and is checked before the first step; repeatable",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="a checkpoint of an earlier attempt at the same run"
    )


def exit_status(train: Callable[[], Result]) -> ExitStatus:
    """Train, and return the exit status of the result.

    Raises:
        OSError: A file cannot be used, for another reason than a full disk.
    """
    from core.errors import MachineError

    try:
        result = train()
    except (OSError, MachineError) as error:
        if isinstance(error, OSError) and not is_full_disk(error):
            raise
        return ExitStatus(MACHINE_EXIT, str(error.strerror if isinstance(error, OSError) and error.strerror else error))
    return ExitStatus(1 if result == "failed" else 0)


def _read_run(path: Path) -> RunSpec:
    try:
        return RunSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError([Problem("", f"cannot read {path}: {error.strerror}")]) from None
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None
