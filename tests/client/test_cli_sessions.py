"""``dkd login``, ``dkd logout``, ``dkd session`` and ``dkd person password`` against a real backend."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client import ApiError, Client
from client.cli.app import run as dkd
from common.home import Home
from tests import served
from tests.client.captured import stdin_of

SECRET = "a quiet sentence of anna"
Dkd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("DKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DKD_API_TOKEN", raising=False)
    monkeypatch.delenv("DKD_API_TOKEN_FILE", raising=False)
    with served.backend(tmp_path / "backend") as url:
        monkeypatch.setenv("DKD_API_URL", url)
        with Client(url, served.ADMIN_TOKEN) as admin:
            admin.people.create("anna", mail="anna@lab.example")
            admin.projects.set_role("default", "anna", "reader")
        yield url


@pytest.fixture
def call(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dkd:
    def run(*words: str, stdin: str = "", token: str | None = None) -> tuple[int, str, str]:
        """Run a command, as the admin if ``token`` is given; return its code, stdout and stderr."""
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin_of(stdin))
            if token is not None:
                patch.setenv("DKD_API_TOKEN", token)
            code = dkd(words)
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


def test_an_admin_sets_a_password_and_the_person_signs_in(call: Dkd, url: str) -> None:
    assert call("person", "password", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)[0] == 0
    code, out, _ = call("login", "anna", stdin=f"{SECRET}\n")
    assert (code, "signed in as anna" in out) == (0, True)
    file = Home.find().session(url)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with Client() as client:
        assert client.account().person.name == "anna"
    code, out, _ = call("session", "list", "--json")
    (item,) = json.loads(out)["items"]
    assert item["current"] is True
    assert item["client"].startswith("dkd on ")
    assert call("person", "list")[0] == 1, "anna is no admin"
    with Client("http://127.0.0.1:1") as elsewhere:
        assert elsewhere._connection._auth._token is None, "another backend does not get the session"
    assert call("logout") == (0, f"signed out at {url}\n", "")
    assert not file.exists()
    assert call("logout")[0] == 1
    code, _, err = call("session", "list")
    assert code == 1
    assert "`dkd login`" in err


def test_refused_sign_ins(call: Dkd, url: str) -> None:
    call("person", "password", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)
    code, _, err = call("login", "anna", stdin="wrong wrong wrong\n")
    assert code == 1
    assert "the name or the password is wrong" in err
    code, _, err = call("login", "anna", stdin="")
    assert code == 2
    assert "nothing was read from stdin" in err
    assert not Home.find().session(url).exists()
    code, _, err = call("person", "password", "anna", stdin="short\n", token=served.ADMIN_TOKEN)
    assert code == 2
    assert "password: needs at least 12 characters" in err


def test_the_own_password_needs_the_present_one(call: Dkd) -> None:
    call("person", "password", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)
    call("login", "anna", stdin=f"{SECRET}\n")
    assert call("person", "password", "anna", stdin="wrong wrong wrong\nanother sentence\n")[0] == 1
    assert call("person", "password", "anna", stdin=f"{SECRET}\nanother sentence\n")[0] == 0
    assert call("session", "list")[0] == 0, "this session goes on"
    assert call("login", "anna", stdin=f"{SECRET}\n")[0] == 1
    assert call("login", "anna", stdin="another sentence\n")[0] == 0


def test_invitation_and_removal(call: Dkd) -> None:
    code, out, _ = call("person", "password", "anna", "--invite", "--hours", "1", token=served.ADMIN_TOKEN)
    assert code == 0
    assert call("login", "--invitation", stdin=f"{out.strip()}\n{SECRET}\n")[0] == 0
    assert call("login", "--invitation", stdin=f"{out.strip()}\n{SECRET}\n")[0] == 1
    assert call("person", "password", "anna", "--remove", token=served.ADMIN_TOKEN)[0] == 0
    assert call("session", "list")[0] == 1
    assert call("login", "anna", stdin=f"{SECRET}\n")[0] == 1
    code, _, err = call("person", "password", "anna", "--invite", "--hours", "0", token=served.ADMIN_TOKEN)
    assert code == 2
    assert "--hours 0.0: must be more than 0" in err


def test_sessions_are_ended(call: Dkd, url: str) -> None:
    call("person", "password", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)
    call("login", "anna", stdin=f"{SECRET}\n")
    with Client(url, "none") as nobody:
        other = nobody.sessions.sign_in("anna", SECRET)
        third = nobody.sessions.sign_in("anna", SECRET)
    assert call("session", "end", other.id)[1] == f"{other.id}: ended\n"
    assert call("session", "end", "--others")[1] == "1 session ended\n"
    with Client(url, third.token) as client, pytest.raises(ApiError) as refused:
        client.account()
    assert refused.value.status == 401
    assert call("session", "end")[0] == 2
    assert call("session", "end", "--all")[1] == "1 session ended\n"
    assert call("session", "list")[0] == 1


def test_a_token_of_the_environment_is_named(call: Dkd) -> None:
    call("person", "password", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)
    code, _, err = call("login", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)
    assert code == 0
    assert "DKD_API_TOKEN is set, and is used instead" in err


def test_person_signs_in_where_a_session_has_ended_while_a_stranger_keeps_trying(call: Dkd, url: str) -> None:
    call("person", "password", "anna", stdin=f"{SECRET}\n", token=served.ADMIN_TOKEN)
    call("login", "anna", stdin=f"{SECRET}\n")
    with Client() as client:
        client.sessions.end()
    statuses = []
    with Client(url, token="none", use_login=False, patient=False) as stranger:
        for _ in range(6):
            with pytest.raises(ApiError) as refused:
                stranger.sessions.sign_in("anna", "a wrong password")
            statuses.append(refused.value.status)
    assert statuses == [401] * 5 + [429]
    code, out, _ = call("login", "anna", stdin=f"{SECRET}\n")
    assert (code, "signed in as anna" in out) == (0, True)
