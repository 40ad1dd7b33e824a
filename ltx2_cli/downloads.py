"""The commands `ltx2 download` and `ltx2 models`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

import ltx2_core as core

from .display import Display
from .download_view import DownloadView, plan_facts, plan_rows
from .failures import UserStopError
from .help import PanelCommand, PanelGroup
from .options import FETCH, REMOVE, MaybeNameArg
from .panels import takes
from .stop import Stop

VERDICTS = {True: "as published", False: "damaged", None: "not known; ltx2 download NAME asks the Hub"}

models = typer.Typer(cls=PanelGroup, invoke_without_command=True)


def add_downloads(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(cls=PanelCommand)(download)
    app.add_typer(models, name="models")


@takes(FETCH)
def download(flags: dict[str, Any], show: Display, name: MaybeNameArg = None) -> None:
    """Download the files of a model or a LoRA, or link to existing ones; resumes an interrupted download."""
    accepted = _known_licences(flags.get("accept_licence", ()))
    library = core.own_library()
    if name is None:
        if flags:
            raise core.RequestError("the name of a model is missing", hint="ltx2 models lists what can be downloaded")
        list_models(show, library)
        return
    to = core.given_path(flags["to"], "--to") if "to" in flags else None
    wanted = core.plan_download(name, library, _parts(flags.get("only", "")), to)
    if flags.get("plan"):
        show.plan_of_download(plan_facts(wanted), plan_rows(wanted))
        return
    with Stop(_interrupt) as stop:
        try:
            paths = _obtain(wanted, library, {**flags, "accept_licence": accepted}, show, stop)
        except KeyboardInterrupt as stopped:
            again = " ".join([f"ltx2 download {wanted.name}", *_where(flags), "goes on from here"])
            raise UserStopError(stop.exit_code, "stopped", "what has been fetched is kept", again) from stopped
    show.close()
    for path in paths:
        show.file(path, is_new=bool(wanted.missing))


def _where(flags: Mapping[str, Any]) -> Iterator[str]:
    """The options that decide which files are fetched, and into which folder."""
    for name in ("only", "to"):
        if name in flags:
            yield f"--{name} {core.in_shell(flags[name])}"


def _interrupt() -> None:
    """End everything that waits: a question, a request, or the downloading threads, which keep their bytes."""
    raise KeyboardInterrupt


def _obtain(
    plan: core.DownloadPlan, library: core.Library, flags: Mapping[str, Any], show: Display, stop: Stop
) -> list[Path]:
    """Everything from a plan to complete files. Returns the location of each part of the model."""
    view = DownloadView(show)
    listener = core.Listener(on_progress=view.progress, on_warning=show.warn, should_stop=stop.should_stop)
    plan = core.verify_found(plan, listener)
    if flags.get("offline") or not core.needs_hub(plan):
        return core.link_files(plan, library, listener)
    with core.Hub() as hub:
        for line in hub.announcements:
            show.say(line)
        plan = core.look_up(plan, library, hub, listener)
        if plan.missing:
            show.plan_of_download(plan_facts(plan), plan_rows(plan), is_result=False)
            accept(plan, flags["accept_licence"], show)
            show.close()  # the progress bars of verified files
            confirm(f"fetch {core.show_bytes(plan.to_fetch)}?", "--yes", is_given=flags.get("yes"))
            view.total = sum(file.known.bytes or 0 for file in plan.missing)
            core.fetch_files(plan, hub, listener)
    return core.link_files(plan, library, listener)


def _known_licences(given: Iterable[str]) -> list[str]:
    """The licences that are accepted on the command line. Raises: RequestError for an unknown one."""
    known = core.licences()
    for unknown in (one for one in given if one.lower() not in known):
        raise core.RequestError(f"there is no licence {unknown}", hint=f"known are {', '.join(known)}")
    return [one.lower() for one in given]


def accept(plan: core.DownloadPlan, given: Collection[str], show: Display) -> None:
    """Check that the licences of a download are accepted. Raises: RequestError for one that is not."""
    known = core.licences()
    for name in plan.to_accept:
        licence = known[name]
        if name not in given:
            show.say(f"{licence.name}: {licence.url}")
            for point in licence.points:
                show.say(f"  {point}")
            confirm(f"do you accept the {licence.name}?", f"--accept-licence {name}", is_given=False)
        core.remember_accepted(name)


def confirm(question: str, option: str, *, is_given: bool | None) -> None:
    """Ask the user. Raises: RequestError if there is no terminal, or if the answer is no."""
    if is_given:
        return
    if not is_asked():
        raise core.RequestError(f"nobody can be asked: {question}", "there is no terminal", f"{option} says yes")
    try:
        is_agreed = typer.confirm(question, err=True)
    except typer.Abort as error:  # Ctrl-C or Ctrl-D
        raise KeyboardInterrupt from error
    if not is_agreed:
        raise core.RequestError("nothing was done", "the answer was no", f"{option} says yes without a question")


def is_asked() -> bool:
    """Whether there is a terminal for questions."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _parts(only: str) -> list[str]:
    return [part.strip() for part in only.split(",") if part.strip()]


