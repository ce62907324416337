"""Backups of a database in one SQLite file, whatever the kind of the database; their verification and restoration.

Beside the file is a manifest with the SHA-256 of the file, and the number of rows and a content hash of each table.
They are computed in the snapshot that the backup contains, so that a backup can be compared with the database at that
time for as long as it is kept.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import URL, Connection, NullPool, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from backend.db import migrate
from backend.db.copying import CopyError, TableDigest, copy_database, copy_rows, digest_of, snapshot
from backend.db.engine import Database
from backend.db.models import Base
from common.atomic_write import atomic_path, atomic_write
from common.object_store import sha256_of

_COMPANIONS = ("-wal", "-shm", "-journal")
# A changed byte can also make a value that the type of its column cannot convert.
_UNREADABLE = (DatabaseError, ValueError, TypeError)


class BackupError(Exception):
    """A backup cannot be made or restored, or is damaged.

    Attributes:
        problems: One sentence each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class TableEntry(BaseModel):
    """The digest of a table in a manifest.

    Attributes:
        rows: Number of rows.
        hash: Sum of the hashes of the rows, in 32 hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    hash: str

    @classmethod
    def of(cls, digest: TableDigest) -> TableEntry:
        return cls(rows=digest.rows, hash=digest.hex)


class Manifest(BaseModel):
    """What a backup contains; a JSON file beside it.

    Attributes:
        made_at: Time of the snapshot, by the clock of this machine.
        source: Kind of the database.
        revision: Version of the schema.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file.
        tables: The tables of the snapshot; None if its schema was not that of the program that made the backup.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    made_at: datetime
    source: Literal["sqlite", "postgresql"]
    revision: str
    size: int
    sha256: str
    tables: dict[str, TableEntry] | None


@dataclass(frozen=True)
class VerifiedBackup:
    """The result of a verification in which everything that was compared is equal.

    Attributes:
        manifest: The manifest of the backup; None if it is missing, so that nothing of the original was compared.
        tables: The tables of the restored database.
        migrated: The backup has an earlier schema. It was migrated after it was restored, so that its tables were not
            compared with the manifest.
    """

    manifest: Manifest | None
    tables: dict[str, TableEntry]
    migrated: bool


def manifest_path(file: Path) -> Path:
    """Return the path of a backup's manifest."""
    return file.with_name(f"{file.name}.manifest.json")


def back_up(database: Database, file: Path) -> Manifest:
    """Write a database to a new file while it is in use. The file appears only when it is complete and checked.

    Everything in the file is from one snapshot. A transaction that is not committed when it is taken is not part of it.

    Returns:
        The manifest, which is also written beside the file.

    Raises:
        BackupError: The file exists, or the database is damaged or (PostgreSQL) has the schema of another version.
        OSError: The file cannot be written.
    """
    if file.exists():
        raise BackupError(f"{file} exists; a backup is not overwritten")
    file.parent.mkdir(parents=True, exist_ok=True)
    made_at = datetime.now(UTC)
    # Private: the file contains hashes of tokens.
    with atomic_path(
        file, temporary=file.with_name(f".{file.name}.partial"), private=True, sync=True, replace=False
    ) as partial:
        try:
            if database.is_sqlite:
                revision, tables = _copy_pages(database, partial)
            else:
                revision, tables = migrate.head_revision(), _copy_as_sqlite(database, partial)
            with closing(sqlite3.connect(partial)) as writing:
                writing.execute("PRAGMA journal_mode=DELETE").close()  # one file, without companions
                if writing.execute("PRAGMA quick_check").fetchone() != ("ok",):
                    raise BackupError("the database is damaged: its copy fails SQLite's check")
        except CopyError as error:
            raise BackupError(str(error)) from error
        sha256 = sha256_of(partial)
    manifest = Manifest(
        made_at=made_at,
        source="sqlite" if database.is_sqlite else "postgresql",
        revision=revision,
        size=file.stat().st_size,
        sha256=sha256,
        tables=tables,
    )
    atomic_write(manifest_path(file), manifest.model_dump_json(indent=1) + "\n", private=True, sync=True)
    return manifest


