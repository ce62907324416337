"""The database: tables, transactions, and the clock."""

from backend.db.chunks import chunked
from backend.db.clock import now
from backend.db.engine import Database, finishing, session_on
from backend.db.ids import new_id, new_ids
from backend.db.types import UtcDateTime, db_now

__all__ = ["Database", "UtcDateTime", "chunked", "db_now", "finishing", "new_id", "new_ids", "now", "session_on"]
