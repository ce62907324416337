"""The client's requests, retries and errors, and how it finds its address and token."""

from __future__ import annotations

import math
import ssl
from typing import Any

import httpx
import pytest

from client import (
    ApiError,
    BackendSilent,
    BackendUnreachable,
    Client,
    ClientSettingsError,
    InsecureConnection,
    NotABackend,
)
from client.connection import Connection
from common.home import Home
from common.http_clients import proxy_for
from tests.client import fakes
from tests.client.fakes import FakeBackend

URL = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("client.connection.time.sleep", waited.append)
    return waited


def make(backend: FakeBackend, token: str | None = None) -> Client:
    return Client(URL, token, transport=backend.transport())


def test_submit_sends_the_spec_and_returns_the_experiment() -> None:
    backend = FakeBackend({"POST /api/v1/experiments": fakes.experiment()})
    experiment = make(backend, "secret").submit(fakes.spec())
    assert experiment.id == "exp-1"
    assert backend.sent() == fakes.spec().model_dump(mode="json")
    assert backend.requests[0].headers["Authorization"] == "Bearer secret"
    assert backend.requests[0].headers["Content-Type"] == "application/json"


def test_submit_is_repeated_with_one_idempotency_key() -> None:
    answers = [httpx.ConnectError("refused"), httpx.Response(503), fakes.experiment()]
    backend = FakeBackend({"POST /api/v1/experiments": answers})
    assert make(backend).submit({"name": "small"}).name == "small"
    keys = {request.headers["Idempotency-Key"] for request in backend.requests}
    assert len(backend.requests) == 3
    assert len(keys) == 1


def test_two_submits_have_two_idempotency_keys() -> None:
    backend = FakeBackend({"POST /api/v1/experiments": fakes.experiment()})
    client = make(backend)
    client.submit({})
    client.submit({})
    assert len({request.headers["Idempotency-Key"] for request in backend.requests}) == 2


def test_a_request_is_tried_three_times() -> None:
    backend = FakeBackend({"GET /api/v1/catalog": httpx.ConnectError("[Errno 111] Connection refused")})
    with pytest.raises(BackendUnreachable, match=f"no backend answers at {URL} \\(connection refused\\)"):
        make(backend).catalog()
    assert len(backend.requests) == 3


def test_a_read_timeout_is_not_repeated() -> None:
    backend = FakeBackend({"GET /api/v1/catalog": httpx.ReadTimeout("timed out")})
    with pytest.raises(BackendSilent, match=f"the backend at {URL} does not answer \\(no response in time\\)"):
        make(backend).catalog()
    assert len(backend.requests) == 1


def test_a_refusal_is_not_repeated() -> None:
    refusal = fakes.problem(422, "invalid", ("methods.1.params.alpha", "must be positive"), ("", "too much"))
    backend = FakeBackend({"POST /api/v1/experiments": refusal})
    with pytest.raises(ApiError) as caught:
        make(backend).submit({})
    assert caught.value.status == 422
    assert caught.value.problem.errors[0].path == "methods.1.params.alpha"
    assert str(caught.value) == "methods.1.params.alpha: must be positive; too much"
    assert len(backend.requests) == 1


def test_retry_after_is_obeyed_up_to_a_limit(no_waiting: list[float]) -> None:
    busy = httpx.Response(503, headers={"Retry-After": "3600"})
    backend = FakeBackend({"GET /api/v1/workers": [busy, httpx.Response(200, json={"items": []})]})
    assert make(backend).workers().items == []
    assert len(no_waiting) == 1
    assert 3 < no_waiting[0] < 7


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_request_above_a_rate_limit_is_repeated_after_the_demanded_time(no_waiting: list[float], method: str) -> None:
    """Nothing was done, so that a request that creates something is repeated too."""
    limited = fakes.problem(429, "too many requests")
    limited.headers["Retry-After"] = "3"
    reply = httpx.Response(200, json={"items": []}) if method == "GET" else fakes.experiment()
    path = "/api/v1/workers" if method == "GET" else "/api/v1/experiments/small/cancel"
    backend = FakeBackend({f"{method} {path}": [limited, limited, reply]})
    client = make(backend)
    client.workers() if method == "GET" else client.experiments.cancel("small")
    assert len(backend.requests) == 3
    assert all(3.0 <= seconds < 4.0 for seconds in no_waiting)


def test_rate_limit_that_lasts_is_an_error_with_its_time(no_waiting: list[float]) -> None:
    limited = fakes.problem(429, "too many requests with this token")
    limited.headers["Retry-After"] = "60"
    backend = FakeBackend({"GET /api/v1/workers": [limited] * 3})
    with pytest.raises(ApiError, match="too many requests with this token") as caught:
        make(backend).workers()
    assert (caught.value.status, caught.value.retry_after) == (429, 60.0)
    assert len(no_waiting) == 2


