"""Experiments: from a submitted spec to rows, and from rows to answers."""
