"""The ``dkd`` application: it registers the commands and converts errors to exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from client.cli import (
    arguments,
    audit,
    comparisons,
    deploy,
    doctor,
    exit_codes,
    experiment_edits,
    experiments,
    export,
    files,
    foreign,
    leaderboard,
    mcp,
    projects,
    runs,
    sessions,
    system,
    tokens,
    up,
)
from client.cli.options import plugin_names
from common import output_streams
from common.terminal import safe_output

app = typer.Typer(
    name="dkd",
    help="Run knowledge-distillation experiments and compare methods, paired and with intervals.",
    epilog=f"{exit_codes.HELP}\n\nDKD_API_URL and DKD_API_TOKEN (or DKD_API_TOKEN_FILE) select another backend than "
    "the one on this machine; DKD_HOME is the folder of the stack; DKD_PLUGINS lists modules that add to the catalog.",
    add_completion=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _commands in (
    up,
    experiments,
    runs,
    experiment_edits,
    comparisons,
    leaderboard,
    export,
    files,
    system,
    doctor,
    tokens,
    sessions,
    projects,
    audit,
    mcp,
    deploy,
    foreign,
):
    _commands.register(app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        typer.echo(f"dkd {version('dkd-lab')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code. Errors are printed to stderr.

    Args:
        words: The command and its arguments.
    """
    with safe_output():
        return _run(words)


def _run(words: Sequence[str]) -> int:
    try:
        if names := plugin_names():
            import_plugins(names)
        result = typer.main.get_command(app).main(list(words), prog_name="dkd", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return exit_codes.INTERRUPTED
    except Exception as error:  # noqa: BLE001 (every error is shown as a sentence)
        return exit_codes.report_error(error)
    return result if isinstance(result, int) else exit_codes.OK


def import_plugins(names: Sequence[str]) -> None:
    """Import plug-ins.

    Raises:
        CliExit: A plug-in cannot be imported; the message contains its name.
    """
    from core.catalog import load_plugins

    try:
        load_plugins(names)
    except ImportError as error:
        raise exit_codes.CliExit(f"DKD_PLUGINS={','.join(names)}: {error}", exit_codes.BAD_INPUT) from None


def main() -> None:
    """Entry point of ``dkd``."""
    outputs = output_streams.install()
    raise SystemExit(output_streams.final_exit_code(outputs, run(arguments.as_text(sys.argv[1:])), "dkd"))
