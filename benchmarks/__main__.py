"""Runs every benchmark in turn."""

from benchmarks import alignment, busy, losses, startup, train

startup.main()
losses.main([])
alignment.main()
train.main([])
busy.main([])
