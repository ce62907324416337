"""Alembic's scripts. A new one follows a change of ``backend.db.models``; a test holds the two equal."""
