"""Every benchmark in turn."""

from benchmarks import losses, startup

startup.main()
losses.main()