def read_manifest(file: Path) -> Manifest | None:
    """Return the manifest of a backup; None if there is none, as of backups that earlier versions made.

    Raises:
        BackupError: The manifest cannot be read.
    """
    path = manifest_path(file)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BackupError(f"{path} is not a manifest: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check_file(file: Path) -> Manifest | None:
    """Read a backup completely, and compare it with its manifest.

    Returns:
        The manifest; None if there is none.

    Raises:
        BackupError: The backup is damaged, with a problem for each table that cannot be read or is not that of the
            manifest; or it is not a backup that this version supports.
        OSError: The file cannot be read.
    """
    with file.open("rb") as opened:
        if opened.read(16) != b"SQLite format 3\0":
            raise BackupError(f"{file} is not a backup: it does not begin as a SQLite file")
    manifest = read_manifest(file)
    problems = []
    with _reading(file) as connection:
        try:
            revision = migrate.revision_of(connection)
        except DatabaseError as error:
            revision = ""
            problems.append(f"the table alembic_version cannot be read: {_reason(error)}")
        if manifest and revision != manifest.revision:
            if not problems:
                problems.append(f"the table alembic_version has the version {revision!r}, not {manifest.revision}")
            revision = manifest.revision  # the other tables are compared with the manifest
        if problem := migrate.unsupported(revision):
            raise BackupError(*problems, f"{file}: {problem}")
        if revision == migrate.head_revision():
            problems += _table_problems(connection, manifest.tables if manifest else None)
        if not problems:
            problems += _structural_problems(connection)
    if not problems and manifest and (file.stat().st_size, sha256_of(file)) != (manifest.size, manifest.sha256):
        problems.append("its SHA-256 is not that of its manifest, although every table can be read and is equal")
    if problems:
        raise BackupError(*(f"{file} is damaged: {problem}" for problem in problems))
    return manifest


def verify(file: Path, scratch: str | URL) -> VerifiedBackup:
    """Check a backup, restore it into an empty database, and compare that with the manifest.

    Args:
        file: The backup.
        scratch: URL of the empty database, which the caller removes (``backend.db.scratch``).

    Raises:
        BackupError: The backup is damaged, or cannot be restored.
        OSError: A file cannot be read or written.
    """
    manifest = check_file(file)
    restore(file, scratch)
    restored = Database(scratch)
    try:
        migrated = migrate.current_revision(restored) != migrate.head_revision()
        if migrated:
            migrate.upgrade(restored)
        migrated = migrated or bool(manifest and manifest.revision != migrate.head_revision())
        with snapshot(restored) as connection:
            tables = _tables(connection)
    finally:
        restored.dispose()
    if manifest and manifest.tables and not migrated:
        problems = [
            f"{name} has {tables[name].rows} rows in the restored database, which differ from the {entry.rows} of the "
            "manifest"
            for name, entry in manifest.tables.items()
            if tables.get(name) != entry
        ]
        if problems:
            raise BackupError(*problems)
    return VerifiedBackup(manifest, tables, migrated)


def restore(file: Path, target: str | URL) -> None:
    """Restore a backup into an empty database, after ``check_file``. An existing database is never changed.

    On SQLite the restored file has the schema of the backup. On PostgreSQL it has the schema of this version: a copy of
    an earlier backup is migrated first.

    Raises:
        BackupError: The target is not empty, or refuses a row.
        OSError: A file cannot be read or written.
    """
    url = make_url(target)
    if url.get_backend_name() == "sqlite":
        _restore_file(file, Path(url.database or ""))
        return
    database = Database(target)
    try:
        with _at_head(file) as connection:
            copy_rows(connection, database)
    except CopyError as error:
        raise BackupError(str(error)) from error
    finally:
        database.dispose()


def _copy_pages(database: Database, file: Path) -> tuple[str, dict[str, TableEntry] | None]:
    """Copy a SQLite database page by page, in the transaction in which its tables are hashed."""
    with snapshot(database) as reading, closing(sqlite3.connect(file)) as writing:
        revision = migrate.revision_of(reading)
        tables = _tables(reading) if revision == migrate.head_revision() else None
        driver: sqlite3.Connection = reading.connection.driver_connection  # type: ignore[assignment]
        try:
            driver.backup(writing)
        except sqlite3.Error as error:
            raise BackupError(f"the database cannot be copied: {error}") from error
    return revision, tables


def _copy_as_sqlite(database: Database, file: Path) -> dict[str, TableEntry]:
    for companion in _COMPANIONS:  # left by a backup that was killed; SQLite would read it
        file.with_name(file.name + companion).unlink(missing_ok=True)
    copy = Database(URL.create("sqlite", database=str(file)))
    try:
        return {name: TableEntry.of(digest) for name, digest in copy_database(database, copy).items()}
    finally:
        copy.dispose()


def _tables(connection: Connection) -> dict[str, TableEntry]:
    tables = {}
    for table in Base.metadata.sorted_tables:
        try:
            tables[table.name] = TableEntry.of(digest_of(connection, table))
        except _UNREADABLE as error:
            raise BackupError(f"the table {table.name} cannot be read: {_reason(error)}") from error
    return tables


def _table_problems(connection: Connection, expected: dict[str, TableEntry] | None) -> list[str]:
    problems = []
    for table in Base.metadata.sorted_tables:
        try:
            entry = TableEntry.of(digest_of(connection, table))
        except _UNREADABLE as error:
            problems.append(f"the table {table.name} cannot be read: {_reason(error)}")
            continue
        if expected is not None and (wanted := expected.get(table.name)) != entry:
            rows = f"{wanted.rows} rows" if wanted else "no such table"
            problems.append(
                f"the table {table.name} has {entry.rows} rows and another content than the manifest's ({rows})"
            )
    return problems


def _structural_problems(connection: Connection) -> list[str]:
    try:
        found = connection.exec_driver_sql("PRAGMA quick_check(5)").scalars().all()
    except DatabaseError as error:
        return [_reason(error)]
    return [] if found == ["ok"] else [str(line) for line in found]


@contextmanager
def _reading(file: Path) -> Iterator[Connection]:
    """Open a backup without changing it, also one whose end is missing."""
    address = f"file:{quote(os.fsencode(file.absolute()))}?mode=ro&immutable=1"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True)
        # Otherwise SQLite refuses a truncated file as a whole, and the damaged tables could not be named.
        connection.execute("PRAGMA writable_schema=ON").close()
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _at_head(file: Path) -> Iterator[Connection]:
    """Read a backup with the schema of this version: an earlier one is migrated in a copy."""
    with _reading(file) as connection:
        if migrate.revision_of(connection) == migrate.head_revision():
            yield connection
            return
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".migrated-") as folder:
        copy = Path(folder) / "copy.sqlite3"
        shutil.copyfile(file, copy)
        database = Database(URL.create("sqlite", database=str(copy)))
        try:
            migrate.upgrade(database)
            with snapshot(database) as connection:
                yield connection
        finally:
            database.dispose()


def _restore_file(file: Path, target: Path) -> None:
    for path in (target, *(target.with_name(target.name + companion) for companion in _COMPANIONS)):
        if path.exists():
            raise BackupError(f"{path} exists; move it away first, with the files {target.name}-wal and -shm")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target, private=True, sync=True, replace=False) as partial:
        shutil.copyfile(file, partial)


def _reason(error: Exception) -> str:
    text = str(error.orig) if isinstance(error, DatabaseError) else str(error)
    return " ".join(text.split())[:200]
