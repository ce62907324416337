"""The log of a backend contains no terminal escape sequences, whatever the source of its texts."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SAYS = r"""
import logging, sys, structlog
from backend.logging import configure
from common.terminal import run_program
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\u202egpj"
class Odd:
    def __repr__(self): return EVIL
def main():
    configure(sys.argv[1], "debug")
    log = structlog.get_logger("of ours")
    log.info("request", path="/" + EVIL, method="GET", **{"name" + EVIL: EVIL})
    log.info(EVIL, items=[EVIL], odd=Odd(), raised=OSError(EVIL))
    logging.getLogger("uvicorn.error").warning("%s", EVIL)
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("failed " + EVIL)
        logging.getLogger("a.library").exception("failed %s", EVIL)
    print(EVIL)
run_program(main)
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_escape_sequence_is_written(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", SAYS, form], capture_output=True, check=False, timeout=60)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    assert output.count("owned") >= 8
    assert not RAW.findall(output)
    if form == "json":
        assert {json.loads(line)["level"] for line in done.stderr.decode().splitlines()} == {"info", "warning", "error"}
