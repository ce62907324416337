"""What the worker imports."""

from __future__ import annotations

import subprocess
import sys


def test_worker_does_not_import_torch() -> None:
    code = "import sys, worker.__main__; print([name for name in sys.modules if name.split('.')[0] == 'torch'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
