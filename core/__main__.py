"""``python -m core``."""

from core.cli import main
from core.wire.terminal import run_program

run_program(main)
