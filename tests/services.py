"""Real PostgreSQL, Redis and S3 servers for tests, each on a private port, removed at the end of the block."""

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


class ServiceMissing(Exception):  # noqa: N818 (not an error of the program: a service is not installed)
    """A service is not installed. The message says how to install it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process with a fixed port: it can be stopped, and restarted with the same data.

    Attributes:
        url: URL of the server.
    """

    def __init__(self, url: str, command: Sequence[str], root: Path, port: int, accepts: Callable[[int], bool]) -> None:
        self.url, self.port = url, port
        self._command, self._root, self._accepts = command, root, accepts
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server and wait until it accepts connections; do nothing if it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        log = self._root / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, cwd=self._root)

        def answers() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                text = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._command} ended with {self._process.returncode}: {text}")
            return self._accepts(self.port)

        _wait(answers, self._command[0])

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server by a signal. SIGINT is PostgreSQL's fast shutdown, which does not wait for clients."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Run a new, empty PostgreSQL server.

    Raises:
        ServiceMissing: PostgreSQL is not installed.
    """
    folder = _postgres_folder()
    if folder is None:
        raise ServiceMissing(POSTGRES_MISSING)
    user = _unprivileged()
    with _short_folder() as root:
        if user:
            shutil.chown(root, user)
        data, port = root / "data", free_port()
        initdb: list[str | Path] = [
            folder / "initdb",
            "-D",
            data,
            "-U",
            "dkd",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run(_as(user, initdb), check=True, capture_output=True, cwd=root)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": root,
            "fsync": "off",  # the data need not survive a power failure
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        url = f"postgresql+psycopg://dkd@127.0.0.1:{port}/postgres"
        server = Server(url, _as(user, [folder / "postgres", "-D", data, *options]), root, port, _accepts)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """Run a new, empty PostgreSQL server, and yield its URL.

    Raises:
        ServiceMissing: PostgreSQL is not installed.
    """
    with postgres_server() as server:
        yield server.url


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """Create an empty database on the server, and yield its URL. It is dropped at the end, despite open connections."""
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
def redis_server() -> Iterator[Server]:
    """Run a new, empty Redis server.

    Raises:
        ServiceMissing: Redis is not installed.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise ServiceMissing(REDIS_MISSING)
    with _short_folder() as root:
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        server = Server(f"redis://127.0.0.1:{port}/0", [*command, "--dir", str(root)], root, port, _listens)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def redis() -> Iterator[str]:
    """Run a new, empty Redis server, and yield its URL.

    Raises:
        ServiceMissing: Redis is not installed.
    """
    with redis_server() as server:
        yield server.url


def _postgres_folder() -> Path | None:
    program = shutil.which("postgres")
    folders = [Path(program).parent] if program else []
    # Debian installs the server's programs outside PATH, in one folder per version.
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((path for path in folders if (path / "initdb").exists()), None)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _accepts(port: int) -> bool:
    """Return whether the server accepts a connection. Its port is open earlier."""
    import psycopg

    try:
        psycopg.connect(host="127.0.0.1", port=port, user="dkd", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _unprivileged() -> str | None:
    """Return the account for PostgreSQL, which refuses to run as root; None if this process is not root.

    Raises:
        ServiceMissing: There is no suitable account.
    """
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
    # Not pytest's folder: the path of a Unix socket has at most 107 bytes, and another account must have access.
    root = Path(tempfile.mkdtemp(prefix="dkd-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _STARTING_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not start within {_STARTING_SECONDS} s")
        time.sleep(0.05)


@contextmanager
def s3(bucket: str = "bucket") -> Iterator[str]:
    """Run an S3 server with an empty bucket, and yield its address. The environment has its credentials meanwhile."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/prefix"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
