"""The queue's truth: states of runs, claims, leases, workers, nudges."""
