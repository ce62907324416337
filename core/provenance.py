"""What one needs besides the spec to repeat a training: package versions, the code's commit and changes to it.

Free of torch. Everything is a text, and what cannot be found out is left out: a training never fails for it.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

MOST_DIFF = 200_000
"""Characters of an uncommitted difference that are kept; a longer one is cut, and says so."""
_SECONDS = 10.0
_CODE = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, str]:
    """``packages``: a line ``name==version`` each; where the code is a git work tree also ``commit`` and ``diff``.

    ``commit`` ends in "+changes" where ``core`` differs from it. Files that git does not know are not in the diff.
    """
    found = {"packages": packages()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        # Of what a training runs: a change in the docs or the dashboard makes it no other training.
        diff = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--", "core") or ""
        if len(diff) > MOST_DIFF:
            diff = f"{diff[:MOST_DIFF]}\n[cut: {len(diff)} characters]"
        found |= {"commit": f"{commit.strip()}{'+changes' if diff else ''}"} | ({"diff": diff} if diff else {})
    return found


@lru_cache(maxsize=1)
def packages() -> str:
    """Every installed distribution, sorted."""
    names = {f"{item.name}=={item.version}" for item in distributions() if item.name}
    return "\n".join(sorted(names, key=str.lower))


def _git(*arguments: str) -> str | None:
    """What git says of the folder that this code lies in; None where it is no work tree of its own, or git is away."""
    if not (_CODE / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(_CODE), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
