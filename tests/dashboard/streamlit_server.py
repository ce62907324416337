"""A Streamlit server with the dashboard, on a private port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from tests.services import free_port

APP = Path(__file__).parents[2] / "dashboard" / "app.py"


@contextmanager
def streamlit_server(backend: str, folder: Path, port: int | None = None, **environment: str) -> Iterator[str]:
    """Run the dashboard, and yield its address. Its whole process group is stopped at the end.

    Args:
        backend: Address of the backend.
        folder: Folder of its log and its home.
        port: The port; a free one by default.
        environment: More environment variables.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1"]
    defaults = {"DKD_API_URL": backend, "DKD_API_TOKEN": "t", "DKD_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | defaults | environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}/{environment.get('STREAMLIT_SERVER_BASE_URL_PATH', '')}".rstrip("/")
    try:
        _until_it_answers(url, process, folder / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            with urlopen(f"{url}/_stcore/health", timeout=2):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(f"Streamlit does not answer: {log.read_text()}")
