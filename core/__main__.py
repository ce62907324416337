"""``python -m core``."""

from core.cli import main
from core.wire.terminal import run_program

if __name__ == "__main__":  # a spawned data loader imports this module too
    run_program(main, "python -m core")
