"""Facts about a named model or LoRA: its parts, and where its files are.

Source: docs/cli.md, "Output of inspect".
"""

from __future__ import annotations

import os

from ...errors import StorageError
from ...hub.find import find_model, own_files
from ...hub.installed import parts_of
from ...hub.library import Library
from ...hub.registry import Control, Reference
from ..resolve.library import own_library
from .folder import role_facts
from .words import Facts


def facts(what: str) -> Facts:
    """Facts about a registered model or LoRA, installed or not. what: its name as it was typed.

    Raises: RequestError for a settings file that cannot be read, since it may name folders with models.
    """
    library = own_library()
    name = what.lower()
    if name in library.catalogue.controls:
        yield from _lora(name, library)
        return
    model = library.catalogue.models[name]
    yield "kind", "a registered model"
    yield "name", name
    yield "summary", model.summary
    yield "generation", model.generation
    yield "precision", model.precision
    try:
        find_model(name, library.catalogue.models, library=library)
        yield "installed", "yes"
    except StorageError as error:
        yield "installed", f"no: {error.why}"
        yield "hint", error.hint
    there = own_files(name, model, library)
    yield from role_facts(there)
    absent = {role: place for role, place in model.files.items() if role not in there}
    published = {role: reference for role, place in absent.items() if (reference := Reference.parse(place))}
    for role, place in absent.items():
        name = published[role].last if role in published else place
        yield role.replace("_", " "), f"{name}, not here"
    if published:
        yield "published in", ", ".join(dict.fromkeys(one.repository for one in published.values()))
    if model.problem is not None:
        yield "problem", model.problem
    if os.path.lexists(what):
        yield "note", f"{what} is the model of that name; ./{what} is the file or folder here"


def _lora(name: str, library: Library) -> Facts:
    """Facts about a registered LoRA: its purpose, and where its file for each generation is."""
    control = library.catalogue.controls[name]
    yield "kind", "a registered LoRA"
    yield "name", name
    yield "summary", control.summary
    yield "option", _option(control)
    yield "strength", f"{control.strength:g}{', and no other' * control.is_strength_fixed}"
    if control.in_context:
        yield "reference", _reference(control)
    there = parts_of(name, library)
    for made, place in control.files.items():
        yield f"for {made}", str(there.get(made) or f"not installed: {place}")
    if control.problem is not None:
        yield "problem", control.problem
    elif there.keys() < control.files.keys():
        yield "hint", f"ltx2 download {name}"
    if os.path.lexists(name):
        yield "note", f"./{name} is the file or folder here"


def _option(control: Control) -> str:
    """The option that applies it."""
    if control.looks_at == "images":
        return "--lora with --ref, or --control"
    return "--control" if control.in_context else "--lora"


def _reference(control: Control) -> str:
    """The size of its reference clip, if its file does not say otherwise."""
    if control.spatial_scale == 1:
        return "a clip of the same size"
    return f"a clip of 1/{control.spatial_scale} of the width and height"
