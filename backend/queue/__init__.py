"""The queue, whose state is in the database: states of runs, claims, leases, workers and nudges."""
