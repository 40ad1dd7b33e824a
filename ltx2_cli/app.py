"""The commands. Each parses, calls core and shows the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ltx2_core as core

from .display import show_error, show_rows


class Commands(TyperGroup):
    """Turns an error of core into its lines on stderr and its exit code, whichever command it came from."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except core.LTX2Error as error:
            show_error(error)
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(cls=Commands, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ltx2 {core.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Video with synchronised stereo sound from the LTX-2 models."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A .safetensors file.", show_default=False)]) -> None:
    """Say what a weight file is, from its header alone."""
    header = core.read_header(file)
    rows = {
        "kind": core.classify(header).value,
        "generation": core.generation(header) or "its tensor names do not tell",
        "version": header.metadata.get("model_version", "not given"),
        "precision": core.precision(header),
        "tensors": f"{len(header.tensors):,}",
        "bytes": f"{header.nbytes:,}",
    }
    show_rows(file.name, rows)


def main() -> None:
    """The entry point of the command `ltx2`."""
    app(prog_name="ltx2")
