"""Files that hold a token: read as ssh reads keys, so that no other account of the machine can use them unnoticed."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

SHORTEST = 20
"""Characters of a token that a person chose: only a fast hash of it is kept, which nothing but its length protects."""
_FEWEST_KINDS = 8
_MOST_BYTES = 4_096
# What others may do with it, and a group's writing. A group's reading is how services of one machine share a file.
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP


class TokenFileError(OSError):
    """A file whose token cannot be used, in a sentence without the token."""


@dataclass(frozen=True)
class TokenFile:
    """What a token's file held.

    Attributes:
        token: without spaces and line ends around it; empty where the file holds none.
        warning: a sentence where other accounts could read the file, or still can; else empty.
    """

    token: str
    warning: str = ""


def read_token(path: Path) -> TokenFile:
    """The token in a file, which is made private where it is this account's own and others could read it.

    A file behind a symbolic link keeps its mode, and is warned of.

    Raises:
        FileNotFoundError: there is no such file.
        TokenFileError: it is no regular file of a line, or cannot be read.
    """
    try:
        # Not waited for, should it be a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TokenFileError(f"the token file {path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            raise TokenFileError(f"the token file {path} is no file of one line")
        token = os.read(descriptor, _MOST_BYTES).decode("utf-8").strip()
        if len(token.splitlines()) > 1:  # some other file, whose mode is not to be changed either
            raise TokenFileError(f"the token file {path} is no file of one line")
        return TokenFile(token, _made_private(descriptor, found, path))
    except UnicodeDecodeError:
        raise TokenFileError(f"the token file {path} holds characters that no token has") from None
    finally:
        os.close(descriptor)


def _made_private(descriptor: int, found: os.stat_result, path: Path) -> str:
    # A file of another account, as a container's secret that is mounted, is that account's to protect.
    if not found.st_mode & _TOO_OPEN or found.st_uid != os.geteuid():
        return ""
    was = f"the token file {path} had the mode {stat.S_IMODE(found.st_mode):04o}, so that other accounts could use it"
    if path.is_symlink():  # what it leads to may be a file that others have to read
        return f"{was}; it is reached by a symbolic link and stays so: change the mode of the file behind it to 0600"
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~_TOO_OPEN)
        return f"{was}; it is private now. Revoke the token if others use this machine"
    return f"{was}, and it could not be changed"  # as on a read-only mount


def token_weakness(token: str) -> str:
    """Why a token is too easily guessed or cannot be sent; empty where it is neither."""
    if not token.isascii() or not token.isprintable() or " " in token:
        return "a token is of ASCII characters, without spaces"
    if len(token) < SHORTEST or len(set(token)) < _FEWEST_KINDS:
        return f"a token has at least {SHORTEST} characters, {_FEWEST_KINDS} of them different"
    return ""
