"""Headers that every answer of the API and of the dashboard has, and hashes for content security policies."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256

# Features of browsers that no page of the project uses. Full screen and the clipboard are left to the pages themselves.
_UNUSED_FEATURES = (
    *("accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "geolocation", "gyroscope"),
    *("magnetometer", "microphone", "midi", "payment", "publickey-credentials-get", "screen-wake-lock", "usb"),
    *("browsing-topics", "interest-cohort", "xr-spatial-tracking"),
)
BROWSER_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": ", ".join(f"{name}=()" for name in _UNUSED_FEATURES),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Forbid browsers to guess types, to frame, to send a referrer, to use devices, and to embed in other origins."""
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""Content security policy of an answer that is not a page."""
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


def script_hashes(page: bytes) -> str:
    """Return the sources of a content security policy that allow the inline scripts of a page and no others.

    Args:
        page: The HTML. Scripts with attributes are not inline, or not scripts that a browser runs.

    Returns:
        The sources, each after a space; empty if the page has no inline script.
    """
    return "".join(f" {source(script)}" for script in _SCRIPT.findall(page))


def style_hashes(page: bytes) -> str:
    """Return the sources that allow the style elements of a page, in the form of ``script_hashes``."""
    return "".join(f" {source(style)}" for style in _STYLE.findall(page))


@lru_cache(64)
def source(content: bytes) -> str:
    """Return the source of a content security policy that allows an inline script or style."""
    return f"'sha256-{b64encode(sha256(content).digest()).decode()}'"
