"""Facts about a machine that are available without torch and without reading large files.

Something that is missing is a row with a hint, never an error.
Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata

from ...cards import Card, find_cards, torch_build
from ...disk import disk_reason, free_bytes, show_bytes
from ...errors import LTX2Error
from ...home import ltx2_home
from ...hub.installed import installed_models
from ...hub.library import Library
from ...hub.registry import read_catalogue, registered_models
from ...machine import available_bytes, container_bytes, cpu_name, cpu_threads, physical_bytes
from ...media.installed import encoders, library_versions
from ...version import __version__
from ...yaml_file import read_yaml
from ..resolve import machine
from ..resolve.library import own_library
from ..resolve.presets import names, read_tier
from ..resolve.setting_sources import config_files, read_environment
from ..resolve.tuning import AGAIN, read_tuning
from ..values import counted
from .report import Diagnosis, Fact

PACKAGE = "ltx2"
VARIABLES = ("LTX2_", "HF_")  # prefixes of the environment variables that are listed
OTHER_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS")
SECRET = "TOKEN"  # in the name of a variable whose value is secret
BUILD_PAGE = "install the build of torch for it, as https://pytorch.org/get-started/locally shows"
TOY = 'the built-in model runs here: ltx2 t2v "a lamp blinks" --model toy'


def diagnose() -> Diagnosis:
    """Collect everything except what a GPU can compute, which needs torch."""
    cards, devices = find_cards(), machine.devices()
    groups: dict[str, Callable[[], Iterator[Fact]]] = {
        "system": _system,
        "memory": _memory,
        "torch": partial(_torch, cards),
        "card": partial(_cards, cards),
        "FFmpeg": _media,
        "extras": _extras,
        "models": _models,
        "LTX2_HOME": _home,
        "settings": _settings,
        "variables": _environment,
        "tuning": partial(_tuning, devices),
        "verdict": partial(_verdict, cards, devices),
    }
    facts = [fact for name, group in groups.items() for fact in _collected(name, group)]
    return Diagnosis(tuple(facts), tuple(device.name for device in devices if device.name != "cpu"))


def _collected(name: str, group: Callable[[], Iterator[Fact]]) -> list[Fact]:
    """The rows of a group, up to the first that fails; the failure is a row too."""
    facts: list[Fact] = []
    try:
        facts.extend(group())
    except LTX2Error as error:
        facts.append(Fact(name, error.sentence, error.hint or "correct what is named here"))
    except (OSError, ImportError) as error:
        facts.append(Fact(name, f"cannot be looked at: {disk_reason(error)}"))
    return facts


def _system() -> Iterator[Fact]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    with suppress(OSError, AttributeError):
        system = f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, {system}"
    yield Fact("ltx2", __version__, shared="")
    yield Fact("system", system)
    yield Fact("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Fact("CPU", f"{cpu_name()}, {counted(cpu_threads(), 'compute thread')}")


def _memory() -> Iterator[Fact]:
    total, limit, available = physical_bytes(), container_bytes(), available_bytes()
    parts = [show_gib(total) if total else "the system does not tell"]
    if available is not None:
        parts.append(f"{show_gib(available)} available")
    if limit is not None and (not total or limit < total):
        parts.append(f"of which this container may use {show_gib(limit)}")
    yield Fact("memory", ", ".join(parts))


def _torch(cards: Sequence[Card]) -> Iterator[Fact]:
    build = torch_build()
    if build is None:
        yield Fact("torch", "not installed", "pip install torch, with the options that pytorch.org shows")
        return
    made_for = "the CPU alone"
    if machine.has_mps():
        made_for = "macOS"
    if build.maker is not None:
        made_for = f"ROCm (HIP {build.hip})" if build.hip else f"CUDA {build.cuda}"
    makers = {card.maker for card in cards}
    is_wrong = bool(makers) and build.maker not in makers
    todo = f"there is a card of {' and of '.join(sorted(makers))}: {BUILD_PAGE}" if is_wrong else ""
    yield Fact("torch", f"{build.version}, built for {made_for}", todo)


def _cards(cards: Sequence[Card]) -> Iterator[Fact]:
    for number, card in enumerate(cards):
        yield Fact("card" if len(cards) == 1 else f"card {number}", show_card(card))
    if machine.has_mps():
        yield Fact("card", "GPU of Apple silicon, which shares the memory of the machine")
    elif not cards:
        yield Fact("card", "none of NVIDIA or AMD")


def show_card(card: Card) -> str:
    """The known facts about a GPU, in one line."""
    memory = "its memory cannot be read"
    if card.nbytes:
        memory = f"{card.gb} GB as sold, {show_gib(card.nbytes)}"
    if card.free_bytes is not None:
        memory += f", {show_gib(card.free_bytes)} free"
    parts = [card.name, memory]
    if card.capability is not None:
        parts.append(f"compute capability {card.capability[0]}.{card.capability[1]}")
    if card.driver:
        parts.append(f"driver {card.driver}")
    return ", ".join(parts)


def _media() -> Iterator[Fact]:
    try:
        versions, there = library_versions(), encoders()
    except (ImportError, OSError) as error:
        yield Fact("FFmpeg", f"PyAV cannot be loaded: {error}", "pip install av")
        return
    yield Fact("FFmpeg", ", ".join(f"{name} {version}" for name, version in versions.items()))
    missing = [name for name, is_there in there.items() if not is_there]
    found = ", ".join(name for name, is_there in there.items() if is_there) or "none"
    todo = f"{', '.join(missing)}: not in this FFmpeg; pip install --force-reinstall av" if missing else ""
    yield Fact("encoders", found, todo)


def _extras() -> Iterator[Fact]:
    """Which optional extras are installed completely, according to this package's metadata."""
    needed: dict[str, list[str]] = {}
    for requirement in metadata.requires(PACKAGE) or ():
        found = re.match(r"([\w.-]+).*extra *== *['\"]([\w.-]+)['\"]", requirement)
        if found:
            needed.setdefault(found[2], []).append(found[1])
    installed = [extra for extra, packages in needed.items() if all(map(_is_installed, packages))]
    value = ", ".join(installed) or "none"
    if others := sorted(needed.keys() - set(installed)):
        value += f"; not installed: {', '.join(others)}"
    yield Fact("extras", value)


