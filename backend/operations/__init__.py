"""Upkeep: retention, webhooks, Prometheus metrics, the watchdog."""
