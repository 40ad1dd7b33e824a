"""Help as plain text of at most 80 columns, the options under the titles of their panels, in one column of names."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

import ltx2_core as core

from .wrap import wrapped

TOPICS = {
    "guidance": """\
st, sm and stg are guidance scales, one of each per stream. st guides towards the text, sm towards the other stream, stg
away from a prediction without self-attention in some blocks. Guided presets use --video-st 3 --video-sm 3
--audio-st 7 --audio-sm 3 and, for stg and rescale, the model's own values. They are scales in the sense of the official
settings cfg_scale and modality_scale: the weight on a direction is the scale minus one, so 1 disables it, and the
defaults give the official output. For stg, 0 disables it.""",
    "settings": """\
Every option of a render can also be given in ./ltx2.yaml and in config.yaml in the folder LTX2_HOME, as "steps: 30",
and in the environment, as LTX2_STEPS=30. The first of these places that sets an option wins: the command line, the
environment, the file of --config, ./ltx2.yaml, config.yaml. These files can also define presets, under "presets:"; a
preset comes directly below the place that names it.""",
    "jobs": """\
A .txt file has one prompt per line; lines that begin with # are comments. A .jsonl file has one JSON object per line,
and the first row of a .csv file names the keys of the rows below. A .yaml file has a list of jobs, or jobs: with
defaults: for all of them. The keys of a job are mode (t2v where there is none), prompt, input (the image, clip or audio
that the mode starts from), name (of its file), and the options of its mode, such as steps: 30. Paths are relative to
the current folder.""",
}
WIDEST_NAME = 28
MOST_COLUMNS = 80
LAST = "Other"  # the panel of the options that every command has


def panels_of(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """How each argument and option is typed, with its text, by the title of its panel; the options of every command
    last.
    """
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    for one in (one for one in command.get_params(context) if not getattr(one, "hidden", False)):
        title = "Arguments" if one.param_type_name == "argument" else one.rich_help_panel or LAST
        panels.setdefault(title, []).append((written(one), filled(one, one.help)))
    panels[LAST] = panels.pop(LAST)
    return panels


def write_panels(command: Any, context: Any, formatter: Any) -> None:
    """A list for each panel: arguments, options by their titles, then the options of every command."""
    panels = panels_of(command, context)
    width = min(WIDEST_NAME, max(len(name) for rows in panels.values() for name, _ in rows))
    for title, rows in panels.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in rows], col_max=WIDEST_NAME)


def written(parameter: Any) -> str:
    """How an option or an argument is typed."""
    if parameter.param_type_name == "argument":
        return parameter.metavar
    names = ", ".join(sorted([*parameter.opts, *parameter.secondary_opts], key=len))
    return f"{names} {filled(parameter, parameter.metavar)}" if parameter.metavar else names


def filled(parameter: Any, text: str) -> str:
    """A help text with core's facts about the setting filled in: %(choices)s and %(default)s."""
    if "%(" not in text:
        return text
    return text % {"choices": core.choices_text(parameter.name), "default": core.default_text(parameter.name)}


def help_text(name: str | None, group: Any, context: Any) -> str:
    """The help of a command or of a topic; without a name, that of the group. context: in which the group runs.

    Raises: RequestError for a name that is neither.
    """
    if name is None:
        return group.get_help(context)
    if name in TOPICS:
        return wrapped(TOPICS[name], MOST_COLUMNS)
    if name in group.commands:
        command = group.commands[name]
        return command.get_help(type(context)(command, info_name=name, parent=context))
    topics = ", ".join([*group.commands, *TOPICS])
    raise core.RequestError(f"there is no help about {name}", hint=f"ltx2 help takes {topics}")


class PanelCommand(TyperCommand):
    """A command whose help has panels."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*(written(one) for one in self.params if one.param_type_name == "argument"), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_panels(self, ctx, formatter)


class PanelGroup(TyperGroup):
    """The same for a group: its commands, then its own options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=200)) for name, command in self.commands.items()]
            )
        write_panels(self, ctx, formatter)
