"""The pages of the login mode ``password`` that are shown without a session: plain HTML, without scripts."""

from __future__ import annotations

from dashboard.markup import html

SIGN_IN_PATH = "sign-in"
INVITATION_PATH = "invitation"

# The referrer is the page's own, because with the policy no-referrer a browser sends "Origin: null" with a form.
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · DKD Lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="same-origin">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 "Source Sans", sans-serif; margin: 0; padding: 10vh 1rem 2rem; background: #FFFFFF;
  color: #2F2D2B; }}
main {{ max-width: 24rem; margin: 0 auto; }}
h1 {{ font-size: 2rem; line-height: 1.2; margin: 0 0 1.5rem; }}
label {{ display: block; margin: 0 0 0.25rem; }}
input {{ box-sizing: border-box; width: 100%; margin: 0 0 1rem; padding: 0.55rem 0.65rem; font: inherit;
  color: inherit; background: Canvas; border: 1px solid #8A8680; border-radius: 0.4rem; }}
button {{ font: inherit; padding: 0.5rem 1.2rem; border: 1px solid #1F5FA8; border-radius: 0.4rem;
  background: #1F5FA8; color: #FFFFFF; cursor: pointer; }}
input:focus-visible, button:focus-visible, a:focus-visible {{ outline: 3px solid #6FA8E8; outline-offset: 1px; }}
[role=alert], [role=status] {{ margin: 0 0 1rem; padding: 0.6rem 0.8rem; border-radius: 0.4rem; }}
[role=alert] {{ background: #FBE9E7; color: #7A1B10; }}
[role=status] {{ background: #E8F0FA; color: #173F6E; }}
p.note {{ margin: 1.5rem 0 0; font-size: 0.9rem; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #171614; color: #EDEBE8; }}
  [role=alert] {{ background: #4A1C16; color: #FFD9D3; }}
  [role=status] {{ background: #17304D; color: #D6E6FA; }}
}}
</style></head>
<body><main><h1>{title}</h1>{message}{content}</main></body></html>"""
_SIGN_IN = """<form method="post" action="{root}sign-in">
<input type="hidden" name="page" value="{page}">
<label for="person">Name</label>
<input id="person" name="person" value="{person}" autocomplete="username" autocapitalize="none" spellcheck="false"
  maxlength="60" required{focus_name}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="256"
  required{focus_password}>
<button type="submit">Sign in</button>
</form><p class="note">An admin of this DKD Lab gives you a link with which you choose a password, also if you have
forgotten yours.</p>"""
_INVITATION = """<form method="post" action="{root}invitation">
<input type="hidden" name="code" value="{code}">
<label for="password">New password</label>
<input id="password" name="password" type="password" autocomplete="new-password" minlength="12" maxlength="256"
  required autofocus>
<label for="again">The same again</label>
<input id="again" name="again" type="password" autocomplete="new-password" minlength="12" maxlength="256" required>
<button type="submit">Set password and sign in</button>
</form><p class="note">At least 12 characters, such as a sentence. The link works once.</p>"""
_AGAIN = '<meta http-equiv="refresh" content="0"><p><a href="">Open the dashboard</a></p>'


def sign_in(root: str, page: str, *, person: str = "", error: str = "", note: str = "") -> str:
    """Return the sign-in page.

    Args:
        root: Path of the dashboard.
        page: Path and query of the page to open afterwards, below the root.
        person: The name that was entered before.
        error: Why a sign-in was refused.
        note: What has happened, such as a sign-out.
    """
    content = _SIGN_IN.format(
        root=html(root),
        page=html(page),
        person=html(person),
        focus_name="" if person else " autofocus",
        focus_password=" autofocus" if person else "",
    )
    return _PAGE.format(title="Sign in", message=_message(error, note), content=content)


def invitation(root: str, code: str, *, error: str = "") -> str:
    """Return the page on which an invited person chooses a password."""
    content = _INVITATION.format(root=html(root), code=html(code))
    return _PAGE.format(title="Choose a password", message=_message(error, ""), content=content)


def opened_from_elsewhere() -> str:
    """Return a page that requests itself again: browsers send no cookie with the first request of a foreign link."""
    return _PAGE.format(title="DKD Lab", message="", content=_AGAIN)


def unavailable() -> str:
    """Return the page for a backend that does not answer."""
    message = _message("The backend does not answer, so nobody can sign in now. Try again in a minute.", "")
    return _PAGE.format(title="DKD Lab", message=message, content='<p><a href="">Try again</a></p>')


def _message(error: str, note: str) -> str:
    if error:
        return f'<p role="alert">{html(error)}</p>'
    return f'<p role="status">{html(note)}</p>' if note else ""
