"""``python -m core``."""

from common.terminal import run_program
from core.cli import main

if __name__ == "__main__":  # a spawned data loader imports this module too
    run_program(main, "python -m core")
