"""A registered model may have two video VAEs: which of them a render uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2_core.config.video_vae import DecoderName
from ltx2_core.hub.find import find_model
from ltx2_core.hub.registry import registered_models

DIFFUSION, CONV = "ltx-2.5-video-vae-bf16.safetensors", "ltx-2.5-video-vae-conv-bf16.safetensors"


def installed(home: Path, *left_out: str) -> None:
    """Empty files under the published names, in the folder for files that a user adds by hand."""
    folder = home / "models" / "ltx-2.5"
    folder.mkdir(parents=True)
    for place in registered_models()["ltx-2.5"].files.values():
        if Path(place).name not in left_out:
            (folder / Path(place).name).touch()


@pytest.mark.parametrize(
    ("left_out", "decoder", "taken"),
    [
        ((), None, DIFFUSION),
        ((), "diffusion", DIFFUSION),
        ((), "conv", CONV),
        ((CONV,), "conv", DIFFUSION),  # this is refused later, with a hint
        ((DIFFUSION,), None, CONV),
    ],
)
def test_the_file_with_the_wanted_decoder_is_taken(
    left_out: tuple[str, ...],
    decoder: DecoderName | None,
    taken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    installed(tmp_path, *left_out)
    found = find_model("ltx-2.5", registered_models(), decoder=decoder)
    assert found.paths["video_vae"].name == taken
    assert "video_vae_conv" not in found.paths


def test_a_given_file_goes_before_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    installed(tmp_path)
    mine = tmp_path / "mine.safetensors"
    found = find_model("ltx-2.5", registered_models(), {"video_vae": mine}, decoder="conv")
    assert found.paths["video_vae"] == mine
