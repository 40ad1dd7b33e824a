"""Contexts of earlier prompts are stored on disk, and read again with the same bytes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from ltx2_core.home import ltx2_home
from ltx2_core.text.cache import ContextCache
from ltx2_core.text.encode import TextContext

ROWS = 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def cache(**changes) -> ContextCache:
    return ContextCache(**{"encoder": "e", "weights": "w", "rows": ROWS, "dtype": torch.bfloat16, **changes})


def made(prompts: list[str]) -> list[TextContext]:
    """Contexts that depend on the prompt and are bfloat16, as in a real run."""
    values = [torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(len(prompt))) for prompt in prompts]
    return [TextContext(video=value.bfloat16(), audio=-value.bfloat16()) for value in values]


def not_called(prompts: list[str]) -> list[TextContext]:
    raise AssertionError(f"{prompts} should have been known")


def same(one: TextContext, other: TextContext) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("video", "audio"))


def entries(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_a_kept_context_has_the_same_bytes(home: Path) -> None:
    first = cache().recall(["a fox", " a fox\n", "snow"], made)
    again = cache().recall(["a fox", " a fox\n", "snow"], not_called)
    assert all(map(same, first, again))
    assert same(first[0], first[1])
    assert again[0].video.dtype == torch.bfloat16
    assert len(entries(home)) == 2


@pytest.mark.parametrize("change", [{"encoder": "x"}, {"weights": "x"}, {"rows": 128}, {"dtype": torch.float32}])
def test_contexts_of_other_weights_or_settings_are_not_mixed_up(home: Path, change: dict) -> None:
    cache().recall(["a fox"], made)
    asked: list[str] = []
    cache(**change).recall(["a fox"], lambda prompts: asked.extend(prompts) or made(prompts))
    assert asked == ["a fox"]


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-3] + b"\0\1\2", lambda raw: b""]
)
def test_a_damaged_entry_is_regenerated_frames_and_repaired(home: Path, damage) -> None:
    (first,) = cache().recall(["a fox"], made)
    (path,) = entries(home)
    path.write_bytes(damage(path.read_bytes()))
    assert same(cache().recall(["a fox"], made)[0], first)
    assert same(cache().recall(["a fox"], not_called)[0], first)


def test_a_cache_that_cannot_be_written_only_warns(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    home.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger="ltx2"):
        contexts = cache().recall(["a fox", "no fox"], made)
    assert same(contexts[0], made(["a fox", "no fox"])[0])
    (message,) = caplog.messages  # one message, although two prompts are not stored
    assert message.startswith(f"encoded prompts are not kept: {home} cannot be written")


def test_the_home_folder_is_where_the_environment_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ltx2_home() == home
    monkeypatch.delenv("LTX2_HOME")
    assert ltx2_home().name == "ltx2"
