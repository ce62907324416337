"""Curves of runs: the points that a browser session stores, and their incremental updates."""