def test_a_bad_gateway_is_an_api_error() -> None:
    backend = FakeBackend({"GET /api/v1/workers": httpx.Response(502, text="<html>Bad gateway</html>")})
    with pytest.raises(ApiError, match="not available now") as caught:
        make(backend).workers()
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(404, text="<html>"), httpx.Response(200, text="hello"), httpx.Response(200, json={"things": []})],
)
def test_another_program_at_the_address_is_not_a_backend(answer: httpx.Response) -> None:
    backend = FakeBackend({"GET /api/v1/workers": answer})
    with pytest.raises(NotABackend, match="127"):
        make(backend).workers()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(403, html="<html><title>Access\ndenied</title>"), "status 403, a page titled 'Access denied'"),
        (httpx.Response(200, html="<h1>Sign in</h1>"), "status 200, a page for a browser"),
        (httpx.Response(302, headers={"Location": "https://sso"}), "status 302, a redirect to https://sso"),
        (
            httpx.Response(200, text="hello"),
            "its response to GET /api/v1/workers is not a valid WorkerList: Invalid JSON",
        ),
        (httpx.DecodingError("Error -3"), "its response cannot be read: Error -3"),
    ],
)
def test_responses_that_are_not_the_backends_are_described(answer: Any, message: str) -> None:
    with pytest.raises(NotABackend) as caught:
        make(FakeBackend({"GET /api/v1/workers": answer})).workers()
    assert message in str(caught.value)


def test_an_html_page_is_not_returned_as_text() -> None:
    page = httpx.Response(200, html="<title>Sign in</title>")
    with pytest.raises(NotABackend, match="a page titled 'Sign in'"):
        make(FakeBackend({"GET /api/v1/exports/experiment": page})).experiment_csv("x")


def test_a_refused_certificate_is_an_insecure_connection() -> None:
    broken = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]")
    broken.__cause__ = ssl.SSLCertVerificationError()
    broken.__cause__.verify_message = "self-signed certificate"
    with pytest.raises(InsecureConnection, match="its certificate is not accepted: self-signed certificate"):
        make(FakeBackend({"GET /api/v1/workers": broken})).workers()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks4://127.0.0.1:9", "ftp://x", "http://", "nonsense:"])
def test_proxies_are_not_used_for_excepted_addresses(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    for excepted in ("192.0.2.7", "example.org, 192.0.2.0/24", "*", "192.0.2.7:9"):
        monkeypatch.setenv("NO_PROXY", excepted)
        Client("http://192.0.2.7:9").close()
    monkeypatch.setenv("NO_PROXY", "")
    for url in ("http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"):
        Client(url).close()


@pytest.mark.parametrize(
    ("name", "proxy", "message"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY names a SOCKS proxy"),
        ("all_proxy", "socks4://127.0.0.1:9", "all_proxy has the unsupported scheme 'socks4'"),
        ("http_proxy", "ftp://x", "http_proxy has the unsupported scheme 'ftp'"),
        ("HTTP_PROXY", "http://", "HTTP_PROXY has no host"),
    ],
)
def test_an_unusable_proxy_is_named(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, message: str) -> None:
    monkeypatch.setattr("common.http_clients.find_spec", lambda _: None)
    monkeypatch.setenv(name, proxy)
    with pytest.raises(ClientSettingsError, match=message) as caught:
        Client("http://192.0.2.7:9")
    assert "or name 192.0.2.7 in NO_PROXY" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "listed", "excepted"),
    [
        ("http://a.example.com", "example.com", True),
        ("http://example.com", ".example.com", True),
        ("http://badexample.com", "example.com", False),
        ("http://a.example.com", "*.EXAMPLE.com", True),
        ("http://a.com:8000", "a.com:8000", True),
        ("http://a.com", "a.com:8000", False),
        ("http://10.1.2.3", "11.0.0.0/8 10.0.0.0/8", True),
        ("http://[fd00::5]", "fd00::/8", True),
        ("http://[fd00::5]:80", "[fd00::5]:80", True),
        ("http://a.com", "", False),
    ],
)
def test_no_proxy_patterns(monkeypatch: pytest.MonkeyPatch, url: str, listed: str, excepted: bool) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("NO_PROXY", listed)
    proxy = proxy_for(url)
    assert (proxy is None) is excepted
    assert excepted or str(proxy) == "http://proxy:3128 (HTTP_PROXY)"


def test_certificates_are_read_only_for_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    Client("http://192.0.2.7:9").close()
    with pytest.raises(ClientSettingsError, match="SSL_CERT_FILE names /nowhere: No such file or directory"):
        Client("https://192.0.2.7:9")


def test_names_are_escaped_in_paths() -> None:
    backend = FakeBackend({"GET /api/v1/experiments/a/b ?c": fakes.experiment()})
    make(backend).experiment("a/b ?c")
    assert backend.requests[0].url.raw_path == b"/api/v1/experiments/a%2Fb%20%3Fc"


def test_lists_are_sent_as_repeated_query_parameters() -> None:
    backend = FakeBackend({"GET /api/v1/runs": fakes.page(fakes.run_summary())})
    page = make(backend).runs(state=["running", "queued"], experiment="small", limit=7)
    assert [item.id for item in page.items] == ["run-1"]
    query = backend.requests[0].url.params
    assert query.get_list("state") == ["running", "queued"]
    assert set(query) == {"state", "experiment", "limit"}


