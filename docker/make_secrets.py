"""Makes what is secret between the services, once: a second run keeps everything. Needs the standard library alone.

Each folder is a volume of its own, mounted where it is needed and nowhere else. A value that the environment sets is
taken instead of one that would be made; but for the database's password it may also be set later.
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
_SHORTEST = 20  # of what a person chooses: tokens are kept as a fast hash, which only their length protects


class SecretError(ValueError):
    """A value that cannot be used, in a sentence without the value."""


def main(root: Path = ROOT) -> None:
    """Make what is missing. Raises SecretError before anything is written."""
    tokens = {name: _value(root / name / "token", f"DKD_{name.upper()}_TOKEN") for name in TOKENS}
    if len(set(tokens.values())) < len(tokens):
        raise SecretError("two of the tokens are the same; each opens something else, so each is its own")
    database = _kept(root / "database" / "password", "DKD_DATABASE_PASSWORD")
    broker = _value(root / "broker" / "password", "DKD_BROKER_PASSWORD")

    for name, token in tokens.items():
        _write(root / name / "token", token)
    # Read by the servers' own accounts, whose numbers are not ours.
    _write(root / "database" / "password", database, mode=0o444)
    _write(root / "broker" / "password", broker, mode=0o444)
    _write(root / "broker" / "redis.conf", f"requirepass {broker}", mode=0o444)
    _write(root / "database" / "dkd_database_url", f"postgresql://dkd:{quote(database, safe='')}@postgres/dkd")
    _write(root / "broker" / "dkd_broker_url", f"redis://:{quote(broker, safe='')}@redis:6379/0")


def _value(file: Path, variable: str) -> str:
    """As the environment says, else as the file has it, else a new one of 256 random bits."""
    given = os.environ.get(variable, "")
    if not given:
        return _read(file) or f"dkd_{secrets.token_urlsafe(32)}"
    if len(given) < _SHORTEST or not given.isascii() or not given.isprintable() or set(given) & set(" \"'\\"):
        raise SecretError(
            f"{variable} has at least {_SHORTEST} characters, of ASCII and without spaces, quotes and backslashes"
        )
    return given


def _kept(file: Path, variable: str) -> str:
    """Like ``_value``, for what a server has stored and would not hear of a change."""
    before, value = _read(file), _value(file, variable)
    if before and before != value:
        raise SecretError(
            f"{variable} is another than that of the database that is there; change it there first "
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
