"""Curves of runs: what a page holds of them, and how it reads only what is new."""
