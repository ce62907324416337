"""Shapes of all HTTP messages, which the backend, the client, the workers and the dashboard share.

Each is defined once, so that all sides read and write the same. Free of torch. ``public`` has the shapes of the public
API; ``worker`` is the protocol between a worker and the backend.
"""
