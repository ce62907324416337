"""supply_chain/advisories.py, with a database of the tests instead of OSV's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from supply_chain.advisories import accepted, main
from tests.services import free_port

ROOT = Path(__file__).parents[2]
LOCK = """\
requests==2.34.2 \\
    --hash=sha256:{0}
idna==3.1 ; python_version >= '3.11' \\
    --hash=sha256:{0}
""".format(64 * "a")
FINDING: dict[str, Any] = {
    "schema_version": "1.6.0",
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-1"],
    "summary": "It can be made to loop.",
    "affected": [
        {
            "package": {"name": "idna", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.7"}]}],
        }
    ],
}


@contextmanager
def database(found: dict[str, list[dict[str, Any]]], status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Serve answers of OSV by the name of the package. Yield the address, and the names that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(question["package"]["name"])
            vulns = found.get(question["package"]["name"])
            body = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    lock, project = tmp_path / "requirements.lock", tmp_path / "pyproject.toml"
    lock.write_text(LOCK)
    project.write_text("")
    return ["--lock", str(lock), "--project", str(project)]


def test_no_finding(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with database({}) as (url, asked):
        assert main([*arguments, "--url", url]) == 0
    assert capsys.readouterr().out == "advisories: 2 packages were checked; 0 findings, 0 accepted.\n"
    assert {"idna", "requests"} <= set(asked)


def test_a_finding_fails_with_its_fix(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with database({"idna": [FINDING]}) as (url, _):
        assert main([*arguments, "--url", url]) == 1
    output = capsys.readouterr().out
    assert "idna 3.1: CVE-2026-1, fixed in 3.7: It can be made to loop." in output
    assert "1 findings, 0 accepted" in output


def test_an_accepted_finding_is_listed_with_its_reason(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(arguments[-1]).write_text(
        '[tool.dkd-lab.accepted-advisories]\nCVE-2026-1 = "not called"\nCVE-2020-2 = "was fixed"\n'
    )
    with database({"idna": [FINDING]}) as (url, _):
        assert main([*arguments, "--url", url]) == 0
    output = capsys.readouterr().out
    assert "It can be made to loop. (accepted: not called)" in output
    assert "CVE-2020-2 is accepted in pyproject.toml, but no locked package has it any more" in output
    assert "0 findings, 1 accepted" in output


def test_a_database_that_is_not_reached_is_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--url", f"http://127.0.0.1:{free_port()}/v1/query"]) == 0
    assert "NOT CHECKED" in capsys.readouterr().out
    with database({}, status=503) as (url, _):
        assert main([*arguments, "--url", url]) == 0
    output = capsys.readouterr().out
    assert "NOT CHECKED" in output
    assert "status 503" in output


def test_a_check_that_does_not_finish_is_no_success(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(arguments[1]).write_text("requests==2.34.2\n")
    with database({}) as (url, _):
        assert main([*arguments, "--url", url]) == 2
    assert "the check failed" in capsys.readouterr().err


def test_accepted_advisories_of_this_repository_have_reasons() -> None:
    for reason in accepted(ROOT / "pyproject.toml").values():
        assert len(reason) > 20
