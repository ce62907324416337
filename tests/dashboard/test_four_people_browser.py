"""Four people with different roles in one lab, each in a browser of their own: what each sees, may do, and is refused.

A real backend and a real dashboard with the login mode ``password``; what a person does is checked in the backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from client import ApiError, Client
from tests import browser, served
from tests.backend.lab import plain
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]
SECRETS = {
    "ada": "the admin of this lab, ada",
    "sam": "sam submits experiments",
    "rea": "rea reads and nothing else",
    "stan": "stan is a stranger here",
}


@dataclass
class People:
    """The lab.

    Attributes:
        admin: A client with all rights.
        url: Address of the dashboard.
        backend: Address of the backend.
        chromium: The browser, with a context for each person.
        experiment: Id of an experiment in the project ``vision``.
        run: Id of its run.
    """

    admin: Client
    url: str
    backend: str
    chromium: Browser
    experiment: str
    run: str

    def context(self, **options: Any) -> BrowserContext:
        made = self.chromium.new_context(base_url=self.url, **options)
        made.set_default_timeout(90_000)
        return made

    def signed_in(self, name: str, page: str = "/") -> Page:
        opened = self.context().new_page()
        opened.goto(page)
        sign_in(opened, name, SECRETS[name])
        opened.wait_for_selector('[data-testid="stApp"] h1')
        browser.wait_until_idle(opened)
        return opened


def sign_in(page: Page, name: str, secret: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(secret)
    page.get_by_label("Password").press("Enter")


def session_cookies(page: Page) -> list[Any]:
    return [item for item in page.context.cookies() if re.fullmatch(r"dkd-dashboard-\d+", item.get("name", ""))]


def open_page(page: Page, path: str) -> str:
    """Open a page, and return its text."""
    page.goto(path)
    page.wait_for_selector('[data-testid="stApp"] h1')
    browser.wait_until_idle(page)
    return page.locator("body").inner_text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("people")
    with ExitStack() as stack:
        # The dashboard names the browser's address; on this machine it is the dashboard's own.
        backend = stack.enter_context(served.backend(folder / "backend", trusted_proxies="127.0.0.1"))
        admin = stack.enter_context(Client(backend, served.ADMIN_TOKEN))
        for project in ("vision", "language"):
            admin.projects.create(project)
        admin.people.create("ada", mail="ada@lab.example", admin=True)
        for name in ("sam", "rea", "stan"):
            admin.people.create(name, mail=f"{name}@lab.example")
        admin.projects.set_role("vision", "sam", "submitter")
        admin.projects.set_role("vision", "rea", "reader")
        admin.projects.set_role("language", "stan", "submitter")
        for name, secret in SECRETS.items():
            admin.people.set_password(name, secret)
        made = admin.submit(plain("vision-baseline"), project="vision")
        (folder / "dashboard").mkdir()
        url = stack.enter_context(
            streamlit_server(backend, folder / "dashboard", DKD_DASHBOARD_LOGIN="password", DKD_API_TOKEN="unused")
        )
        chromium = stack.enter_context(browser.browser())
        yield People(admin, url, backend, chromium, made.id, made.runs[0].id)


def test_nothing_is_shown_without_a_session(lab: People) -> None:
    context = lab.context()
    for path in ("/", "/runs", "/_stcore/host-config", "/static/x.js", f"/experiment?id={lab.experiment}"):
        answer = context.request.get(path)
        assert answer.status == 401, path
        assert "vision-baseline" not in answer.text()
        assert "content-security-policy" in answer.headers
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"/experiment?id={lab.experiment}")
    page.get_by_role("heading", name="Sign in").wait_for()
    sign_in(page, "rea", "wrong, and long enough")
    assert page.get_by_role("alert").inner_text() == "The name or the password is wrong."
    assert page.get_by_label("Name").input_value() == "rea"
    sign_in(page, "nobody", SECRETS["rea"])
    assert page.get_by_role("alert").inner_text() == "The name or the password is wrong."
    assert not [text for text in errors if "Content Security Policy" in text], errors
    sign_in(page, "rea", SECRETS["rea"])
    page.get_by_role("heading", name="vision-baseline").wait_for()  # the link keeps its target
    device, session = sorted(context.cookies(), key=lambda item: -len(item["name"]))[:2]
    for cookie in (device, session):
        assert cookie["name"].startswith("dkd-dashboard-")
        assert cookie["httpOnly"] is True
        assert cookie["sameSite"] == "Strict"
        assert cookie["value"] not in page.evaluate("() => document.cookie + document.documentElement.outerHTML")
    assert device["name"] == f"{session['name']}-device"
    context.close()


def test_reader_sees_the_project_and_changes_nothing(lab: People) -> None:
    page = lab.signed_in("rea")
    assert "1 experiment" in open_page(page, "/runs?view=Experiments")  # its name is drawn on a canvas
    account = open_page(page, "/account")
    assert "rea@lab.example" in account
    assert page.get_by_role("link", name="People and projects").count() == 0
    open_page(page, f"/run?id={lab.run}")
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    confirm = page.get_by_role("button", name=re.compile("^(Cancel this run|Cancel the run|Yes.*)$"))
    if confirm.count():
        confirm.first.click()
    page.get_by_text("needs the role submitter").first.wait_for()
    assert lab.admin.run(lab.run).state == "queued"
    refused = open_page(page, "/people")
    assert "needs the token of an admin" in refused
    page.context.close()


def test_submitter_acts_under_the_own_name(lab: People) -> None:
    page = lab.signed_in("sam")
    open_page(page, f"/experiment?id={lab.experiment}")
    token = session_cookies(page)[0]["value"]
    with Client(lab.backend, token) as client:
        mine = client.submit(plain("by-sam"), project="vision")
        assert mine.submitted_by == "sam"
        with pytest.raises(ApiError) as refused:
            client.submit(plain("elsewhere"), project="language")
        assert refused.value.status == 404
    open_page(page, f"/run?id={mine.runs[0].id}")
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    page.get_by_text(re.compile("cancelled", re.I)).first.wait_for()
    assert lab.admin.run(mine.runs[0].id).state == "cancelled"
    last = lab.admin.audit.list(action="runs.cancel").items[0]
    assert (last.person, last.status) == ("sam", 200)
    page.context.close()


def test_stranger_finds_nothing(lab: People) -> None:
    page = lab.signed_in("stan")
    listed = open_page(page, "/runs?view=Experiments")
    assert "1 experiment" not in listed
    assert "vision" not in listed
    assert "There is no experiment" in open_page(page, f"/experiment?id={lab.experiment}")
    assert "There is no run" in open_page(page, f"/run?id={lab.run}")
    assert "vision" not in open_page(page, "/account")
    page.context.close()


def test_admin_invites_a_person_who_then_signs_in(lab: People) -> None:
    lab.admin.people.create("ivy")
    page = lab.signed_in("ada", "/people")
    open_page(page, "/people")
    page.get_by_role("button", name="Change a person").click()
    page.get_by_test_id("stPopoverBody").get_by_role("combobox").click()
    page.get_by_role("option", name="ivy").click()
    page.get_by_role("button", name="Invite to choose a password").click()
    page.get_by_text("Give ivy this link").wait_for()
    link = page.locator("code", has_text="/invitation?code=").first.inner_text().strip()
    guest = lab.context().new_page()
    guest.goto(link)
    guest.get_by_label("New password").fill("a sentence of ivy")
    guest.get_by_label("The same again").fill("another sentence of ivy")
    guest.get_by_role("button", name="Set password and sign in").click()
    guest.get_by_text("The two passwords differ.").wait_for()
    guest.get_by_label("New password").fill("a sentence of ivy")
    guest.get_by_label("The same again").fill("a sentence of ivy")
    guest.get_by_role("button", name="Set password and sign in").click()
    guest.get_by_role("heading", name="Overview").wait_for()
    assert lab.admin.people.get("ivy").has_password
    again = lab.context().new_page()
    again.goto(link)
    again.get_by_label("New password").fill("a sentence of eve")
    again.get_by_label("The same again").fill("a sentence of eve")
    again.get_by_role("button", name="Set password and sign in").click()
    again.get_by_text("This link was used, or has ended.").wait_for()
    for opened in (page, guest, again):
        opened.context.close()


def test_own_account_password_and_sessions(lab: People) -> None:
    lab.admin.people.create("pia")
    lab.admin.people.set_password("pia", "the first sentence of pia")
    SECRETS["pia"] = "the first sentence of pia"
    first, second = lab.signed_in("pia"), lab.signed_in("pia")
    open_page(first, "/account")
    first.get_by_label("Present password").fill("the first sentence of pia")
    first.get_by_label("New password", exact=True).fill("the second sentence of pia")
    first.get_by_label("New password again").fill("the second sentence of pia")
    first.get_by_role("button", name="Change the password").click()
    first.get_by_text("The password was changed. 1 other session ended.").wait_for()
    SECRETS["pia"] = "the second sentence of pia"
    # An open page of an ended session is closed within seconds, and shows the sign-in page when it is loaded again.
    second.wait_for_timeout(8000)
    second.goto("/account")
    second.get_by_role("heading", name="Sign in").wait_for()
    sign_in(second, "pia", SECRETS["pia"])
    second.get_by_role("heading", name="Your account").wait_for()
    open_page(first, "/account")
    first.get_by_role("button", name="Sign out everywhere", exact=True).click()
    first.get_by_text(re.compile("You have signed out|Your session has ended")).wait_for()
    second.wait_for_timeout(6000)
    second.goto("/runs")
    second.get_by_role("heading", name="Sign in").wait_for()
    for opened in (first, second):
        opened.context.close()


def test_sign_out_and_too_many_failures(lab: People) -> None:
    page = lab.signed_in("rea")
    token = session_cookies(page)[0]["value"]
    page.goto("/end-session")
    page.get_by_text("You have signed out.").wait_for()
    assert not session_cookies(page)
    with Client(lab.backend, token) as client, pytest.raises(ApiError) as refused:
        client.account()
    assert refused.value.status == 401
    for _ in range(6):
        page.goto("/sign-in")
        sign_in(page, "rea", "wrong, and long enough")
        text = page.get_by_role("alert").inner_text()
    assert re.search(r"too many failed attempts. Try again in \d+ seconds", text)
    page.context.close()


def test_sign_in_form_of_another_site_is_refused(lab: People) -> None:
    context = lab.context()
    form: dict[str, str | float | bool] = {"person": "rea", "password": SECRETS["rea"], "page": "//evil.example/"}
    foreign = context.request.post("/sign-in", form=form, headers={"Origin": "http://evil.example"})
    assert foreign.status == 403
    own = context.request.post("/sign-in", form=form | {"person": "stan", "password": SECRETS["stan"]}, max_redirects=0)
    assert own.status == 303
    assert own.headers["location"] == "/evil.example/"
    context.close()
