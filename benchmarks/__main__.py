"""``python -m benchmarks [NAME [ARGUMENT…]]``: run one benchmark, or every one of `make bench` in turn."""

import sys
from collections.abc import Callable

from benchmarks import (
    alignment,
    busy,
    detect,
    every_method,
    group,
    kept_features,
    losses,
    methods,
    node,
    null_changes,
    shares,
    startup,
    train,
)
from benchmarks.parity import command as parity
from benchmarks.result_pages import command as result_pages
from benchmarks.scale import command as scale
from benchmarks.sequential import command as sequential

BENCHMARKS: dict[str, Callable[[list[str]], object]] = {
    "startup": lambda _: startup.main(),
    "losses": losses.main,
    "alignment": lambda _: alignment.main(),
    "train": train.main,
    "busy": busy.main,
    "detect": detect.main,
    "features": kept_features.main,
    "methods": methods.main,
    "parity": parity.main,
    "every-method": every_method.main,
    "sequential": sequential.main,
    "group": group.main,
    "node": node.main,
    "results": result_pages.main,
    "null_changes": null_changes.main,
    "scale": scale.main,
    "shares": shares.main,
}
IN_MAKE_BENCH = ("startup", "losses", "alignment", "train", "busy")
"""Those that need nothing from elsewhere."""

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or ("",)
    if name and name not in BENCHMARKS:
        sys.exit(f"{name} is not a benchmark; there are {', '.join(BENCHMARKS)}")
    for run in [BENCHMARKS[one] for one in ((name,) if name else IN_MAKE_BENCH)]:
        run(arguments)
