"""Every benchmark in turn."""

from benchmarks import alignment, losses, startup, train

startup.main()
losses.main([])
alignment.main()
train.main([])
