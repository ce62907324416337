"""The folder of one attempt: where its files lie, and the command that starts its training."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from common.object_store import sha256_of
from common.report_bounds import MAX_LINE, fit_text
from core.events import JOURNAL_NAME, Finished
from core.protocol.worker import ArtifactRef, Claim

log = structlog.get_logger()

_TAIL_BYTES = 65_536
_TAIL_LINES = 40


class ClaimError(Exception):
    """A run that cannot be trained as the backend described it. The text is the reason a person reads."""


@dataclass(frozen=True)
class Attempt:
    """Files of one attempt, all of them inside ``folder``.

    Attributes:
        arguments: of the training command.
    """

    folder: Path
    arguments: tuple[str, ...]

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL_NAME

    @property
    def stdout(self) -> Path:
        return self.folder / "stdout.txt"

    @property
    def stderr(self) -> Path:
        return self.folder / "stderr.txt"

    def last_lines(self) -> list[str]:
        """The end of what the training wrote to stderr, or to stdout where it wrote nothing there."""
        return _tail(self.stderr) or _tail(self.stdout)

    def weights(self, finished: Finished, folder: str) -> ArtifactRef:
        """Where the trained weights are in the artifact store.

        Args:
            finished: what the training said.
            folder: of this attempt, relative to the store's root.

        Raises:
            ClaimError: the file is not there, or not what the training says it is.
        """
        path = inside(self.folder, finished.weights)
        _check(path, finished.sha256, "the weights")
        relative = path.relative_to(self.folder.resolve()).as_posix()
        return ArtifactRef(path=f"{folder}/{relative}", sha256=finished.sha256)


def prepare(root: Path, claim: Claim) -> Attempt:
    """Make the attempt's folder with what the training reads.

    Args:
        root: of the artifact store.

    Raises:
        ClaimError: the teacher's weights are missing or changed, or a path leads out of the store.
        OSError: the disk refuses.
    """
    folder = inside(root, claim.folder)
    arguments = ["--out", str(folder), *_teacher_check(root, claim)]
    checkpoint = _checkpoint(root, claim.checkpoint)
    if folder.exists() and any(folder.iterdir()):
        # From a life of the backend that its database has forgotten: events of another training would be continued.
        folder.rename(folder.with_name(f"{folder.name}.old-{uuid.uuid4().hex[:8]}"))
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run.json"
    run.write_text(claim.spec.model_dump_json(indent=1), encoding="utf-8")
    arguments += ["--run", str(run)]
    if claim.teacher_spec is not None and claim.teacher is not None:
        teacher = folder / "teacher.json"
        teacher.write_text(claim.teacher_spec.model_dump_json(indent=1), encoding="utf-8")
        arguments += ["--teacher", str(teacher)]
    if checkpoint is not None:
        arguments += ["--resume", str(checkpoint)]
    if claim.gpus > 1:
        arguments += ["--ranks", str(claim.gpus)]
    return Attempt(folder, tuple(arguments))


def inside(root: Path, relative: str) -> Path:
    """A path below ``root``, links followed; ClaimError where it leads out of it or names ``root`` itself."""
    top = root.resolve()
    try:
        path = (top / relative).resolve()
    except (OSError, ValueError) as error:
        raise ClaimError(f"the path {relative!r} cannot be used: {error}") from None
    if path == top or not path.is_relative_to(top):
        raise ClaimError(f"the path {relative!r} leads out of the artifact store")
    return path


def _teacher_check(root: Path, claim: Claim) -> Sequence[str]:
    if claim.teacher is None or claim.teacher_spec is None:
        if claim.spec.teacher is not None:
            raise ClaimError("the run needs a teacher, and the backend named none")
        return ()
    path = inside(root, claim.teacher.path)
    _check(path, claim.teacher.sha256, "the teacher's weights")
    return ("--teacher-weights", str(path))


def _checkpoint(root: Path, ref: ArtifactRef | None) -> Path | None:
    """The checkpoint to go on from; None where there is none, or none that can be used: then from the beginning.

    A training is a function of its spec, so that beginning anew costs time and nothing else.
    """
    if ref is None:
        return None
    path = inside(root, ref.path)
    try:
        _check(path, ref.sha256, "the checkpoint")
    except ClaimError as error:
        log.warning("training from the beginning", reason=str(error))
        return None
    return path


def _check(path: Path, sha256: str, what: str) -> None:
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise ClaimError(f"{what} are not there: {path}") from None
    except OSError as error:
        raise ClaimError(f"{what} cannot be read: {path}: {error.strerror}") from None
    if sha256 and found != sha256:
        raise ClaimError(
            f"{what} have changed since they were reported: {path} has sha256 {found[:12]}…, expected {sha256[:12]}…"
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
