"""What is measured, each by ``python -m benchmarks.NAME``; ``make bench`` runs them all. Nothing here is a test."""