@models.callback(cls=PanelGroup)
@takes()
def show_models(context: typer.Context, show: Display) -> None:
    """List the models and LoRAs that are installed, and those that can be downloaded."""
    if context.invoked_subcommand is None:
        list_models(show, core.own_library())


def list_models(show: Display, library: core.Library) -> None:
    """All named models and LoRAs, in tables."""
    for title, rows in core.model_tables(library).items():
        if rows:
            show.table(title, rows)


@models.command("rm", cls=PanelCommand)
@takes(REMOVE)
def remove(flags: dict[str, Any], show: Display, name: MaybeNameArg = None) -> None:
    """Remove a model or a LoRA. Files that another model needs are kept, and so are those of other programs."""
    if (name is None) is not bool(flags.get("partial")):
        raise core.RequestError("give either a name or --partial", hint="ltx2 models lists what is installed")
    paths: tuple[Path, ...]
    if name is None:
        paths = tuple(core.leftovers())
    else:
        removal = core.plan_removal(name, core.own_library())
        for file in removal.shared:
            show.say(f"{file.name} stays: another model needs it")
        for file in removal.elsewhere:
            show.say(f"{file} stays: another program keeps it there")
        paths = (*removal.removed, *removal.links)
    if not paths:
        show.say("there is nothing to remove")
        return
    nbytes = core.size_of(paths)
    confirm(
        f"remove {core.counted(len(paths), 'file')}, {core.show_bytes(nbytes)}?",
        "--yes",
        is_given=bool(flags.get("yes")),
    )
    core.remove_files(paths)
    show.say(f"removed {core.counted(len(paths), 'file')}, {core.show_bytes(nbytes)}")


@models.command(cls=PanelCommand)
@takes()
def verify(show: Display, name: MaybeNameArg = None) -> None:
    """Read installed files again and compare them with their checksums; of all models, or of one."""
    library = core.own_library()
    listener = core.Listener(on_progress=DownloadView(show).progress)
    verdicts: dict[Path, bool | None] = {}
    for one in core.installed_names(library) if name is None else [name]:
        verdicts |= core.verify_again(core.plan_download(one, library), listener)
    show.close()
    if not verdicts:
        if name is not None:
            raise core.StorageError(f"{name} is not installed", hint=f"ltx2 download {name}")
        show.say("there is nothing to verify")
        return
    show.table("verified", {str(path): VERDICTS[is_right] for path, is_right in verdicts.items()})
    if damaged := [path.name for path, is_right in verdicts.items() if is_right is False]:
        hint = f"ltx2 download {name or 'NAME'} fetches them again"
        raise core.StorageError(
            f"{core.counted(len(damaged), 'file')} of {len(verdicts)} damaged", ", ".join(damaged), hint
        )
