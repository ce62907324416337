"""``dkd mcp`` with a real backend: a scripted client calls every tool over both transports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import Client
from tests import served
from tests.backend.lab import plain, spec
from tests.services import free_port

anyio = pytest.importorskip("anyio")
pytest.importorskip("mcp")
import httpx2  # noqa: E402 (both need the extra agents)
import mcp  # noqa: E402
from mcp.client.stdio import StdioServerParameters  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402

ROOT = Path(__file__).parents[2]
TOOLS = {"catalog", "preview", "submit", "wait", "status", "logs", "compare", "claims", "table", "cancel"}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with served.backend(tmp_path) as url:
        yield url


def _environment(url: str, home: Path, token: str = "") -> dict[str, str]:
    return {"DKD_API_URL": url, "DKD_HOME": str(home), "PYTHONPATH": str(ROOT)} | (
        {"DKD_API_TOKEN": token} if token else {}
    )


@contextmanager
def _http_server(url: str, home: Path) -> Iterator[str]:
    """Serve the tools over HTTP with the admin's token in the environment, which no caller may get."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "client.cli", "mcp", "--http", "--port", str(port)],
        env=os.environ | _environment(url, home, served.ADMIN_TOKEN),
        cwd=ROOT,
    )
    address = f"http://127.0.0.1:{port}/mcp"
    try:
        while True:
            assert process.poll() is None
            try:
                httpx.get(address)
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        assert process.wait(20) is not None


def _over_stdio(url: str, home: Path, script: Callable[[mcp.Client], Awaitable[None]], token: str) -> None:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "client.cli", "mcp"], env=_environment(url, home, token), cwd=ROOT
    )

    async def main() -> None:
        async with mcp.Client(parameters) as client:
            await script(client)

    anyio.run(main)


def _over_http(address: str, script: Callable[[mcp.Client], Awaitable[None]], token: str, mode: str = "auto") -> None:
    async def main() -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            mcp.Client(streamable_http_client(address, http_client=http), mode=mode) as client,
        ):
            await script(client)

    anyio.run(main)


async def _call(client: mcp.Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content
    assert answer is not None
    return answer


async def _refusal(client: mcp.Client, tool: str, /, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    return "".join(block.text for block in result.content if block.type == "text")


async def _every_tool(client: mcp.Client) -> None:
    tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == TOOLS
    assert all(tool.description and tool.input_schema["type"] == "object" and tool.output_schema for tool in tools)
    assert {tool.name for tool in tools if not (tool.annotations and tool.annotations.read_only_hint)} == {
        "submit",
        "cancel",
    }
    assert client.instructions
    assert "keep" in client.instructions

    listing = await _call(client, "catalog", part="methods", search="dkd")
    assert "dkd" in [entry["name"] for entry in listing["entries"]]
    entry = await _call(client, "catalog", part="methods", name="dkd")
    assert "beta" in entry["entry"]["params"]["properties"]
    assert "no 'dkkd' in methods" in await _refusal(client, "catalog", part="methods", name="dkkd")

    preview = await _call(client, "preview", spec=spec("mine"))
    assert (preview["new_runs"], preview["methods"]) == (3, ["dkd", "kd"])
    assert "training.epochs" in await _refusal(client, "preview", spec=spec("mine", training={"epochs": 0}))

    created = await _call(client, "submit", spec=spec("mine"), key="once")
    again = await _call(client, "submit", spec=spec("mine"), key="once")
    assert created["id"] == again["id"]
    shares: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        shares.append(progress)

    result = await client.call_tool("wait", {"target": "mine", "seconds": 60}, progress_callback=report)
    status = result.structured_content
    assert status is not None
    assert (status["ended"], status["counts"]) == (True, {"succeeded": 3})
    assert shares[-1] == 1.0

    run = next(run for run in status["runs"] if run["label"] == "kd")
    assert (await _call(client, "status", target=run["id"]))["kind"] == "run"
    assert [item["name"] for item in (await _call(client, "status"))["experiments"]] == ["mine"]
    assert "a stand-in trains nothing" in (await _call(client, "logs", run=run["id"], lines=5))["lines"][0]

    comparison = await _call(client, "compare", experiments=["mine"])
    (pair,) = comparison["pairs"]
    assert pair["decision"] == "not supported"
    assert pair["referee"].startswith("Keep dkd: the seeds do not support kd over it.")
    assert [method["n"] for method in comparison["methods"]] == [1, 1]
    claims = await _call(client, "claims", experiments=["mine"])
    assert all(claim["referee"].startswith(claim["verdict"]) for claim in claims["claims"])
    table = await _call(client, "table", experiments=["mine"])
    assert "keep the baselines" in table["referee"]
    assert "no method 'other'" in await _refusal(client, "compare", experiments=["mine"], baseline="other")
    assert "no run and no experiment" in await _refusal(client, "cancel", target="nothing")


async def _cancels(client: mcp.Client) -> None:
    await _call(client, "submit", spec=plain("waiting", runs=2))
    assert not (await _call(client, "wait", target="waiting", seconds=1))["ended"]
    cancelled = await _call(client, "cancel", target="waiting")
    assert (cancelled["state"], cancelled["counts"]) == ("cancelled", {"cancelled": 2})
    status = await _call(client, "wait", target="waiting", seconds=5)
    assert status["ended"]


def test_every_tool_over_stdio(url: str, tmp_path: Path) -> None:
    with served.worker(url, tmp_path):
        _over_stdio(url, tmp_path, _every_tool, served.ADMIN_TOKEN)
    _over_stdio(url, tmp_path, _cancels, served.ADMIN_TOKEN)


def test_every_tool_over_http(url: str, tmp_path: Path) -> None:
    with _http_server(url, tmp_path) as address:
        with served.worker(url, tmp_path):
            _over_http(address, _every_tool, served.ADMIN_TOKEN)
        # A client of the protocol's versions that begin with a handshake.
        _over_http(address, _cancels, served.ADMIN_TOKEN, "legacy")


def test_the_callers_token_decides_over_http(url: str, tmp_path: Path) -> None:
    with Client(url, served.ADMIN_TOKEN) as admin:
        reader = admin.tokens.create("reader", ["read"]).token

    async def script(client: mcp.Client) -> None:
        assert (await _call(client, "status"))["kind"] == "lab"
        assert "does not have the scope submit" in await _refusal(client, "submit", spec=spec())

    async def unknown(client: mcp.Client) -> None:
        assert "this token is unknown" in await _refusal(client, "status")

    with _http_server(url, tmp_path) as address:
        _over_http(address, script, reader)
        _over_http(address, unknown, "dkd_no_such_token")
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"Accept": "application/json, text/event-stream"}
        assert httpx.post(address, json=request, headers=accept).status_code == 401
        strange = accept | {"Authorization": f"Bearer {reader}", "Origin": "http://evil.example"}
        assert httpx.post(address, json=request, headers=strange).status_code == 403
        foreign = accept | {"Authorization": f"Bearer {reader}", "Host": "evil.example"}
        assert httpx.post(address, json=request, headers=foreign).status_code == 421
