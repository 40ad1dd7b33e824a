"""Facts that `ltx2 inspect` prints about folders, renders, names and settings files, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ltx2_core.errors import CheckpointError, RequestError, StorageError
from ltx2_core.headers import read_header
from ltx2_core.hub import find
from ltx2_core.latents import patchify_video
from ltx2_core.pipeline.describe.describe import describe
from ltx2_core.pipeline.describe.latents import is_latents
from ltx2_core.pipeline.job import Job, Saved
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.types import Streams
from tests.commands import ltx2, run_in_process
from tests.places import A_FILE

ROOT = Path(__file__).parents[2]
CHECKPOINT = "ltx-2-tiny-dev.safetensors"
ENCODER = "the folder of a text encoder"


# --- folders


def test_a_folder_tells_which_file_plays_which_role(tiny: Path) -> None:
    facts = describe(tiny)
    assert (facts["kind"], facts["generation"], facts["precision"]) == ("a folder with weight files", "2.0", "bf16")
    assert facts["checkpoint"].startswith(f"{CHECKPOINT}, ")
    assert facts["text encoder"].startswith("gemma, ")
    assert facts["upsampler x1.5"].startswith("ltx-2-tiny-spatial-upscaler-x1.5-1.0.safetensors, ")
    also = [text for name, text in facts.items() if name.startswith("also here")]
    assert "ltx-2-tiny-lora-style.safetensors is a LoRA" in also
    assert "problem" not in facts


def test_a_folder_tells_what_was_passed_over_and_why(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "cut.safetensors").write_bytes((tiny / CHECKPOINT).read_bytes()[:-1000])
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "gone.safetensors").symlink_to("/nowhere")
    (tmp_path / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    os.mkfifo(tmp_path / "pipe.safetensors")
    facts = describe(tmp_path)
    told = " | ".join(text for name, text in facts.items() if name.startswith("passed over"))
    for words in (
        "cut.safetensors is cut off",
        "empty.safetensors is empty",
        "a link to /nowhere",
        "LFS",
        "not a regular file",
    ):
        assert words in told
    assert facts["checkpoint"].startswith(CHECKPOINT)


def test_a_folder_of_nothing_but_broken_files_is_answered(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"a few words")
    facts = describe(tmp_path)
    assert facts["problem"] == "no whole model and no transformer lies here"
    assert facts["passed over"] == "a.safetensors cannot be opened: it is not a safetensors file"


def test_of_many_files_the_first_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.safetensors").touch()
    facts = describe(tmp_path)
    assert facts["passed over 20"] == "and 11 more"
    assert "passed over 21" not in facts


def test_a_folder_where_several_models_could_be_meant_says_how_to_choose(tiny: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).symlink_to(tiny / CHECKPOINT)
    facts = describe(tmp_path)
    assert "holds more than one checkpoint: a.safetensors, b.safetensors; --model FILE" in facts["problem"]
    assert facts["also here 2"] == "b.safetensors is a whole model without its text encoder"


def test_a_folder_of_diffusers_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    assert "in the layout of diffusers" in describe(tmp_path)["problem"]


def test_a_model_without_its_text_encoder_says_so(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).symlink_to(tiny / CHECKPOINT)
    assert describe(tmp_path)["problem"].startswith("no text encoder lies here; --text-encoder FOLDER")


def test_a_folder_without_anything_is_an_error_of_weights(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"holds nothing of a model\n.*\nhint: name a file.*, ltx2 report shows a batch"
    ):
        describe(tmp_path)


def hub_cache(tiny: Path, folder: Path) -> Path:
    """A cache of the Hub with a model in one repository and its text encoder in another."""
    model = folder / "models--Lightricks--LTX-2" / "snapshots" / "abc"
    encoder = folder / "models--google--gemma" / "snapshots" / "def"
    for place in (model, encoder):
        place.mkdir(parents=True)
    (model / CHECKPOINT).symlink_to(tiny / CHECKPOINT)
    for path in (tiny / "gemma").iterdir():
        (encoder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("", "the cache of the Hugging Face Hub"),
        ("models--Lightricks--LTX-2", "snapshot abc of a repository of the Hugging Face Hub"),
        ("models--Lightricks--LTX-2/snapshots/abc", "snapshot abc of a repository of the Hugging Face Hub"),
        ("models--google--gemma", ENCODER),
        ("models--google--gemma/snapshots/def", ENCODER),
    ],
)
def test_the_cache_of_the_hub_its_repositories_and_snapshots_are_known(
    inside: str, kind: str, tiny: Path, tmp_path: Path
) -> None:
    facts = describe(hub_cache(tiny, tmp_path) / inside)
    assert facts["kind"] == kind
    if kind != ENCODER:
        assert CHECKPOINT in facts["checkpoint"]
        assert "models--google--gemma" in facts["text encoder"]
        assert "also here" not in facts


def test_a_tree_of_comfyui_is_known(tiny: Path, tmp_path: Path) -> None:
    for name in ("checkpoints", "text_encoders", "loras"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / "checkpoints" / CHECKPOINT).symlink_to(tiny / CHECKPOINT)
    (tmp_path / "models" / "text_encoders" / "gemma").symlink_to(tiny / "gemma")
    facts = describe(tmp_path)
    assert facts["kind"] == "a tree of models of ComfyUI"
    assert facts["checkpoint"].startswith(f"models/checkpoints/{CHECKPOINT}, ")
    assert describe(tmp_path / "models" / "checkpoints")["kind"] == "a folder in a tree of models of ComfyUI"


def test_the_folder_of_a_text_encoder_tells_its_size_and_files(tiny: Path) -> None:
    facts = describe(tiny / "gemma")
    assert (facts["kind"], facts["model type"]) == (ENCODER, "gemma3")
    assert facts["language model"] == "7 layers, 32 wide"
    assert (facts["tokenizer"], facts["weights"]) == ("tokenizer.json", "model.safetensors")
    assert "problem" not in facts


def test_a_text_encoder_that_is_incomplete_says_what_it_lacks(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tiny / "gemma" / "config.json")
    facts = describe(tmp_path)
    assert facts["language model"] == "7 layers, 32 wide"
    assert "has no tokenizer.json" in facts["problem"]


# --- renders and their latents


def make_job(tiny: Path, folder: Path, **flags: object) -> Job:
    given = {"model": str(tiny), "preset": "distilled", "res": "128x128", "frames": 9, "seed": 1}
    found = resolve("t2v", "a bell rings", [(A_FILE, {**given, "output": str(folder / "x.mp4"), **flags})])
    return Job.create(found.job_dir, found.task, {})


def latents() -> Streams[torch.Tensor]:
    return Streams(torch.zeros(1, 128, 2, 4, 4), torch.zeros(1, 8, 9, 16))


def test_a_job_tells_how_far_it_came_and_what_goes_on_with_it(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    facts = describe(job.folder)
    assert facts["kind"] == "a job folder"
    assert facts["state"] == "stage 1 of 2 is not finished: 0 of 8 steps are done"
    assert facts["stages"] == "0 of 2 finished"
    assert facts["goes on with"] == f"ltx2 resume {job.folder}"
    assert facts["output"] == str(tmp_path / "x.mp4")
    assert (facts["prompt"], facts["seed"], facts["mode"]) == ("a bell rings", "1", "t2v")
    assert facts["checkpoint"] == str(tiny / CHECKPOINT)
    assert "missing" not in facts


def test_a_job_that_was_stopped_inside_a_stage_tells_the_step(tiny: Path, tmp_path: Path) -> None:
    job, generator = make_job(tiny, tmp_path), torch.Generator()
    job.save(1, latents(), generator)
    tokens = Streams(patchify_video(torch.zeros(1, 128, 2, 4, 4)), None)
    job.save_stopped(2, Saved(tokens, generator.get_state(), step=2))
    facts = describe(job.folder)
    assert facts["state"] == "stage 2 of 2 is not finished: 2 of 3 steps are done"
    stopped = describe(job.folder / "stopped-2.safetensors")
    assert stopped["kind"] == "latents of a stage that was stopped, as tokens"
    assert (stopped["stage"], stopped["step"], stopped["video"]) == ("2 of 2", "2", "F32 1x32x128")
    assert "decodes to" not in stopped


def test_a_job_whose_stages_are_done_is_decoded_next(tiny: Path, tmp_path: Path) -> None:
    job, generator = make_job(tiny, tmp_path, keep_latents=True), torch.Generator()
    for stage in (1, 2):
        job.save(stage, latents(), generator)
    assert describe(job.folder)["state"] == "all stages are finished; what is left is to decode their latents"
    (tmp_path / "x.mp4").touch()
    facts = describe(job.folder)
    assert facts["state"] == "finished, and its latents are kept"
    assert facts["goes on with"] == f"ltx2 decode {job.folder} -o FILE"
    assert facts["output"] == f"{tmp_path / 'x.mp4'}, which exists"


def test_an_output_that_is_not_there_yet_is_its_job(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    assert describe(str(tmp_path / "x.mp4")) == describe(job.folder)


def test_files_of_a_job_that_are_gone_are_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for path in tiny.iterdir():
        (tmp_path / "m" / path.name).symlink_to(path)
    job = make_job(tmp_path / "m", tmp_path)
    job.save(1, latents(), torch.Generator())
    (tmp_path / "m" / CHECKPOINT).unlink()
    (job.folder / "latents-1.safetensors").unlink()
    facts = describe(job.folder)
    assert facts["missing"] == str(tmp_path / "m" / CHECKPOINT)
    assert facts["missing 2"] == str(job.folder / "latents-1.safetensors")


def test_a_damaged_job_is_an_error_of_files(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(StorageError, match="is damaged"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("names", "metadata"),
    [
        (["video", "generator"], {}),
        (["video", "audio"], {"step": "1"}),
        (["generator"], {"step": "1"}),
        (["video", "generator", "other"], {"step": "1"}),
    ],
)
def test_what_lacks_a_part_of_saved_latents_is_something_else(
    names: list[str], metadata: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "latents-1.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path, metadata)
    assert not is_latents(read_header(path))


def test_saved_latents_tell_what_they_decode_to(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, latents(), torch.Generator())
    facts = describe(job.folder / "latents-1.safetensors")
    assert (facts["kind"], facts["stage"]) == ("saved latents", "1 of 2")
    assert (facts["video"], facts["audio"]) == ("F32 1x128x2x4x4", "F32 1x8x9x16")
    assert facts["decodes to"] == "9 frames of 128x128 at 24 fps, 0.36 s of audio"
    assert facts["of the render"] == "t2v, seed 1, x.mp4"


def test_latents_away_from_their_render_are_told_alone(tmp_path: Path) -> None:
    path = tmp_path / "latents-3.safetensors"
    save_file({"audio": torch.zeros(1, 8, 50, 16), "generator": torch.zeros(8, dtype=torch.uint8)}, path, {"step": "0"})
    facts = describe(path)
    assert (facts["stage"], facts["decodes to"]) == ("3", "2 s of audio")
    assert "of the render" not in facts


# --- names, settings files, and anything else


def test_the_model_that_comes_along_is_told_with_its_files() -> None:
    facts = describe("Toy")
    assert (facts["kind"], facts["name"], facts["installed"]) == ("a registered model", "toy", "yes")
    assert facts["transformer"].startswith(f"{find.PACKAGE / 'toy' / 'transformer.safetensors'}, ")
    assert "note" not in facts


def test_a_model_that_is_not_installed_tells_what_it_consists_of() -> None:
    facts = describe("ltx-2")
    assert facts["installed"].startswith("no: looked in ")
    assert facts["checkpoint"] == "ltx-2-19b-dev.safetensors, not here"
    assert facts["text encoder"] == "gemma-3-12b-it-qat-q4_0-unquantized, not here"
    assert facts["published in"] == "Lightricks/LTX-2, Lightricks/gemma-3-12b-it-qat-q4_0-unquantized"
    assert "ltx2 download ltx-2" in facts["hint"]


def test_a_name_goes_before_a_file_of_that_name_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy").write_text("words")
    assert describe("toy")["note"] == "toy is the model of that name; ./toy is the file or folder here"
    with pytest.raises(CheckpointError, match="toy cannot be opened"):
        describe("./toy")


def test_a_word_that_is_neither_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"there is no tyo\n.*\nhint: did you mean toy"):
        describe("tyo")


def test_a_file_of_settings_shows_them_and_the_presets_in_it(tmp_path: Path) -> None:
    path = tmp_path / "ltx2.yaml"
    path.write_text("steps: 7\npresets:\n  mine: {preset: one-stage, res: 480p}\n")
    facts = describe(path)
    assert (facts["kind"], facts["steps"]) == ("a file of settings", "7")
    assert json.loads(facts["preset mine"]) == {"preset": "one-stage", "res": "480p"}


def test_a_wrong_file_of_settings_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ltx2.yaml"
    path.write_text("stpes: 7\n")
    with pytest.raises(RequestError, match=r"(?s)unknown setting stpes.*line 1.*did you mean steps"):
        describe(path)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("recipes/two-stage", "a recipe"),
        ("models/toy", "the entry of a model"),
        ("tiers/480p", "the entry of a size"),
        ("generations/2.0", "the defaults of a generation"),
        ("smoke", "a file of settings"),
    ],
)
def test_files_of_presets_that_come_along_are_known(file: str, kind: str) -> None:
    assert describe(ROOT / "presets" / f"{file}.yaml")["kind"] == kind


@pytest.mark.parametrize(("name", "code"), [("pipe", 7), ("pipe.safetensors", 7), ("pipe.mp4", 3), ("pipe.png", 3)])
def test_a_pipe_is_never_opened(name: str, code: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    result = ltx2("inspect", tmp_path / name)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "it is not a regular file" in result.stderr


def test_json_is_one_output_event_with_the_facts(tiny: Path) -> None:
    output, summary = [json.loads(line) for line in ltx2("inspect", tiny, "--json").stdout.splitlines()]
    assert (output["event"], output["title"], output["facts"]) == ("output", tiny.name, describe(tiny))
    assert summary["event"] == "summary"


INSPECT_ALL = """
import json, sys
from typer.testing import CliRunner
from ltx2_cli.app import app