def test_metrics_keep_nan_and_infinity() -> None:
    series = {"name": "train/loss", "step": [1, 2], "epoch": [0, 1], "elapsed": [0, 1], "value": ["NaN", "Infinity"]}
    body = {"run_id": "r", "state": "running", "cursor": 2, "series": [series]}
    reply = make(FakeBackend({"GET /api/v1/runs/r/metrics": body})).metrics("r", names=["train/loss"], since=0)
    assert math.isnan(reply.series[0].value[0])
    assert math.isinf(reply.series[0].value[1])


def test_unknown_fields_of_a_reply_are_ignored() -> None:
    body: dict[str, Any] = {"items": [], "next_cursor": None, "total": 3}
    assert make(FakeBackend({"GET /api/v1/experiments": body})).experiments().items == []


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_cancel_and_retry_are_repeated_after_a_lost_connection(verb: str) -> None:
    backend = FakeBackend({f"POST /api/v1/runs/r/{verb}": [httpx.ReadError("reset"), fakes.run()]})
    client = make(backend)
    assert getattr(client, verb)("r").id == "run-1"
    assert len(backend.requests) == 2


def test_comparison_sends_its_arguments() -> None:
    backend = FakeBackend({"GET /api/v1/comparisons": fakes.comparison()})
    assert make(backend).comparison("small", baseline="kd").paired[0].mean_difference == 1.25
    query = backend.requests[0].url.params
    assert (query["experiment"], query["baseline"]) == ("small", "kd")
    assert "metric" not in query, "the backend knows the metric by which the task is judged"


def test_ready_never_raises() -> None:
    assert make(FakeBackend({"GET /readyz": {"status": "ok"}})).ready()
    assert not make(FakeBackend({"GET /readyz": fakes.problem(503, "not yet")})).ready()
    assert not make(FakeBackend({"GET /readyz": httpx.ConnectError("refused")})).ready()


def test_events_are_read_from_a_stream() -> None:
    text = ': hello\nid: 7\nevent: metrics\ndata: {"a":\ndata: 1}\n\nevent: state\ndata: {}\n\ndata: cut off'
    backend = FakeBackend(
        {"GET /api/v1/runs/r/events": httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})}
    )
    events = list(make(backend).events("r", last_event_id="6"))
    assert [(item.id, item.event, item.data) for item in events] == [
        ("7", "metrics", '{"a":\n1}'),
        ("7", "state", "{}"),
    ]
    assert backend.requests[0].headers["Last-Event-ID"] == "6"


def test_events_of_a_missing_run_are_refused() -> None:
    with pytest.raises(ApiError) as caught:
        list(make(FakeBackend()).events("none"))
    assert caught.value.status == 404


def test_the_stack_of_this_home_is_the_default(home: Home) -> None:
    home.admin_token.parent.mkdir(parents=True)
    home.admin_token.write_text("from-home\n")
    home.api_url.write_text("http://127.0.0.1:8123\n")
    backend = FakeBackend({"GET /api/v1/workers": {"items": []}})
    client = Client(transport=backend.transport())
    client.workers()
    assert client.url == "http://127.0.0.1:8123"
    assert backend.requests[0].headers["Authorization"] == "Bearer from-home"


def test_the_environment_has_precedence_over_the_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.admin_token.parent.mkdir(parents=True)
    home.admin_token.write_text("from-home")
    (home.path / "given").write_text("from-file")
    monkeypatch.setenv("DKD_API_URL", "http://localhost:1/")
    monkeypatch.setenv("DKD_API_TOKEN_FILE", str(home.path / "given"))
    backend = FakeBackend({"GET /api/v1/workers": {"items": []}})
    client = Client(transport=backend.transport())
    client.workers()
    assert client.url == "http://localhost:1"
    assert backend.requests[-1].headers["Authorization"] == "Bearer from-file"
    monkeypatch.setenv("DKD_API_TOKEN", "from-variable")
    Client(transport=backend.transport()).workers()
    assert backend.requests[-1].headers["Authorization"] == "Bearer from-variable"


def test_the_local_token_is_not_sent_to_other_machines(home: Home) -> None:
    home.admin_token.parent.mkdir(parents=True)
    home.admin_token.write_text("from-home")
    backend = FakeBackend({"GET /api/v1/workers": {"items": []}})
    Client("http://example.org", transport=backend.transport()).workers()
    assert "Authorization" not in backend.requests[0].headers


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port"])
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(ClientSettingsError):
        Client(url)


def test_a_missing_token_file_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_API_TOKEN_FILE", str(home.path / "none"))
    with pytest.raises(ClientSettingsError, match="DKD_API_TOKEN_FILE"):
        Client(URL)


def test_proxies_are_not_used_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:2")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    connection = Connection("http://127.0.0.1:1", lambda: None, timeout=1)
    assert connection.probe_status("/readyz") is None
    with pytest.raises(BackendUnreachable, match="connection refused"):
        Client("http://127.0.0.1:1").workers()
