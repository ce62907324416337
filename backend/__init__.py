"""The backend: the API, the database, the queue's truth. ``python -m backend serve|migrate|bootstrap``."""
