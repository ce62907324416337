"""An identity provider on the loopback address with keys of its own, which signs any ID token that a test wants."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT = "dkd-lab"


class Issuer:
    """An issuer of ID tokens.

    Attributes:
        url: The issuer.
        first: A key.
        keys: The published keys by id; the first one alone at the beginning.
        document: Changes of the discovery document.
        requests: The requested paths.
        down: Whether every request is answered with 503.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.first = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.keys: dict[str, RSAKey | ECKey] = {"1": self.first}
        self.document: dict[str, Any] = {}
        self.requests: list[str] = []
        self.down = False
        self._number = 0

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return valid claims with changes; a claim that is None is left out."""
        now = int(time.time())
        self._number += 1
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "account-1",
            "email": "anna@lab.example",
            "email_verified": True,
            "iat": now,
            "exp": now + 300,
            "jti": f"{self.url} {self._number}",
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, *, alg: str = "RS256", kid: str | None = "1", key: Any = None, **changes: Any) -> str:
        """Return a signed token."""
        header = {"alg": alg} | ({} if kid is None else {"kid": kid})
        signing = key or self.keys[kid or "1"]
        return jwt.encode(header, self.claims(**changes), signing, algorithms=[alg])

    def unsigned(self) -> str:
        """Return a token with ``alg: none``."""
        return f"{self._signed_part('none')}."

    def signed_with_the_public_key(self) -> str:
        """Return a token of HS256 whose secret is the published key, as a confused verifier would accept."""
        signed, secret = self._signed_part("HS256"), self.keys["1"].as_pem(private=False)
        return f"{signed}.{_base64(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def _signed_part(self, alg: str) -> str:
        parts = ({"alg": alg, "kid": "1"}, self.claims())
        return ".".join(_base64(json.dumps(part).encode()) for part in parts)

    def answer(self, path: str) -> Any:
        if path == "/keys":
            return {"keys": [key.as_dict(private=False) for key in self.keys.values()]}
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.document


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Run an issuer until the end of the block."""
    running: Issuer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.requests.append(self.path)
            data = json.dumps(running.answer(self.path)).encode()
            self.send_response(503 if running.down else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Issuer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
