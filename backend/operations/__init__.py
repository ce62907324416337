"""Operation of the backend: retention, webhooks, Prometheus metrics, the watchdog."""
