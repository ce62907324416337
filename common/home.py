"""The home folder of an embedded stack, which the processes of one machine share, and the paths in it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

_PRIVATE_ENTRIES = (
    *("artifacts", "broker", "cache", "logs", "scratch", "tokens", "workers"),
    *("api.url", "dkd.sqlite3", "dkd.sqlite3-shm", "dkd.sqlite3-wal", "stack.lock"),
)


@dataclass(frozen=True)
class PermissionRepair:
    """Result of ``Home.make_private``.

    Attributes:
        changed: Number of files and folders that other accounts could access.
        refused: Files and folders that could not be changed, because they belong to another account.
    """

    changed: int
    refused: tuple[Path, ...]


@dataclass(frozen=True)
class Home:
    """The home folder of an embedded stack: ``DKD_HOME``, or by default the user's data folder."""

    path: Path

    @classmethod
    def find(cls) -> Home:
        """Return the home that the environment names. Creates no folder."""
        configured = os.environ.get("DKD_HOME")
        return cls(
            Path(os.path.expanduser(configured)).absolute()
            if configured
            else user_data_path("dkd-lab", appauthor=False)
        )

    @property
    def database(self) -> Path:
        """The SQLite file. It is a path, not a URL, so no character in it needs escaping."""
        return self.path / "dkd.sqlite3"

    @property
    def artifacts(self) -> Path:
        """Root of the artifact store, which contains ``runs/ID/attempt-N/…``."""
        return self.path / "artifacts"

    @property
    def scratch(self) -> Path:
        """Folder in which a worker trains if its artifact store is remote; files of the store are downloaded to it."""
        return self.path / "scratch"

    @property
    def broker(self) -> Path:
        """Folder of Celery's filesystem transport."""
        return self.path / "broker"

    @property
    def cache(self) -> Path:
        """Data that trainings can compute again, such as teachers' logits; it may be deleted at any time."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        """Folder of the services' logs."""
        return self.path / "logs"

    @property
    def admin_token(self) -> Path:
        """File with the token that the command line uses by default; mode 0600."""
        return self.path / "tokens" / "admin"

    @property
    def worker_token(self) -> Path:
        """File with the workers' token, whose scope is limited to claiming and reporting runs; mode 0600."""
        return self.path / "tokens" / "worker"

    def session(self, url: str) -> Path:
        """File with the token of the session that ``dkd login`` began at a backend; mode 0600.

        Args:
            url: The backend's address, to which alone the token is sent.
        """
        return self.path / "tokens" / "logins" / hashlib.sha256(url.encode()).hexdigest()[:32]

    @property
    def dashboard_sessions(self) -> Path:
        """Folder with a file for each browser that has opened a one-time address of the dashboard."""
        return self.path / "tokens" / "sessions"

    @property
    def dashboard_tickets(self) -> Path:
        """Folder with a file for each unused one-time address of the dashboard."""
        return self.path / "tokens" / "tickets"

    @property
    def api_url(self) -> Path:
        """File with the address of the stack that is running on this home; it does not exist if none is."""
        return self.path / "api.url"

    def make_private(self) -> PermissionRepair:
        """Create the home, and remove other accounts' access that an older version or another umask left.

        Only the home and the files of a stack in it are changed; links are not followed. The mode of a folder that
        others use too, such as /tmp, is not changed, but the stack's files in it become private.

        Raises:
            OSError: The home cannot be created.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed = 0
        refused: list[Path] = []
        for path in self._entries():
            try:
                changed += _remove_others_access(path)
            except PermissionError:
                refused.append(path)
            except FileNotFoundError:
                continue
        return PermissionRepair(changed, tuple(refused))

    def _entries(self) -> Iterator[Path]:
        folder = self.path.resolve()
        shared = folder.stat().st_mode & stat.S_ISVTX  # such as /tmp
        has_other_files = any(path.name not in _PRIVATE_ENTRIES for path in folder.iterdir())
        is_system_folder = len(folder.parts) <= 3 and has_other_files
        if not (shared or is_system_folder):
            yield folder  # first, so that other accounts cannot reach its entries from then on
        for name in _PRIVATE_ENTRIES:
            entry = self.path / name
            if entry.is_symlink():
                continue
            yield entry
            for directory, folders, files in os.walk(entry):
                yield from (Path(directory, name) for name in (*folders, *files))


def _remove_others_access(path: Path) -> bool:
    """Remove the access of group and others to a file or folder; return whether anything changed."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) or not mode & 0o077:
        return False
    path.chmod(stat.S_IMODE(mode) & 0o700)
    return True
