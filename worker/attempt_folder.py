"""The folder of one attempt: its files, and the arguments of the command that starts its training."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from common.object_store import sha256_of
from common.report_bounds import MAX_LINE, fit_text
from core.events import JOURNAL_NAME, Finished
from core.protocol.worker import ArtifactRef, Claim, TeacherRef

log = structlog.get_logger()

_TAIL_BYTES = 65_536
_TAIL_LINES = 40


class ClaimError(Exception):
    """The run cannot be trained as the backend described it. The message becomes the run's reason, shown to people."""


@dataclass(frozen=True)
class AttemptFolder:
    """Files of one attempt.

    Attributes:
        path: The folder that contains all of them.
        arguments: Arguments of the training command.
    """

    path: Path
    arguments: tuple[str, ...]

    @property
    def journal(self) -> Path:
        """The training's journal of events."""
        return self.path / JOURNAL_NAME

    @property
    def stdout(self) -> Path:
        """The training's standard output."""
        return self.path / "stdout.txt"

    @property
    def stderr(self) -> Path:
        """The training's standard error."""
        return self.path / "stderr.txt"

    def last_lines(self) -> list[str]:
        """Return the last lines of the training's stderr, or of its stdout if stderr is empty."""
        return _tail(self.stderr) or _tail(self.stdout)

    def weights(self, finished: Finished, folder: str) -> ArtifactRef:
        """Return the reference to the trained weights in the artifact store.

        Args:
            finished: The training's final event.
            folder: This attempt's folder relative to the store's root.

        Raises:
            ClaimError: The file is missing or does not have the reported hash.
        """
        path = resolve_inside(self.path, finished.weights)
        _check_hash(path, finished.sha256, "the weights")
        relative = path.relative_to(self.path.resolve()).as_posix()
        return ArtifactRef(path=f"{folder}/{relative}", sha256=finished.sha256)


def prepare_attempt(root: Path, claim: Claim) -> AttemptFolder:
    """Create the attempt's folder with the files that the training reads.

    Args:
        root: Root of the artifact store.
        claim: The run.

    Raises:
        ClaimError: The teacher's weights are missing or changed, or a path is outside the store.
        OSError: The folder cannot be written.
    """
    path = resolve_inside(root, claim.folder)
    teachers = _teachers(root, claim)
    arguments = ["--out", str(path)]
    checkpoint = _checkpoint(root, claim.checkpoint)
    if path.exists() and any(path.iterdir()):
        # The folder of another run from before the backend's database was recreated. The training would append its
        # events to the other run's journal.
        path.rename(path.with_name(f"{path.name}.old-{uuid.uuid4().hex[:8]}"))
    path.mkdir(parents=True, exist_ok=True)
    run = path / "run.json"
    run.write_text(json.dumps(claim.spec, indent=1, ensure_ascii=False), encoding="utf-8")
    arguments += ["--run", str(run)]
    for number, (spec, weights) in enumerate(teachers, start=1):
        teacher = path / ("teacher.json" if number == 1 else f"teacher-{number}.json")
        teacher.write_text(json.dumps(spec, indent=1, ensure_ascii=False), encoding="utf-8")
        arguments += ["--teacher", str(teacher), "--teacher-weights", str(weights)]
    for number, spec in enumerate(claim.students, start=1):
        student = path / f"student-{number}.json"
        student.write_text(json.dumps(spec, indent=1, ensure_ascii=False), encoding="utf-8")
        arguments += ["--student", str(student)]
    if checkpoint is not None:
        arguments += ["--resume", str(checkpoint)]
    if claim.gpus > 1:
        arguments += ["--ranks", str(claim.gpus)]
    return AttemptFolder(path, tuple(arguments))


def resolve_inside(root: Path, relative: str) -> Path:
    """Return the path below ``root`` with links resolved.

    Raises:
        ClaimError: The path is outside ``root`` or is ``root`` itself.
    """
    resolved_root = root.resolve()
    try:
        path = (resolved_root / relative).resolve()
    except (OSError, ValueError) as error:
        raise ClaimError(f"the path {relative!r} cannot be used: {error}") from None
    if path == resolved_root or not path.is_relative_to(resolved_root):
        raise ClaimError(f"the path {relative!r} is outside the artifact store")
    return path


def _teachers(root: Path, claim: Claim) -> list[tuple[dict[str, Any], Path]]:
    """Return the spec and the checked weights of each teacher."""
    if claim.teacher is None or claim.teacher_spec is None:
        if claim.needs_teacher:
            raise ClaimError("the run needs a teacher, and the backend named none")
        return []
    first = TeacherRef(weights=claim.teacher, spec=claim.teacher_spec)
    teachers = []
    for teacher in (first, *claim.further_teachers):
        path = resolve_inside(root, teacher.weights.path)
        _check_hash(path, teacher.weights.sha256, "the teacher's weights")
        teachers.append((teacher.spec, path))
    return teachers


def _checkpoint(root: Path, ref: ArtifactRef | None) -> Path | None:
    """Return the checkpoint to resume from; None if there is no checkpoint or it is unusable.

    Without a checkpoint, the training starts from the beginning. The result is the same, since a training is a function
    of its spec.
    """
    if ref is None:
        return None
    path = resolve_inside(root, ref.path)
    try:
        _check_hash(path, ref.sha256, "the checkpoint")
    except ClaimError as error:
        log.warning("training from the beginning", reason=str(error))
        return None
    return path


def _check_hash(path: Path, sha256: str, description: str) -> None:
    try:
        actual = sha256_of(path)
    except FileNotFoundError:
        raise ClaimError(f"{description}: file not found: {path}") from None
    except OSError as error:
        raise ClaimError(f"{description}: file cannot be read: {path}: {error.strerror}") from None
    if sha256 and actual != sha256:
        raise ClaimError(
            f"{description}: file has changed since it was reported: {path} has sha256 {actual[:12]}…, "
            f"expected {sha256[:12]}…"
        )


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [fit_text(line.rstrip(), MAX_LINE) for line in text.splitlines() if line.strip()]
    return lines[-_TAIL_LINES:]