def _is_installed(package: str) -> bool:
    with suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False


def _models() -> Iterator[Fact]:
    library = Library(read_catalogue())
    with suppress(LTX2Error):  # an error in a settings file has its own row
        library = own_library()
    known = [model for model in installed_models(library) if model.name in library.catalogue.models]
    found = [model for model in known if model.is_installed]
    value = ", ".join(model.name for model in found if not model.lacking) or "none"
    if lacking := [model.name for model in found if model.lacking]:
        value += f"; installed, and not supported yet: {', '.join(lacking)}"
    others = len(known) - len(found)
    yield Fact("models", f"{value}; {others} more have a name and are not installed (ltx2 models)")


def _home() -> Iterator[Fact]:
    home = ltx2_home()
    room = f"{show_bytes(free_bytes(home))} free"
    yield Fact("LTX2_HOME", f"{home}, {room}", shared=room)


def _settings() -> Iterator[Fact]:
    files = config_files()
    for path in files:
        read_yaml(path)
    yield Fact("settings", ", ".join(map(str, files)) or "no file", shared=f"{len(files)} files")


def _environment() -> Iterator[Fact]:
    found = [name for name in sorted(os.environ) if name.startswith(VARIABLES) or name in OTHER_VARIABLES]
    yield Fact("environment", ", ".join(f"{name} (set)" if SECRET in name else name for name in found) or "nothing set")
    read_environment()  # raises for an unknown name, which becomes a separate row


def _tuning(devices: Sequence[machine.Device]) -> Iterator[Fact]:
    tuning = read_tuning()
    if tuning is None:
        yield Fact("tuning", "not measured (ltx2 doctor --tune)")
        return
    is_here = any(tuning.measured_on.is_same(machine.measured_on(device)) for device in devices)
    todo = "" if is_here else f"not used here; {AGAIN}"
    yield Fact("tuning", f"measured on {tuning.measured_on}", todo)


def _verdict(cards: Sequence[Card], devices: Sequence[machine.Device]) -> Iterator[Fact]:
    """The sizes that are recommended for this machine, with the GPU that torch uses or else could use."""
    card = next((one for one in (devices[0].card, *cards) if one is not None), None)
    if card is None and machine.has_mps():
        yield Fact("verdict", f"{TOY}; no size is recommended for a GPU that shares the machine's memory")
        return
    if card is None:
        yield Fact("verdict", f"{TOY}; real models need a card")
        return
    if not card.nbytes:
        yield Fact("verdict", f"{TOY}; no size is recommended, as the memory of the card cannot be read")
        return
    tiers = {name: read_tier(name) for name in names("tiers")}
    for name, tier in sorted(tiers.items(), key=lambda item: item[1].minimum_gb):
        needs = f"{tier.minimum_gb} GB at least, {tier.recommended_gb} GB recommended"
        verdict = "too large for this card"
        if card.gb >= tier.recommended_gb:
            verdict = "recommended for this card"
        elif card.gb >= tier.minimum_gb:
            verdict = "possible"
        yield Fact(name, f"{verdict} ({needs})")
    yield _whole_models(card)


def _whole_models(card: Card) -> Fact:
    """The published models that fit on a GPU completely: a render keeps the model that is running there."""
    needed = {name: model.card_gb for name, model in registered_models().items() if model.card_gb and not model.lacking}
    fitting = ", ".join(name for name, gb in needed.items() if gb <= card.gb)
    least = min(needed.values(), default=0)
    return Fact("fits whole", fitting or f"no published model: the smallest needs a card with {least} GB")


def show_gib(nbytes: int) -> str:
    """Memory in GiB, as drivers and systems count it."""
    return f"{nbytes / 2**30:.1f} GiB"
