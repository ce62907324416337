"""Token files, which are checked like SSH keys: a file that other accounts can read is made private or warned about."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

MIN_LENGTH = 20
"""Characters of a token that a person chose. Only a fast hash of it is stored, so its length is the protection."""
_MIN_DISTINCT = 8
_MAX_BYTES = 4_096
# Any access by others, and writing by the group. Services of one machine share a file by letting the group read it.
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP


class TokenFileError(OSError):
    """A token file cannot be used; the message does not contain the token."""


@dataclass(frozen=True)
class TokenFile:
    """Content of a token file.

    Attributes:
        token: The token without surrounding white space; empty if the file contains none.
        warning: A sentence if other accounts could read the file, or still can; else empty.
    """

    token: str
    warning: str = ""


def read_token(path: Path) -> TokenFile:
    """Read a token, and make its file private if it belongs to this account and others could read it.

    The mode of a file behind a symbolic link is not changed; the result contains a warning.

    Raises:
        FileNotFoundError: The file does not exist.
        TokenFileError: The path is not a regular file of one line, or cannot be read.
    """
    try:
        # Non-blocking, in case it is a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TokenFileError(f"the token file {path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise TokenFileError(f"the token file {path} is not a file of one line")
        token = os.read(descriptor, _MAX_BYTES).decode("utf-8").strip()
        if len(token.splitlines()) > 1:  # some other file, whose mode must not be changed
            raise TokenFileError(f"the token file {path} is not a file of one line")
        return TokenFile(token, _make_private(descriptor, status, path))
    except UnicodeDecodeError:
        raise TokenFileError(f"the token file {path} contains characters that a token cannot have") from None
    finally:
        os.close(descriptor)


def _make_private(descriptor: int, status: os.stat_result, path: Path) -> str:
    # A file of another account, such as a mounted secret of a container, is protected by that account.
    if not status.st_mode & _TOO_OPEN or status.st_uid != os.geteuid():
        return ""
    problem = (
        f"the token file {path} had the mode {stat.S_IMODE(status.st_mode):04o}, so that other accounts could use it"
    )
    if path.is_symlink():  # others may have to read its target
        return (
            f"{problem}; its mode was not changed because it is a symbolic link: change the mode of its target to 0600"
        )
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~_TOO_OPEN)
        return f"{problem}; it is private now. Revoke the token if others use this machine"
    return f"{problem}, and it could not be changed"  # for example on a read-only mount


def token_weakness(token: str) -> str:
    """Return why a token is too easy to guess or cannot be sent; empty if it is fine."""
    if not token.isascii() or not token.isprintable() or " " in token:
        return "a token consists of ASCII characters without spaces"
    if len(token) < MIN_LENGTH or len(set(token)) < _MIN_DISTINCT:
        return f"a token has at least {MIN_LENGTH} characters, {_MIN_DISTINCT} of them different"
    return ""
