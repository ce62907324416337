"""Metric points and log lines in the database."""
