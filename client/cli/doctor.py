"""``dkd doctor``: finds problems of this machine, and shows how to solve them."""

from __future__ import annotations

import typer
from rich.text import Text

from client.cli import exit_codes
from client.cli.options import JsonFlag, write_json
from client.doctor import ALL_CHECKS, Finding, run_checks
from client.rendering.tables import console_for

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def register(app: typer.Typer) -> None:
    app.command(epilog=exit_codes.HELP)(doctor)


def doctor(as_json: JsonFlag = False) -> int:
    """Check this machine, and print one line per finding with the action that solves it.

    The command checks Python, packages, torch and GPUs, disk space, data sets, ports, the backend with its clock,
    tokens, the broker, the database and the settings. Every check has a deadline, and no secret is printed. The command
    changes nothing, except that, like every command, it makes token files private which other accounts can read. Exit
    code 1 if a check found an error; warnings do not count.
    """
    report = run_checks(ALL_CHECKS)
    if as_json:
        write_json(report)
    else:
        console = console_for()
        for finding in report.findings:
            console.print(finding_text(finding), soft_wrap=True)
    return exit_codes.OK if report.ok else exit_codes.FAILED


def finding_text(finding: Finding) -> Text:
    """Return the line of a finding."""
    text = f"  {finding.check:<9} {finding.message}"
    action = (f" → {finding.action}", "bold") if finding.action else ""
    return Text.assemble((f"{finding.status:<7}", _STYLES[finding.status]), text, action)
