"""Curves of runs: the points that a browser session holds, and incremental updates of them."""
