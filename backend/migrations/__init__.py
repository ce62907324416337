"""Alembic's scripts. Each change of ``backend.db.models`` needs a new script; a test checks that they agree."""
