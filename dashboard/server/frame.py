"""The frame of a page, which a browser shows while it loads Streamlit's scripts.

These are several megabytes. Until they run, Streamlit's own HTML is an empty page.
"""

from __future__ import annotations

from collections.abc import Mapping

from dashboard.markup import html

TITLES: Mapping[str, str] = {
    "": "Overview",
    "new": "New experiment",
    "runs": "Runs",
    "run": "Run",
    "compare": "Compare",
    "results": "Results",
    "leaderboard": "Leaderboard",
    "loss": "Loss explorer",
    "teachers": "Teachers",
    "workers": "Workers",
}
"""Titles of the pages by their paths, as in the navigation."""
LINKED: Mapping[str, str] = {
    "experiment": "Experiment",
    "sweep": "Sweep",
    "account": "Your account",
    "people": "People and projects",
    "audit": "Audit log",
}
"""Titles of the pages that are not in the navigation, or not for everybody."""
_ROOT = b'<div id="root"></div>'
_STYLE = """<style>
.dkd-frame { color-scheme: light dark; position: fixed; inset: 0; overflow: auto; background: Canvas; color: CanvasText;
  font: 1rem/1.6 "Source Sans", sans-serif; }
.dkd-frame nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; padding: 0.9rem 1rem; }
.dkd-frame a { color: inherit; text-decoration: none; }
.dkd-frame a[aria-current] { font-weight: 600; }
.dkd-frame strong { display: block; padding: 1.4rem 1rem 0.5rem; font-size: 2rem; }
.dkd-frame p { margin: 0; padding: 0 1rem; }
@media (min-width: 800px) { .dkd-frame :is(nav, strong, p) { padding-left: 5rem; } }
@media (prefers-color-scheme: light) { .dkd-frame { background: #FFFFFF; color: #2F2D2B; } }
@media (prefers-color-scheme: dark) { .dkd-frame { background: #171614; color: #EDEBE8; } }
</style>"""


def with_frame(page: bytes, path: str) -> bytes:
    """Return Streamlit's HTML with the frame of a page in the element that its scripts fill later.

    Args:
        page: The HTML.
        path: Path of the page below the dashboard's address.
    """
    return page.replace(_ROOT, _ROOT.replace(b"></", f">{_frame(path)}</".encode()), 1)


def _frame(path: str) -> str:
    title = TITLES.get(path) or LINKED.get(path, "DKD Lab")
    links = "".join(
        f'<a href="./{name}"{" aria-current=page" if name == path else ""}>{html(text)}</a>'
        for name, text in TITLES.items()
    )
    return (
        f'{_STYLE}<div class="dkd-frame"><nav aria-label="Pages">{links}</nav>'
        f'<strong>{html(title)}</strong><p role="status">Loading …</p></div>'
    )
