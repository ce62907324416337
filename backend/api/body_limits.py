"""The largest and slowest body that each route accepts: one table, keyed by the path of the route."""

from __future__ import annotations

from dataclasses import dataclass

from backend.settings import Settings
from common.input_bounds import DEFAULT_BOUNDS, JsonBounds

_KIB = 1024
_MIB = 1024 * _KIB
_SLOWEST_BYTES_PER_SECOND = 16 * _KIB


@dataclass(frozen=True)
class Limit:
    """Limits of a request body.

    Attributes:
        bytes: Maximum length.
        json: Bounds of the content; None if the body is not JSON.
        typed: The JSON is parsed directly into a model whose fields are all bounded, so only the number of values is
            checked beforehand.
        long: Answering may take seconds; the work stops if the client closes its connection.
        streamed: The body is written to disk as it arrives, so its time limit grows with its size.
    """

    bytes: int
    json: JsonBounds | None = DEFAULT_BOUNDS
    typed: bool = False
    long: bool = False
    streamed: bool = False

    def seconds(self, received: int, base_seconds: float) -> float:
        """Return the seconds a body may have taken once ``received`` bytes of it have arrived.

        Args:
            received: Number of bytes.
            base_seconds: Time limit of a body that is not streamed.
        """
        return base_seconds + (received / _SLOWEST_BYTES_PER_SECOND if self.streamed else 0.0)


def limits(settings: Settings) -> dict[str, Limit]:
    """Return the limits by path below ``/api/v1``. A route with a body that is not listed fails at its first use."""
    small = Limit(16 * _KIB, JsonBounds(depth=4, values=1000, items=1000))
    spec = Limit(settings.max_body_bytes)
    log = JsonBounds(depth=4, values=2000, items=1000, any_text=True)
    long = Limit(settings.max_body_bytes, long=True)
    return {
        "/experiments": spec,
        "/experiments/preview": long,
        # A thousand specs.
        "/experiments/bulk": Limit(4 * settings.max_body_bytes, JsonBounds(values=400_000), long=True),
        "/sweeps": long,
        "/sweeps/preview": long,
        "/experiments/{key:path}/clone": long,
        "/experiments/{key:path}/clone/preview": long,
        # 10,000 characters of notes, each escaped as \ud83d\udc4d at worst, and tags.
        "/experiments/{key:path}": Limit(256 * _KIB, JsonBounds(depth=4, values=5000, items=1000)),
        "/experiments/{key:path}/priority": small,
        "/runs/{run_id}/priority": small,
        "/workers/{key}/drain": small,
        "/tokens": small,
        "/tokens/{token_id}/rotate": small,
        "/shares": small,
        "/projects": small,
        "/projects/{project}": small,
        "/projects/{project}/quota": small,
        "/projects/{project}/members/{person}": small,
        "/people": small,
        "/people/{person}": small,
        "/people/{person}/password": small,
        "/people/{person}/invitation": small,
        "/sessions": small,
        "/sessions/invitation": small,
        "/sessions/oidc": small,
        "/account/password": small,
        # 24 figures with two names of 200 characters, each escaped as \ud83d\udc4d at worst.
        "/layouts": Limit(128 * _KIB, JsonBounds(depth=5, values=500, items=100)),
        "/teachers/uploads": Limit(settings.max_upload_bytes, None, streamed=True),
        "/worker/register": Limit(64 * _KIB, JsonBounds(depth=4, values=1000, items=1000, any_text=True)),
        "/worker/{worker_id}/claim": small,
        # 1,024 runs and as many GPUs.
        "/worker/{worker_id}/heartbeat": Limit(_MIB, JsonBounds(depth=6, values=50_000, items=2000, any_text=True)),
        # 200 lines of 2,000 characters: more than a worker sends.
        "/worker/{worker_id}/runs/{run_id}/finish": Limit(4 * _MIB, log),
        # A worker sends 256 KiB and the record that exceeds them; a long log line is one record.
        "/worker/{worker_id}/runs/{run_id}/events": Limit(8 * _MIB, JsonBounds(values=200_000), typed=True),
    }
