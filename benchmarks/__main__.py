"""Every benchmark in turn."""

from benchmarks import alignment, losses, startup

startup.main()
losses.main([])
alignment.main()
