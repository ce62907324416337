"""Makes the secrets of the Compose services. A second run keeps them. Needs only the standard library.

Each folder is a volume of its own, which is mounted only in the services that need it. A value from the environment is
used instead of a random one. It may also be set later, except for the database's password.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path
from urllib.parse import quote

ROOT = Path("/secrets")
TOKENS = ("admin", "worker", "dashboard")
_MIN_LENGTH = 20  # of chosen tokens: only a fast hash of them is stored, so their length is the protection


class SecretError(ValueError):
    """A value cannot be used; the message does not contain the value."""


def main(root: Path = ROOT) -> None:
    """Make the missing secrets. Raises SecretError before anything is written."""
    tokens = {name: _value(root / name / "token", f"DKD_{name.upper()}_TOKEN") for name in TOKENS}
    if len(set(tokens.values())) < len(tokens):
        raise SecretError("two of the tokens are the same; each must be different, because each has other permissions")
    database = _unchanged(root / "database" / "password", "DKD_DATABASE_PASSWORD")
    broker = _value(root / "broker" / "password", "DKD_BROKER_PASSWORD")

    for name, token in tokens.items():
        _write(root / name / "token", token)
    # The servers read them with accounts of their own, whose ids are not known here.
    _write(root / "database" / "password", database, mode=0o444)
    _write(root / "broker" / "password", broker, mode=0o444)
    _write(root / "broker" / "redis.conf", f"requirepass {broker}", mode=0o444)
    _write(root / "database" / "dkd_database_url", f"postgresql://dkd:{quote(database, safe='')}@postgres/dkd")
    _write(root / "broker" / "dkd_broker_url", f"redis://:{quote(broker, safe='')}@redis:6379/0")


def _value(file: Path, variable: str) -> str:
    """Return the value from the environment, else from the file, else a new one of 256 random bits."""
    value = os.environ.get(variable, "")
    if not value:
        return _read(file) or f"dkd_{secrets.token_urlsafe(32)}"
    if len(value) < _MIN_LENGTH or not value.isascii() or not value.isprintable() or set(value) & set(" \"'\\"):
        raise SecretError(
            f"{variable} needs at least {_MIN_LENGTH} ASCII characters without spaces, quotes and backslashes"
        )
    return value


def _unchanged(file: Path, variable: str) -> str:
    """Like ``_value``, but refuse a change, because a server has stored the value."""
    before, value = _read(file), _value(file, variable)
    if before and before != value:
        raise SecretError(
            f"{variable} differs from the password of the existing database; change it there first "
            "(ALTER ROLE dkd PASSWORD …), then remove the volume database-secret and start again"
        )
    return value


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _write(file: Path, text: str, *, mode: int = stat.S_IRUSR) -> None:
    if _read(file) == text:
        return
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)


if __name__ == "__main__":
    try:
        main()
    except (SecretError, OSError) as error:
        sys.exit(f"secrets: {error}")
