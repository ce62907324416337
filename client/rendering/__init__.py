"""Answers of the backend as text for a terminal."""
