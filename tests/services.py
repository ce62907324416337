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


class Server:
    """A server process on a port that it keeps: it can be stopped, and started again on the same data.

    Attributes:
        url: by which it is reached.
    """

    def __init__(self, url: str, command: Sequence[str], root: Path, port: int, accepts: Callable[[int], bool]) -> None:
        self.url, self.port = url, port
        self._command, self._root, self._accepts = command, root, accepts
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns once it takes connections; does nothing where it runs."""
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
        """End it by a signal. SIGINT is PostgreSQL's fast shutdown: it does not wait for clients that hold on."""
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
    """A new, empty PostgreSQL server. Raises ServiceMissing."""
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
            "fsync": "off",  # the data need not outlive a power cut
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
    """The URL of a new, empty PostgreSQL server. Raises ServiceMissing."""
    with postgres_server() as server:
        yield server.url


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
def redis_server() -> Iterator[Server]:
    """A new, empty Redis server. Raises ServiceMissing."""
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
    """The URL of a new, empty Redis server. Raises ServiceMissing."""
    with redis_server() as server:
        yield server.url


def _postgres_folder() -> Path | None:
    found = shutil.which("postgres")
    folders = [Path(found).parent] if found else []
    # Debian keeps the server's programs off the PATH, a folder for each version.
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((path for path in folders if (path / "initdb").exists()), None)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _STARTING_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not start within {_STARTING_SECONDS} s")
        time.sleep(0.05)


@contextmanager
def s3(bucket: str = "bucket") -> Iterator[str]:
    """The address of an empty bucket on a server of S3's protocol. What reaches it is in the environment meanwhile."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    own = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/prefix"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
