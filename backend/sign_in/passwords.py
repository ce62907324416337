"""Passwords: their rules, and their hashes by Argon2id.

A password is normalised with NFKC before it is checked and hashed, so that one keyboard's "é" is another's. The hash
contains its parameters; a sign-in with a hash of other parameters than the present ones stores a new hash.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from pydantic import SecretStr

from backend.errors import invalid
from backend.sign_in.threads import FewThreads
from core.protocol.base import ProblemField
from core.protocol.sessions import MAX_PASSWORD, MIN_PASSWORD

_MIN_DISTINCT = 5
_AT_ONCE = 2
"""Hashes that are computed at the same time; each needs 64 MiB."""


def normalized(password: SecretStr) -> bytes:
    """Return what is hashed of a password."""
    return unicodedata.normalize("NFKC", password.get_secret_value()).encode("utf-8", "surrogatepass")


def check_rules(password: SecretStr, *, name: str, mail: str | None, path: str) -> None:
    """Check a new password.

    Args:
        password: The password.
        name: Name of its person.
        mail: Mail address of its person.
        path: Field of the request, for the message.

    Raises:
        ApiError: 422 with the rule that it breaks. The message does not contain the password.
    """
    text = unicodedata.normalize("NFKC", password.get_secret_value())
    folded = text.casefold().strip()
    own = {value.casefold() for value in (name, mail, (mail or "").partition("@")[0]) if value}
    # A name of four letters that is written three times has twelve characters.
    repeated = any(len(folded) % len(value) == 0 and value * (len(folded) // len(value)) == folded for value in own)
    problem = (
        f"needs at least {MIN_PASSWORD} characters"
        if len(text) < MIN_PASSWORD
        else f"has more than {MAX_PASSWORD} characters"
        if len(text) > MAX_PASSWORD
        else f"needs at least {_MIN_DISTINCT} different characters"
        if len(set(text)) < _MIN_DISTINCT
        else "must not be the name or the mail address of its person"
        if repeated or folded[::-1] in own
        else ""
    )
    if problem:
        raise invalid(f"{path}: {problem}", ProblemField(path=path, message=problem))


class Passwords:
    """Computes and verifies hashes in threads, few at a time, because each takes much memory and a core.

    Args:
        hasher: The parameters of new hashes; by default those of RFC 9106 for machines with little memory.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._threads = FewThreads(_AT_ONCE)

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash("the password of nobody")

    async def hash(self, password: SecretStr) -> str:
        """Return the hash of a new password.

        Raises:
            ApiError: 503 if too many wait for theirs.
        """
        return await self._threads.run(self._hasher.hash, normalized(password))

    async def verify(self, stored: str | None, password: SecretStr) -> bool:
        """Return whether a password is the one of a hash. One verification is made in any case.

        Args:
            stored: The hash; None for a person who does not exist or has no password, for whom the result is false.
            password: The password.

        Raises:
            ApiError: 503 if too many wait for theirs.
        """
        return await self._threads.run(self._verify, stored, normalized(password))

    def needs_rehash(self, stored: str) -> bool:
        """Return whether a hash has other parameters than new ones."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str | None, password: bytes) -> bool:
        nobody = self._nobody  # computed by the first verification, whoever it is for
        try:
            return self._hasher.verify(stored or nobody, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False
