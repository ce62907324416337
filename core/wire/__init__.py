"""The shapes that travel over HTTP: what the backend answers, and what the client, worker and dashboard read.

Defined once, so that no side keeps its own idea of them. Free of torch. ``public`` is the interface people script
against; ``worker`` is the protocol between a worker and the backend.
"""