for what, code, needed in json.load(sys.stdin):
    result = CliRunner().invoke(app, ["inspect", what])
    assert result.exit_code == code, (what, result.stderr)
    heavy = {"torch", "transformers", "av", "numpy"} & sys.modules.keys() - {*needed}
    assert not heavy, (what, heavy)
"""


def test_nothing_is_told_by_heavy_libraries_but_clips_by_pyav(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, latents(), torch.Generator())
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    whats = [tiny, tiny / CHECKPOINT, tiny / "gemma", tiny / "ltx-2-tiny-lora-style.safetensors", job.folder]
    whats += [job.folder / "latents-1.safetensors", tmp_path / "x.mp4", tmp_path / "a.png", "toy", "ltx-2"]
    cases = [(str(what), 0, []) for what in whats] + [("tyo", 2, []), ("lost.safetensors", 7, [])]
    cases.append((str(ROOT / "tests" / "media" / "hlg.mov"), 0, ["av"]))
    done = run_in_process(INSPECT_ALL, cases, tmp_path / "home")
    assert done.returncode == 0, done.stderr


def test_a_lora_that_has_a_name_tells_where_its_file_is_for_each_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    place = "Lightricks/LTX-2-19b-IC-LoRA-Union-Control/ltx-2-19b-ic-lora-union-control-ref0.5.safetensors"
    path = tmp_path / "models" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    facts = describe("Union")
    assert (facts["kind"], facts["option"], facts["for 2.0"]) == ("a registered LoRA", "--control", str(path))
    assert facts["for 2.3"].startswith("not installed: Lightricks/LTX-2.3")
    assert facts["hint"] == "ltx2 download union"
    monkeypatch.chdir(tmp_path)
    assert "note" not in facts
    (tmp_path / "union").touch()
    assert describe("union")["note"] == "./union is the file or folder here"
