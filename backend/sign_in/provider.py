"""The signing keys of an OpenID Connect provider: its discovery document, its key set, and their renewal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import structlog
from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError

from backend.errors import ApiError
from common.http_clients import HttpSettingsError, is_loopback_url, open_client

_log = structlog.get_logger(__name__)

ALGORITHMS = ("RS256", "ES256")
KEYS_SECONDS = 900.0
"""Time after which the document and the keys are read again."""
RETRY_SECONDS = 30.0
"""A key that is not known, or a provider that does not answer, causes a request at most once in this time."""
_TIMEOUT_SECONDS = 5.0
"""For each part of an answer."""
_ANSWER_SECONDS = 10.0
"""For an answer."""
_MAX_BYTES = 512 * 1024
_MIN_RSA_BITS = 2048
_MAX_KEYS = 100


class ProviderError(Exception):
    """The provider cannot be read, or its answer is not valid."""


class ProviderKeys:
    """Keys of one issuer. Safe to use from several threads.

    A token with an unknown key id makes the keys be read again, so that a rotation at the provider interrupts nothing.

    Args:
        issuer: The issuer.
        clock: Returns the time in seconds.
    """

    def __init__(self, issuer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str | None, PyJWK] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None

    def find(self, key_id: str | None) -> PyJWK | None:
        """Return the key of a token; None if the issuer has none of this id.

        Args:
            key_id: Id of the key in the header of the token; None for the only key of an issuer that gives no ids.

        Raises:
            ApiError: 503 if the provider does not answer and its keys are not known.
        """
        key = self._keys.get(key_id)
        if not self._lock.acquire(blocking=key is None):
            return key  # another thread reads the keys again
        try:
            now = self._clock()
            old = self._read_at is None or now - self._read_at >= KEYS_SECONDS
            may_try = self._tried_at is None or now - self._tried_at >= RETRY_SECONDS
            if (old or key_id not in self._keys) and may_try:
                self._tried_at = now
                try:
                    self._keys = self._read()
                    self._read_at = now
                except ProviderError as error:
                    _log.warning("the keys of the identity provider cannot be read", error=str(error))
            if self._read_at is None:
                text = "the identity provider does not answer; try again"
                raise ApiError(503, text, headers={"Retry-After": f"{RETRY_SECONDS:.0f}"})
            return self._keys.get(key_id)
        finally:
            self._lock.release()

    def _read(self) -> dict[str | None, PyJWK]:
        document = _get(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise ProviderError(f"its discovery document names the issuer {document.get('issuer')!r}")
        url = document.get("jwks_uri")
        secure = isinstance(url, str) and (
            url.startswith("https://") or (url.startswith("http://") and is_loopback_url(self._issuer))
        )
        if not isinstance(url, str) or not secure:
            raise ProviderError("its discovery document names no jwks_uri with https")
        try:
            found = PyJWKSet.from_dict(_get(url))
        except PyJWTError as error:
            raise ProviderError(f"its key set is not valid: {type(error).__name__}") from None
        usable = [key for key in found.keys[:_MAX_KEYS] if _is_usable(key)]
        if not usable:
            raise ProviderError(f"its key set has no public key for {' or '.join(ALGORITHMS)}")
        keys: dict[str | None, PyJWK] = {key.key_id: key for key in usable if key.key_id is not None}
        if len(usable) == 1:
            keys[None] = usable[0]
        return keys


def _is_usable(key: PyJWK) -> bool:
    strong = key.key_type == "EC" or getattr(key.key, "key_size", 0) >= _MIN_RSA_BITS
    return key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig") and strong


def _get(url: str) -> dict[str, Any]:
    try:
        with open_client(url, timeout=_TIMEOUT_SECONDS) as client, client.stream("GET", url) as response:
            if response.status_code != 200:
                raise ProviderError(f"{url} answers with status {response.status_code}")
            body, end = b"", time.monotonic() + _ANSWER_SECONDS
            for block in response.iter_bytes():
                body += block
                if time.monotonic() > end:
                    raise ProviderError(f"{url} takes more than {_ANSWER_SECONDS:g} seconds for its answer")
                if len(body) > _MAX_BYTES:
                    raise ProviderError(f"{url} answers with more than {_MAX_BYTES} bytes")
        document = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL, HttpSettingsError, ValueError, RecursionError) as error:
        raise ProviderError(f"{url}: {type(error).__name__}: {error}") from None
    if not isinstance(document, dict):
        raise ProviderError(f"{url} answers with something other than an object")
    return document
