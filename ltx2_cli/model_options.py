"""The options of the commands that fetch, list and remove models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import ltx2_core as core

DOWNLOAD, MODELS = "Download", "Models"


def known_names(incomplete: str) -> list[tuple[str, str]]:
    """Completes the name of a model or a LoRA."""
    found = core.read_catalogue()
    known = {**found.models, **found.controls}
    return [(name, entry.summary) for name, entry in known.items() if name.startswith(incomplete.lower())]


def _switch(flag: str, text: str, title: str) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=title)


def _path(flag: str, text: str, title: str) -> Any:
    parser = lambda path: core.given_path(path, flag)  # noqa: E731
    return typer.Option(flag, metavar="FOLDER", help=text, rich_help_panel=title, parser=parser)


MaybeNameArg = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="A model or a LoRA, as ltx2 models lists them.", autocompletion=known_names),
]
PlanOpt = Annotated[bool, _switch("--plan", "Show what would be fetched, and stop.", DOWNLOAD)]
YesOpt = Annotated[bool, _switch("--yes", "Do not ask before fetching.", DOWNLOAD)]
AcceptOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-licence",
        metavar="ID",
        help="Accept a licence whose terms you have read; can be repeated.",
        rich_help_panel=DOWNLOAD,
    ),
]
OnlyOpt = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="PART,PART…",
        help="Fetch only these parts, such as transformer,video-vae; of a LoRA, for this generation, such as 2.3.",
        rich_help_panel=DOWNLOAD,
    ),
]
ToOpt = Annotated[Path | None, _path("--to", "Put the files here, and link to them from LTX2_HOME.", DOWNLOAD)]
OfflineOpt = Annotated[
    bool, _switch("--offline", "Open no connection: only find, verify and link what is there.", DOWNLOAD)
]
RemoveYesOpt = Annotated[bool, _switch("--yes", "Do not ask before removing.", MODELS)]
PartialOpt = Annotated[bool, _switch("--partial", "Remove what downloads that did not end have left.", MODELS)]
MaybeRemoveArg = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The model or LoRA to remove.", autocompletion=known_names)
]
