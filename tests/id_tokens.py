"""An identity provider on the loopback address with keys of its own, which signs any ID token that a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT = "dkd-lab"


class Issuer:
    """An issuer of ID tokens.

    Attributes:
        url: The issuer.
        keys: The published keys by id.
        document: Changes of the discovery document.
        requests: The requested paths.
        down: Whether every request is answered with 503.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.keys: dict[str, RSAKey | ECKey] = {"1": RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})}
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
        registry = jws.JWSRegistry(algorithms=["none"])
        payload = json.dumps(self.claims())
        return jws.serialize_compact({"alg": "none", "kid": "1"}, payload, OctKey.generate_key(), registry=registry)

    def signed_with_the_public_key(self) -> str:
        """Return a token of HS256 whose secret is the published key, as a confused verifier would accept."""
        secret = OctKey.import_key(self.keys["1"].as_pem(private=False))
        return jwt.encode({"alg": "HS256", "kid": "1"}, self.claims(), secret, algorithms=["HS256"])

    def answer(self, path: str) -> Any:
        if path == "/keys":
            return {"keys": [key.as_dict(private=False) for key in self.keys.values()]}
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.document


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
