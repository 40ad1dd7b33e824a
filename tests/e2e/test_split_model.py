"""A model whose parts are in separate files gives the same render as the whole file; parts that do not fit are
refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.components import DIT, SPLIT, Role
from ltx2_core.headers import read_header
from ltx2_core.hub import find
from ltx2_core.hub.registry import RegisteredModel
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.resolve import basis
from tests import commands
from tests.commands import UNGUIDED

pytestmark = pytest.mark.usefixtures("kept_models")

RUN = CliRunner()
WHOLE = "ltx-2-tiny-dev.safetensors"
PREFIXES = {
    "transformer": ("model.diffusion_model.", "text_embedding_projection."),
    "video_vae": ("vae.",),
    "audio_vae": ("audio_vae.", "vocoder."),
}
SECTIONS = {"transformer": ("transformer", "scheduler"), "video_vae": ("vae",), "audio_vae": ("audio_vae", "vocoder")}


def write_part(
    tiny: Path, out: Path, role: str, keeps: Callable[[str], bool] = lambda name: True, config: Mapping | None = None
) -> Path:
    """Write one part of the tiny model as a separate file, with its sections of the config."""
    whole = read_header(tiny / WHOLE)
    weights: dict[str, Tensor] = {
        name.removeprefix("vae."): tensor
        for name, tensor in load_file(tiny / WHOLE).items()
        if name.startswith(PREFIXES[role]) and keeps(name)
    }
    config = {section: whole.config[section] for section in SECTIONS[role]} | dict(config or {})
    path = out / f"{role}.safetensors"
    save_file(weights, path, {"config": json.dumps(config)})
    return path


@pytest.fixture(scope="module")
def split(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model in three files, its text encoder, upsampler and distilled LoRA."""
    folder = tmp_path_factory.mktemp("split")
    for role in PREFIXES:
        write_part(tiny, folder, role)
    for path in tiny.iterdir():
        if path.name != WHOLE:
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The bytes of a two-stage clip with a LoRA, without the recipe, which contains the names of the files."""

    def render(model: Path | str, *words: object) -> bytes:
        target = tmp_path_factory.mktemp("clip") / "a.mp4"
        common = [
            "--preset",
            "two-stage",
            "--res",
            "128x128",
            "--frames",
            "9",
            "--steps",
            "2",
            "--seed",
            "7",
            *UNGUIDED,
        ]
        given = ["--model", model, *words, *common, "--no-metadata", "-o", target]
        result = RUN.invoke(app, ["t2v", "a bell rings", *map(str, given)])
        assert result.exit_code == 0, result.stderr
        return target.read_bytes()

    return render


@pytest.fixture(scope="module")
def from_the_whole(tiny: Path, render: Callable[..., bytes]) -> bytes:
    return render(tiny, "--lora", tiny / "ltx-2-tiny-lora-style.safetensors")


def refused(*words: object) -> str:
    return commands.refused(7, "t2v", "a bell rings", *words)


@pytest.mark.parametrize("model", ["", "transformer.safetensors"], ids=["folder", "transformer"])
def test_parts_give_the_bytes_of_the_whole(
    model: str, tiny: Path, split: Path, render: Callable[..., bytes], from_the_whole: bytes
) -> None:
    assert render(split / model, "--lora", tiny / "ltx-2-tiny-lora-style.safetensors") == from_the_whole


def test_a_whole_without_prefixes_gives_the_bytes_of_the_official_names(
    tiny: Path, tmp_path: Path, render: Callable[..., bytes], from_the_whole: bytes
) -> None:
    for path in tiny.iterdir():
        if path.name != WHOLE:
            (tmp_path / path.name).symlink_to(path)
    weights = {name.removeprefix(DIT): tensor for name, tensor in load_file(tiny / WHOLE).items()}
    save_file(weights, tmp_path / WHOLE, dict(read_header(tiny / WHOLE).metadata))
    assert render(tmp_path, "--lora", tiny / "ltx-2-tiny-lora-style.safetensors") == from_the_whole


def test_parts_by_option_replace_those_of_the_whole(
    tiny: Path, split: Path, tmp_path: Path, render: Callable[..., bytes], from_the_whole: bytes
) -> None:
    lora = ("--lora", tiny / "ltx-2-tiny-lora-style.safetensors")
    options = {role: f"--{role.replace('_', '-')}" for role in PREFIXES}
    same = [word for role, option in options.items() for word in (option, split / f"{role}.safetensors")]
    assert render(tiny, *lora, *same) == from_the_whole
    for role, option in options.items():
        assert render(tiny, *lora, option, darker(split / f"{role}.safetensors", tmp_path)) != from_the_whole


def darker(part: Path, folder: Path) -> Path:
    """A copy of a part whose last layers give half of the original output."""
    ends = ("proj_out.weight", "decoder.conv_out.conv.weight")
    weights = {name: tensor * 0.5 if name.endswith(ends) else tensor for name, tensor in load_file(part).items()}
    path = folder / part.name
    save_file(weights, path, dict(read_header(part).metadata))
    return path


def test_text_side_and_vocoder_of_the_whole_stay_where_a_part_lacks_them(
    tiny: Path, tmp_path: Path, render: Callable[..., bytes], from_the_whole: bytes
) -> None:
    lora = ("--lora", tiny / "ltx-2-tiny-lora-style.safetensors")
    bare = write_part(tiny, tmp_path, "transformer", lambda name: "connector" not in name and "text_" not in name)
    mute = write_part(tiny, tmp_path, "audio_vae", lambda name: not name.startswith("vocoder."))
    assert render(tiny, *lora, "--transformer", bare, "--audio-vae", mute) == from_the_whole


@pytest.fixture
def registered(split: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a model whose parts are in a folder of the package."""
    files: dict[Role, str] = {
        **{role: f"{role}.safetensors" for role in SPLIT},
        "text_encoder": "gemma",
        "upsampler": "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors",
        "distilled_lora": "ltx-2-tiny-distilled-lora.safetensors",
    }
    model = RegisteredModel(summary="", generation="2.0", files=files, folder=split.name)
    monkeypatch.setattr(basis, "registered_models", lambda: {"small": model})
    monkeypatch.setattr(find, "PACKAGE", split.parent)
    return "small"


