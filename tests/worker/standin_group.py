"""A fake group process without torch: it runs each run as a process of ``standin.py``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().control)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return 0
        (descriptor,) = descriptors
        threading.Thread(target=_serve, args=[socket.socket(fileno=descriptor)], daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with connection.makefile() as lines:
        arguments = json.loads(lines.readline())
        out = Path(arguments[arguments.index("--out") + 1])
        (out / "group").write_text(str(os.getpid()))
        standin = [sys.executable, str(Path(__file__).with_name("standin.py")), *arguments]
        process = subprocess.Popen(standin, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=_end, args=[process, connection], daemon=True).start()
        for line in lines:
            assert line == "stop\n"
            process.send_signal(signal.SIGTERM)
    process.kill()


def _end(process: subprocess.Popen[str], connection: socket.socket) -> None:
    _, text = process.communicate()
    code = process.returncode if process.returncode >= 0 else 1
    connection.sendall(json.dumps({"code": code, "text": text.strip()}).encode() + b"\n")
    connection.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main())
