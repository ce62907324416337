"""What a training needs in addition to the spec to be repeated: package versions, the code's commit and changes to it.

Free of torch. All values are texts, and what cannot be determined is left out: a training never fails because of it.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

MAX_DIFF = 200_000
"""Characters of an uncommitted difference that are kept; a longer one is cut, with a note at its end."""
_TIMEOUT_SECONDS = 10.0
_CODE = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, str]:
    """Return the versions of the packages and of the code.

    Returns:
        ``packages``, with a line ``name==version`` for each package; and if the code is in a git work tree, ``commit``
        and ``diff``. ``commit`` ends in "+changes" if ``core`` differs from the commit. The diff leaves out files that
        git does not track.
    """
    versions = {"packages": packages()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        # Only of what a training runs: a change in the docs or the dashboard does not make it another training.
        diff = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--", "core") or ""
        if len(diff) > MAX_DIFF:
            diff = f"{diff[:MAX_DIFF]}\n[cut: {len(diff)} characters]"
        versions |= {"commit": f"{commit.strip()}{'+changes' if diff else ''}"} | ({"diff": diff} if diff else {})
    return versions


@lru_cache(maxsize=1)
def packages() -> str:
    """Return all installed distributions, sorted, one per line."""
    names = {f"{item.name}=={item.version}" for item in distributions() if item.name}
    return "\n".join(sorted(names, key=str.lower))


def _git(*arguments: str) -> str | None:
    """Run git in the folder of this code; None if that is not the top of a work tree, or git is not installed."""
    if not (_CODE / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(_CODE), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
