"""Networks of runs for use elsewhere: export to other formats with a check, size, operations, memory and latency."""
