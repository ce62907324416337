"""A lab at full size, simulated: real backends, and workers and dashboards that speak their protocol."""
