"""The results of sweeps as pure functions: table, filter, scales of fields, importance."""
