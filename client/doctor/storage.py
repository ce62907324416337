"""Checks of free disk space, the data sets in ``DATA_DIR``, and the schema of a local database."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

from client.doctor.runner import Finding, Status
from common.home import Home

_GIB = 1 << 30
LOW_BYTES = 5 * _GIB
FULL_BYTES = 1 * _GIB
_SQLITE_SECONDS = 3.0
_MOST_ENTRIES = 10_000

# Names of the folders or files of each data set below DATA_DIR, in lower case and without separators.
DATASET_NAMES = {
    "cifar10": ("cifar10", "cifar10batchespy", "cifar10python"),
    "cifar100": ("cifar100", "cifar100python"),
    "mnist": ("mnist",),
    "fashion_mnist": ("fashionmnist",),
    "svhn": ("svhn", "train32x32mat"),
    "food101": ("food101",),
    "tiny_imagenet": ("tinyimagenet", "tinyimagenet200"),
    "animals10": ("animals10", "rawimg"),
    "imagenet": ("imagenet", "imagenet1k", "ilsvrc2012", "ilsvrc", "ilsvrc2012imgtrain"),
    "voc": ("voc", "vocdevkit", "pascalvoc", "voc2007", "voc2012", "voctrainval06nov2007", "voctrainval11may2012"),
    "coco": ("coco", "coco2017", "mscoco"),
}


def check_disk() -> Iterator[Finding]:
    """Check free space and write access of the folders that trainings and the stack write to."""
    home = Home.find()
    artifacts = os.environ.get("DKD_ARTIFACTS", "")
    folders = {
        "home": home.path,
        "artifacts": None if "://" in artifacts else Path(artifacts).expanduser() if artifacts else home.artifacts,
        "DATA_DIR": data_dir(),
        "cache": Path(os.environ.get("DKD_CACHE_DIR") or "~/.cache/dkd-lab").expanduser(),
    }
    sufficient = []
    for name, folder in folders.items():
        if folder is None:
            continue
        finding = disk_finding(name, folder.absolute())
        if finding.status == "ok":
            sufficient.append(finding.message)
        else:
            yield finding
    if sufficient:
        yield Finding(check="disk", status="ok", message="; ".join(sufficient))


def disk_finding(name: str, folder: Path) -> Finding:
    """Check one folder, or the nearest existing folder above it."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        message = f"{name}: {existing} is a file, and should be a folder"
        return Finding(check="disk", status="error", message=message, action="move it away, or choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        # Data sets may be on a read-only disk if their packed images are written to another folder.
        if name == "DATA_DIR":
            action = "set DKD_PACK_DIR to a writable folder, in which packed images are stored"
            return Finding(check="disk", status="warning", message=f"{name}: {existing} is read-only", action=action)
        action = "give this account the right to write there, or choose another folder"
        return Finding(check="disk", status="error", message=f"{name}: {existing} cannot be written", action=action)
    free = shutil.disk_usage(existing).free
    text = f"{name}: {free / _GIB:.1f} GiB free at {existing}"
    if free < LOW_BYTES:
        action = "free some space (`python -m backend gc` lists removable files), or choose a folder on another disk"
        status: Status = "error" if free < FULL_BYTES else "warning"
        return Finding(check="disk", status=status, message=text, action=action)
    return Finding(check="disk", status="ok", message=text)


def data_dir() -> Path:
    """Return the folder in which trainings look for data sets."""
    return Path(os.environ.get("DATA_DIR") or "~/.cache/dkd-lab/datasets").expanduser().absolute()


def check_datasets() -> Iterator[Finding]:
    """List the data sets in ``DATA_DIR``, which are recognised by the names of their folders."""
    folder = data_dir()
    source = "DATA_DIR" if os.environ.get("DATA_DIR") else "the default of DATA_DIR"
    if not folder.is_dir():
        configured = bool(os.environ.get("DATA_DIR"))
        message = f"{folder} ({source}) does not exist; digits and synthetic need no files"
        action = (
            "create it and put data sets below it, or set DATA_DIR to the folder that has them" if configured else ""
        )
        yield Finding(check="datasets", status="error" if configured else "ok", message=message, action=action)
        return
    try:
        entries = [entry.name for _, entry in zip(range(_MOST_ENTRIES), os.scandir(folder), strict=False)]
    except OSError as error:
        message = f"{folder} ({source}) cannot be read: {error.strerror}"
        action = "give this account the right to read it"
        yield Finding(check="datasets", status="error", message=message, action=action)
        return
    present = {name: sorted(entries_of(names, entries)) for name, names in DATASET_NAMES.items()}
    datasets = ", ".join(
        f"{name} ({', '.join(dataset_entries)})" for name, dataset_entries in present.items() if dataset_entries
    )
    text = f"in {folder} ({source}): {datasets or 'no data set with a known name'}; digits and synthetic need no files"
    yield Finding(check="datasets", status="ok", message=text)


def entries_of(names: tuple[str, ...], entries: list[str]) -> set[str]:
    """Return the entries of a folder that have one of a data set's names, including archives."""
    return {
        entry
        for entry in entries
        if _normalized_name(entry) in names or _normalized_name(_without_suffix(entry)) in names
    }


def _without_suffix(name: str) -> str:
    """Return the name of an archive without its suffixes, such as ``.tar.gz``."""
    return re.sub(r"\.(tar|tgz|zip|gz|mat).*", "", name)


def _normalized_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def check_database() -> Iterator[Finding]:
    """Check that a local SQLite database has the schema of the installed backend."""
    file = sqlite_file()
    if file is None:
        message = "the database is not a local SQLite file; the backend checks it when it starts"
        yield Finding(check="database", status="ok", message=message)
        return
    head = newest_revision()
    if not file.exists():
        yield Finding(check="database", status="ok", message=f"no database yet at {file}; `dkd up` creates it")
        return
    address = f"file:{quote(str(file))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=_SQLITE_SECONDS)) as database:
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        message = f"{file} cannot be read: {error}"
        action = "check that it is a database of DKD Lab and that no other program locks it, or restore a backup"
        yield Finding(check="database", status="error", message=message, action=action)
        return
    revision = str(rows[0][0]) if rows else ""
    text = f"{file} has schema version {revision or 'none'}"
    if not head:
        yield Finding(check="database", status="ok", message=f"{text}; the backend is not installed here")
    elif revision > head:
        action = "install the later version again, or restore the backup from before the upgrade"
        message = f"{text}, written by a later version: this version supports schemas up to {head}"
        yield Finding(check="database", status="error", message=message, action=action)
    elif revision < head:
        action = "stop the backend, back the file up, and run `python -m backend migrate` (`dkd up` does it by itself)"
        yield Finding(check="database", status="warning", message=f"{text}; this version needs {head}", action=action)
    else:
        yield Finding(check="database", status="ok", message=text)


def sqlite_file() -> Path | None:
    """Return the path of the configured SQLite database; None for another database."""
    url = os.environ.get("DKD_DATABASE_URL", "")
    if not url:
        return Home.find().database
    scheme, _, path = url.partition(":///")
    return Path(unquote(path)).absolute() if scheme.partition("+")[0] == "sqlite" and path else None


def newest_revision() -> str:
    """Return the newest schema version of the installed backend; empty if it is not installed."""
    backend = find_spec("backend")  # found without importing it
    folders = backend.submodule_search_locations if backend else None
    revisions = [
        match[1]
        for folder in folders or ()
        for path in (Path(folder) / "migrations" / "versions").glob("*.py")
        if (match := re.match(r"(\d{4})_", path.name))
    ]
    return max(revisions, default="")