def test_model_with_a_name_may_be_parts_inside_the_package(
    registered: str, tiny: Path, render: Callable[..., bytes], from_the_whole: bytes
) -> None:
    assert render(registered, "--lora", tiny / "ltx-2-tiny-lora-style.safetensors") == from_the_whole


def test_recipe_names_the_files_that_were_read(tiny: Path, split: Path, tmp_path: Path) -> None:
    words = ["--preset", "smoke", "--seed", "1", "-o", str(tmp_path / "a.mp4")]
    parts = ["--model", str(tiny), "--video-vae", str(split / "video_vae.safetensors")]
    result = RUN.invoke(app, ["t2v", "a bell rings", *parts, *words])
    assert result.exit_code == 0, result.stderr
    files = json.loads(probe(tmp_path / "a.mp4").comment or "")["model"]["files"]
    assert {role: file["name"] for role, file in files.items()} == {
        "checkpoint": WHOLE,
        "video_vae": "video_vae.safetensors",
        "text_encoder": "gemma",
    }


def test_inspect_says_what_a_part_holds(split: Path) -> None:
    told = {
        role: RUN.invoke(app, ["inspect", str(split / f"{role}.safetensors"), "--json"]).stdout for role in PREFIXES
    }
    held = {role: json.loads(text.splitlines()[0])["facts"]["holds"] for role, text in told.items()}
    assert held == {
        "transformer": "transformer, video connector, audio connector, text projection",
        "video_vae": "video encoder, video decoder, video statistics",
        "audio_vae": "audio encoder, audio decoder, vocoder",
    }


def test_file_without_the_part_it_is_named_for_is_refused(tiny: Path, split: Path) -> None:
    told = refused("--model", tiny, "--transformer", split / "audio_vae.safetensors")
    assert "--transformer audio_vae.safetensors cannot be used" in told
    assert "it is an audio VAE or vocoder" in told


def test_part_that_is_nowhere_is_named(tiny: Path, split: Path, tmp_path: Path) -> None:
    (tmp_path / "gemma").symlink_to(split / "gemma")
    (tmp_path / "transformer.safetensors").symlink_to(split / "transformer.safetensors")
    told = refused("--model", tmp_path)
    assert "has no video vae" in told
    assert "--video-vae FILE" in told
    mute = write_part(tiny, tmp_path, "audio_vae", lambda name: not name.startswith("vocoder."))
    told = refused("--model", tmp_path, "--audio-vae", mute, "--video-vae", split / "video_vae.safetensors")
    assert "audio_vae.safetensors has no vocoder" in told


def test_two_files_for_a_part_need_a_choice(split: Path, tmp_path: Path) -> None:
    for path in split.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "another.safetensors").symlink_to(split / "video_vae.safetensors")
    told = refused("--model", tmp_path)
    assert "holds more than one video vae" in told
    assert "another.safetensors, video_vae.safetensors" in told
    assert "hint: --video-vae FILE" in told


@pytest.mark.parametrize("role", ["video_vae", "audio_vae"])
def test_latents_of_another_width_are_refused(role: str, tiny: Path, tmp_path: Path) -> None:
    section = SECTIONS[role][0]
    config = json.loads(json.dumps(read_header(tiny / WHOLE).config[section]))
    if role == "video_vae":
        config["latent_channels"] = 48
    else:
        config["model"]["params"]["ddconfig"]["z_channels"] = 4
    narrow = write_part(tiny, tmp_path, role, config={section: config})
    told = refused("--model", tiny, f"--{role.replace('_', '-')}", narrow)
    assert f"{role}.safetensors does not go with {WHOLE}" in told
    assert f"have {48 if role == 'video_vae' else 64} values to a token, and the transformer takes 128" in told


def test_parts_of_different_generations_are_refused(tiny: Path, split: Path, tmp_path: Path) -> None:
    weights = {
        name.replace("caption_projection.linear_1", "prompt_adaln_single.linear"): tensor
        for name, tensor in load_file(split / "transformer.safetensors").items()
        if not name.startswith("text_embedding_projection.")
    }
    path = tmp_path / "newer.safetensors"
    save_file(weights, path, dict(read_header(split / "transformer.safetensors").metadata))
    told = refused("--model", tiny, "--transformer", path)
    assert "these files are not parts of one model" in told
    assert f"newer.safetensors is of generation 2.3, {WHOLE} of 2.0" in told
