"""Alembic's scripts. A new one: change ``backend.db.models``, then write ``versions/NNNN_what.py``; a test holds both equal."""
