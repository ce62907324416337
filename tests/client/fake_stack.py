"""A stack of tiny services in a separate process: ``python -m tests.client.fake_stack HOME KEY=VALUE…``.

It prints "ready API DASHBOARD" once it has started and "stopped" once it has stopped. Keys: port and dashboard_port;
worker, the behaviour of the worker (well, dies, crashes, stubborn); prepare (well, fails); gate, a file without which
the backend does not listen.
"""

from __future__ import annotations

import sys
from pathlib import Path

import httpx

from client.stack import HomeBusyError, Stack, StackError, StackOptions, StackStopRequested, StopSignals
from client.stack.ports import LOOPBACK
from client.stack.services import Service, StackPlan
from common.home import Home

# It responds with the home and the service's name, so that tests can distinguish servers.
_SERVER = """
import http.server, os, sys, time
while sys.argv[2] and not os.path.exists(sys.argv[2]): time.sleep(0.02)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[3].encode())
    def log_message(self, *a): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# A worker has a child in a separate session, like a training.
_WORKERS = {
    "well": """
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
def leave(*_):
    pathlib.Path(sys.argv[1], "handed-back").write_text("yes"); sys.exit(0)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[1], "child").write_text(str(child.pid))
while True: time.sleep(0.05)
""",
    "stubborn": """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
pathlib.Path(sys.argv[1], "child").write_text("0")
while True: time.sleep(0.05)
""",
    "dies": "print('no such module: torch', flush=True); raise SystemExit(3)",
    "crashes": """
import pathlib, sys, time
lives = pathlib.Path(sys.argv[1], "lives")
lives.write_text(lives.read_text() + "." if lives.exists() else ".")
pathlib.Path(sys.argv[1], "child").write_text("0")
# Ends on a file and not after a time, which on a busy machine may pass before the stack has seen it running.
while len(lives.read_text()) > 2 or not pathlib.Path(sys.argv[1], "crash").exists(): time.sleep(0.02)
""",
}


def plan(home: Path, behaviour: dict[str, str]) -> StackPlan:
    python = [sys.executable, "-I", "-S"]

    def server(name: str, port: int, gate: str) -> Service:
        content = f"{home}:{name}"
        command = [*python, "-c", _SERVER, str(port), gate, content]
        return Service(name, command, lambda: _responds(port, content), stop_seconds=5.0, start_seconds=30.0)

    def worker(url: str) -> Service:
        command = [*python, "-c", _WORKERS[behaviour.get("worker", "well")], str(home)]
        return Service("worker", command, (home / "child").exists, stop_seconds=1.0, start_seconds=30.0)

    fails = behaviour.get("prepare") == "fails"
    prepare = "print('the database is newer than this program'); raise SystemExit(1)" if fails else "pass"
    return StackPlan(
        prepare={"migrate": [*python, "-c", prepare]},
        backend=lambda port: server("backend", port, behaviour.get("gate", "")),
        worker=worker,
        dashboard=lambda port: server("dashboard", port, ""),
    )


def main(home: Path, behaviour: dict[str, str]) -> int:
    options = StackOptions(
        home=Home(home),
        port=int(behaviour["port"]),
        dashboard_port=int(behaviour["dashboard_port"]),
        slots=1,
        threads=1,
    )

    def notify(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    with StopSignals() as signals, Stack(options, plan(home, behaviour), signals, notify) as stack:
        try:
            notify("starting")
            stack.start()
            notify(f"ready {stack.api_url} {stack.dashboard_url}")
            stack.wait()
        except StackStopRequested:
            stack.stop()
            notify("stopped")
            return 0
        except (HomeBusyError, StackError) as error:
            notify(f"error {error} {' | '.join(getattr(error, 'lines', []))}")
            return 1
    return 0


def _responds(port: int, content: str) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}", trust_env=False, timeout=5).text == content
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), dict(item.split("=", 1) for item in sys.argv[2:])))
