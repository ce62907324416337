"""Real PostgreSQL and Redis for tests, each on a private port in a folder of its own, gone when the block ends."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

POSTGRES_MISSING = "PostgreSQL is not installed: apt-get install postgresql"
REDIS_MISSING = "Redis is not installed: apt-get install redis-server"

_STARTING_SECONDS = 60


class ServiceMissing(Exception):  # noqa: N818 (not an error of the program: the machine lacks something)
    """What is to be installed, for ``pytest.skip``."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new, empty PostgreSQL server. Raises ServiceMissing."""
    folder = _postgres_folder()
    if folder is None:
        raise ServiceMissing(POSTGRES_MISSING)
    user = _unprivileged()
    with _short_folder() as root:
        if user:
            shutil.chown(root, user)
        data, port = root / "data", free_port()
        initdb = [folder / "initdb", "-D", data, "-U", "dkd", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(_as(user, initdb), check=True, capture_output=True, cwd=root)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": root,
            "fsync": "off",  # the data need not outlive a power cut
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with _running(_as(user, [folder / "postgres", "-D", data, *options]), root, port):
            _wait(lambda: _accepts(port), "PostgreSQL")
            yield f"postgresql+psycopg://dkd@127.0.0.1:{port}/postgres"


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """The URL of a new, empty database on that server; dropped at the end, whoever is still connected."""
    from sqlalchemy import create_engine, make_url, text

    name = f"test_{secrets.token_hex(6)}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a new, empty Redis server. Raises ServiceMissing."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise ServiceMissing(REDIS_MISSING)
    with _short_folder() as root:
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with _running([*command, "--dir", str(root)], root, port):
            yield f"redis://127.0.0.1:{port}/0"


def _postgres_folder() -> Path | None:
    found = shutil.which("postgres")
    folders = [Path(found).parent] if found else []
    # Debian keeps the server's programs off the PATH, a folder for each version.
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((path for path in folders if (path / "initdb").exists()), None)


def _accepts(port: int) -> bool:
    """The port opens before the server takes connections."""
    import psycopg

    try:
        psycopg.connect(host="127.0.0.1", port=port, user="dkd", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _unprivileged() -> str | None:
    """PostgreSQL refuses to run as root: the account to run it as, or None where we are not root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServiceMissing("PostgreSQL does not run as root, and this machine has no account 'postgres'")


def _as(user: str | None, command: Sequence[str | Path]) -> list[str]:
    prefix = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
    return [*prefix, *map(str, command)]


@contextmanager
def _short_folder() -> Iterator[Path]:
    # Not pytest's folder: the path of a Unix socket has at most 107 bytes, and another account must be able to enter.
    root = Path(tempfile.mkdtemp(prefix="dkd-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _running(command: list[str], root: Path, port: int) -> Iterator[None]:
    log = root / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=root)

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        _wait(answers, command[0])
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: it does not wait for clients that hold on
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _STARTING_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not start within {_STARTING_SECONDS} s")
        time.sleep(0.05)
