"""How large and how slow the body of each route may be: one table, by the path of the route."""

from __future__ import annotations

from dataclasses import dataclass

from backend.settings import Settings
from common.input_bounds import DEFAULT_BOUNDS, JsonBounds

_KIB = 1024
_MIB = 1024 * _KIB
_SLOWEST_BYTES_PER_SECOND = 16 * _KIB


@dataclass(frozen=True)
class Limit:
    """What a body may be.

    Attributes:
        bytes: its length.
        json: bounds of its content; None where it is no JSON.
        typed: JSON that pydantic reads straight into a shape whose fields are all bounded: only its values are counted.
        long: the work it asks for may take seconds, and is given up when the client has left.
        streamed: it goes to the disk as it comes, so it may take as long as its size needs.
    """

    bytes: int
    json: JsonBounds | None = DEFAULT_BOUNDS
    typed: bool = False
    long: bool = False
    streamed: bool = False

    def seconds(self, received: int, first: float) -> float:
        """How long a body may have taken of which so many bytes have come; ``first``: of one that is not streamed."""
        return first + (received / _SLOWEST_BYTES_PER_SECOND if self.streamed else 0.0)


def limits(settings: Settings) -> dict[str, Limit]:
    """By path below ``/api/v1``. A route that takes a body and is not here cannot be made."""
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
        # 10,000 characters of notes, each written as \ud83d\udc4d at worst, and tags.
        "/experiments/{key:path}": Limit(256 * _KIB, JsonBounds(depth=4, values=5000, items=1000)),
        "/experiments/{key:path}/priority": small,
        "/runs/{run_id}/priority": small,
        "/workers/{key}/drain": small,
        "/tokens": small,
        "/teachers/uploads": Limit(settings.max_upload_bytes, None, streamed=True),
        "/worker/register": Limit(64 * _KIB, JsonBounds(depth=4, values=1000, items=1000, any_text=True)),
        "/worker/{worker_id}/claim": small,
        # 1,024 runs and as many GPUs.
        "/worker/{worker_id}/heartbeat": Limit(_MIB, JsonBounds(depth=6, values=50_000, items=2000, any_text=True)),
        # 200 lines of 2,000 characters, which is more than a worker keeps.
        "/worker/{worker_id}/runs/{run_id}/finish": Limit(4 * _MIB, log),
        # A worker sends 256 KiB and the record that goes beyond; a long line of a log is one record.
        "/worker/{worker_id}/runs/{run_id}/events": Limit(8 * _MIB, JsonBounds(values=200_000), typed=True),
    }
