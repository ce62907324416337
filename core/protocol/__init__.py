"""The shapes that travel over HTTP: what the backend answers, and what the client, worker and dashboard read.

Defined once, so that every side reads and writes the same shapes. Free of torch. ``public`` is for scripts;
``worker`` is the protocol between a worker and the backend.
"""
