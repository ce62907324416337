"""The folder that the processes of one machine share, and the paths in it."""

from __future__ import annotations

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
    """What ``Home.make_private`` did.

    Attributes:
        changed: files and folders that other accounts could reach.
        refused: those that could not be changed, as they belong to another account.
    """

    changed: int
    refused: tuple[Path, ...]


@dataclass(frozen=True)
class Home:
    """The folder of an embedded stack: ``DKD_HOME``, else the user's data folder."""

    path: Path

    @classmethod
    def find(cls) -> Home:
        """From the environment. Nothing is created."""
        given = os.environ.get("DKD_HOME")
        return cls(Path(os.path.expanduser(given)).absolute() if given else user_data_path("dkd-lab", appauthor=False))

    @property
    def database(self) -> Path:
        """SQLite's file. A path and no URL: whatever is in the path means itself."""
        return self.path / "dkd.sqlite3"

    @property
    def artifacts(self) -> Path:
        """Root of the artifact store: ``runs/ID/attempt-N/…`` lies in it."""
        return self.path / "artifacts"

    @property
    def scratch(self) -> Path:
        """Where a worker trains whose artifact store is no folder; what it needs of the store is fetched to here."""
        return self.path / "scratch"

    @property
    def broker(self) -> Path:
        """Folder of Celery's filesystem transport."""
        return self.path / "broker"

    @property
    def cache(self) -> Path:
        """What trainings can make again, such as teachers' logits; may be deleted at any time."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def admin_token(self) -> Path:
        """File with the token that the command line reads by itself; mode 0600."""
        return self.path / "tokens" / "admin"

    @property
    def worker_token(self) -> Path:
        """File with the token that lets a worker claim and report, and nothing else; mode 0600."""
        return self.path / "tokens" / "worker"

    @property
    def dashboard_key(self) -> Path:
        """File with the key that signs the cookies of browsers that the dashboard knows; mode 0600."""
        return self.path / "tokens" / "dashboard.key"

    @property
    def dashboard_tickets(self) -> Path:
        """Folder with a file for each one-time address of the dashboard that has not been used."""
        return self.path / "tokens" / "tickets"

    @property
    def api_url(self) -> Path:
        """File with the address of the stack that runs on this folder now; not there when none does."""
        return self.path / "api.url"

    def make_private(self) -> PermissionRepair:
        """Make the home and take from other accounts what an older version or another umask left them in it.

        Only the home itself and what a stack puts into it are changed; links are not followed. A folder that others
        use too, such as /tmp, stays open, and what the stack has in it is private.

        Raises:
            OSError: the home cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed = 0
        refused: list[Path] = []
        for path in self._entries():
            try:
                changed += _take_from_others(path)
            except PermissionError:
                refused.append(path)
            except FileNotFoundError:
                continue
        return PermissionRepair(changed, tuple(refused))

    def _entries(self) -> Iterator[Path]:
        folder = self.path.resolve()
        shared = folder.stat().st_mode & stat.S_ISVTX  # as /tmp
        system = len(folder.parts) <= 3 and any(path.name not in _PRIVATE_ENTRIES for path in folder.iterdir())
        if not (shared or system):
            yield folder  # first: nobody else reaches the rest from then on
        for name in _PRIVATE_ENTRIES:
            entry = self.path / name
            if entry.is_symlink():
                continue
            yield entry
            for inside, folders, files in os.walk(entry):
                yield from (Path(inside, found) for found in (*folders, *files))


def _take_from_others(path: Path) -> bool:
    """Leave a file or folder to its owner alone; whether that changed anything."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) or not mode & 0o077:
        return False
    path.chmod(stat.S_IMODE(mode) & 0o700)
    return True
