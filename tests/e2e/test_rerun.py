"""`ltx2 rerun`: the recipe in a finished file gives the same bytes again, and settings in it can be changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest
from PIL import Image

import ltx2_core as core
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.request import Extension
from ltx2_core.text.enhance import Answer, Writer
from tests.commands import AUDIO_UNGUIDED, UNGUIDED, VIDEO_UNGUIDED, ltx2, made_in, refused, rendered
from tests.e2e.test_auto_duration import write_head
from tests.synthetic_media import packets, write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

GEMMA_3 = Path(__file__).parents[1] / "golden/text/2.0/gemma"
STYLE, DEPTH = "ltx-2-tiny-lora-style.safetensors", "ltx-2-tiny-ic-lora-ref0.5.safetensors"
SHORT = ("--steps", 2, "--seed", 3)
SMALL = ("--res", "64x64", *SHORT)
TWICE = ("--res", "128x128", "--frames", 9, "--seed", 3)
CLIP, PHOTO, SOUND, OPUS = "clip.mp4", "photo.png", "bell.wav", "bell.ogg"
EVERY_MODE = {
    "t2v": ("t2v", "a bell rings", *SMALL, "--frames", 9, "--fps", "23.976", "--negative", "blurry", "--audio-st", 2),
    "t2v-silent": ("t2v", "a bell", *SMALL, "--frames", 9, "--video-st=1", "--sound", "off", "--crf", 30),
    "t2v-tier": ("t2v", "a {bell}", "--preset", "distilled", "--res", "480p", "--frames", 1, "--aspect", "9:16"),
    "t2v-sigmas": ("t2v", "a bell", "--res", "64x64", "--frames", 9, "--sigmas", "1,0.6,0.1,0", *UNGUIDED),
    "wav": ("t2v", "a bell", *SHORT, "--frames", 17, "--video", "off", "--audio-st=1", "-o", "a.wav"),
    "flac": ("t2v", "a bell", *SHORT, "--frames", 17, "--video", "off", "--audio-st=1", "-o", "a.flac"),
    "distilled": ("t2v", "a bell", *TWICE, "--preset", "distilled", "--lora", STYLE, "--config", "own.yaml"),
    "hq": ("t2v", "a bell", *TWICE, "--preset", "hq", "--steps", 2, *UNGUIDED, "--lora", f"{STYLE}:0.3"),
    "i2v": ("i2v", PHOTO, *SMALL, "--frames", 9, *UNGUIDED, "--image", f"{PHOTO}@last:0.35", "--config", "own.yaml"),
    "keyframes": ("i2v", PHOTO, *TWICE, "--preset", "keyframes", "--steps", 2, *UNGUIDED, "--image", f"{PHOTO}@4"),
    "restyle": ("v2v", CLIP, "a bell", *SMALL, *VIDEO_UNGUIDED, "--strength", 0.4, "--sound", "keep"),
    "extend": ("v2v", CLIP, "a bell", *SMALL, *UNGUIDED, "--extend", "0.5s", "--extend-before", "0.4s"),
    "retake": ("v2v", CLIP, "a bell", *SMALL, *UNGUIDED, "--retake", "0.4s-0.9s", "--start", "0.25s", "--frames", 17),
    "retake-audio": ("v2v", CLIP, *SMALL, *AUDIO_UNGUIDED, "--retake", "0.3s-0.7s", "--video", "keep"),
    "control": (
        "v2v",
        CLIP,
        *TWICE,
        "--sigmas",
        "1,0.5,0",
        "--control",
        f"{DEPTH}:0.8",
        "--lora",
        STYLE,
        "--start",
        "0.1s",
    ),
    "upscale": ("v2v", CLIP, "a bell", "--upscale", 2, "--seed", 3, "--strength", 0.8, "--start", "0.1s"),
    "loop": ("t2v", "a bell", *SMALL, "--frames", 25, *UNGUIDED, "--loop"),
    "a2v": ("a2v", SOUND, "a bell", *SMALL, *VIDEO_UNGUIDED, "--codec", "h265"),
    "a2v-part": ("a2v", OPUS, *SMALL, *VIDEO_UNGUIDED, "--start", "0.2s", "--duration", "0.3s", "--image", PHOTO),
    "v2a": ("v2a", CLIP, "a bell", *SMALL, *AUDIO_UNGUIDED, "--old-sound", "second-track"),
    "v2a-part": ("v2a", CLIP, *SMALL, *AUDIO_UNGUIDED, "--start", "0.3s", "--duration", "0.4s"),
}

ONLY_2_0 = {"distilled", "hq", "control"}  # their LoRAs only fit the tiny model of generation 2.0
LACKING = {("t2v-tier", "toy"), ("t2v-tier", "2.5"), ("keyframes", "2.5")}  # the model lacks sizes or files
ELSEWHERE = [
    (name, model)
    for model in ("toy", "2.3", "2.5")
    for name in EVERY_MODE
    if name not in ONLY_2_0 and (name, model) not in LACKING
]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 28 frames with audio, an image and a second of audio in two formats."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / CLIP, frames=28, size=(96, 64), sound="aac")
    Image.effect_mandelbrot((80, 60), (-2, -1.5, 1, 1.5), 40).convert("RGB").save(folder / PHOTO)
    write_sound(folder / SOUND)
    write_sound(folder / OPUS, "libopus")
    return folder


@pytest.fixture
def make(tiny: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run a command with the tiny model in its own folder; media and LoRAs are named without their folders."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("tiles: 2x1\nimage_crf: 20\n")  # settings without a command line option
    places = {name: media / name for name in (CLIP, PHOTO, SOUND, OPUS)} | {
        name: tiny / name for name in (STYLE, DEPTH)
    }

    def made(*words: object, model: Path = tiny) -> Path:
        whole = [_placed(str(word), places) for word in words]
        target = [] if "-o" in whole else ["-o", f"a{Path(whole[1]).suffix if whole[0] == 'v2a' else '.mp4'}"]
        return rendered(*whole, "--model", model, *target)

    return made


def _placed(word: str, places: dict[str, Path]) -> str:
    name = next((name for name in places if word.startswith(name)), "")
    return str(places[name]) + word.removeprefix(name) if name else word


def again(path: Path, *words: object) -> Path:
    """The file that `rerun` writes."""
    return rendered("rerun", path, *words)


def with_comment(path: Path, copy: Path, comment: str) -> Path:
    """The same packets in a file with a different comment."""
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        target.metadata["comment"] = comment
        streams = {one.index: target.add_stream_from_template(one) for one in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return copy


@pytest.mark.parametrize("words", EVERY_MODE.values(), ids=EVERY_MODE)
def test_a_file_is_rendered_again_to_the_same_bytes(words: tuple[object, ...], make: Callable[..., Path]) -> None:
    path = make(*words)
    result = ltx2("rerun", path)
    assert result.exit_code == 0, result.stderr
    assert "nothing differs" in result.stderr, result.stderr
    again = path.with_name(f"{path.stem}-rerun{path.suffix}")
    assert result.stdout == f"{again}\n"
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), ELSEWHERE)
def test_every_mode_of_other_models_is_rendered_again(
    name: str, model: str, tiny_of: Callable[[str], Path], make: Callable[..., Path]
) -> None:
    path = make(*EVERY_MODE[name], model=Path("toy") if model == "toy" else tiny_of(model))
    assert again(path).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_models_of_other_generations_are_rendered_with_again(
    version: str, tiny_of: Callable[[str], Path], make: Callable[..., Path]
) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED, model=tiny_of(version))
    assert again(path).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_models_are_rendered_with_again(
    precision: str, tiny_in: Callable[[str], Path], make: Callable[..., Path]
) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, "--lora", STYLE, *UNGUIDED, model=tiny_in(precision))
    assert again(path).read_bytes() == path.read_bytes()


def test_the_built_in_model_and_a_named_set_of_values(make: Callable[..., Path]) -> None:
    path = make("t2v", "a lamp blinks", "--preset", "smoke", model=Path("toy"))
    assert again(path).read_bytes() == path.read_bytes()


def test_another_memory_mode_and_precision_hold_again(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED, "--memory", "lean", "--precision", "bf16")
    assert again(path).read_bytes() == path.read_bytes()
    assert made_in(again(path, "--overwrite")).machine.memory == "lean"


def test_what_was_decoded_again_with_other_tiles_and_codec_is_rendered_so(make: Callable[..., Path]) -> None:
    first = make("t2v", "a bell", "--res", "96x96", *SHORT, "--frames", 33, *UNGUIDED, "--keep-latents")
    tiles = ("--tiles", "16x64x64", "--codec", "h265")
    path = rendered("decode", f"{first}.job", *tiles, "-o", first.with_name("b.mp4"))
    assert again(path).read_bytes() == path.read_bytes()


def test_a_rewritten_prompt_is_not_rewritten_again(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, media: Path
) -> None:
    better = "A brown dog is running over wet grass while rain is falling and a bell is ringing loudly."
    calls: list[str] = []

    def write(*given: object, **more: object) -> Answer:
        calls.append(better)
        return Answer(better, has_ended=True)

    monkeypatch.setattr(Writer, "write", write)
    enhancer = shutil.copytree(GEMMA_3, Path("gemma"))
    path = make("t2v", "a dog", *SMALL, "--frames", 9, *UNGUIDED, "--enhance", "--enhancer", enhancer)
    shutil.rmtree(enhancer)
    assert again(path).read_bytes() == path.read_bytes()
    made = made_in(path)
    assert (made.request.prompt, made.request.given_prompt, len(calls)) == (better, "a dog", 1)
    assert "enhancer" in made.model.files
    other = made_in(again(path, "--set", "prompt=a cat", "--overwrite"))
    assert (other.request.prompt, other.request.given_prompt) == ("a cat", None)
    assert "enhancer" not in other.model.files


def test_a_length_that_the_model_chose_is_not_chosen_again(make: Callable[..., Path], tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors", 1.2)
    words = ("--duration", "auto", "--duration-head", head, "--fps", 8)
    path = make("t2v", "a bell", *SMALL, *UNGUIDED, *words)
    head.unlink()
    assert again(path).read_bytes() == path.read_bytes()
    assert "duration_head" in made_in(path).model.files


def test_files_are_found_by_what_they_hold_whatever_their_names(make: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copy(make("i2v", PHOTO, *SMALL, "--frames", 1, *UNGUIDED), "first.mp4")
    photo = Path("own.png")
    Image.new("RGB", (80, 60), "blue").save(photo)
    path = make("i2v", photo, *SMALL, "--frames", 9, *UNGUIDED, "-o", "b.mp4")
    Path("other").mkdir()
    moved = photo.rename("other/renamed.png")
    result = ltx2("rerun", path)
    assert result.exit_code == 3
    assert "own.png" in result.stderr
    assert "--input FILE|FOLDER says where it is" in result.stderr
    assert again(path, "--input", moved).read_bytes() == path.read_bytes()
    assert again(path, "--input", "other", "--overwrite").read_bytes() == path.read_bytes()
    shutil.copy(moved, "third.png")
    assert again(path, "--overwrite").read_bytes() == path.read_bytes()


def test_missing_weights_are_exit_7_with_where_it_looked(
    make: Callable[..., Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED, model=model)
    shutil.move(model, tmp_path / "elsewhere")
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))  # it contains neither the files nor the clip
    result = ltx2("rerun", path, "--yes")
    assert result.exit_code == 7, result.stderr
    assert "ltx-2-tiny-dev.safetensors" in result.stderr
    assert str(tmp_path / "home") in result.stderr
    assert again(path, "--yes", "--input", tmp_path / "elsewhere").read_bytes() == path.read_bytes()


def test_one_thing_is_changed_and_the_rest_stays(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED, "--crf", 30)
    result = ltx2("rerun", path, "--set", "seed=4", "--set", "video-st=2.5")
    assert result.exit_code == 0, result.stderr
    assert "  seed: 3 -> 4\n  guidance video st: 1.0 -> 2.5\n" in result.stderr
    changed, before = made_in(Path(result.stdout.strip())), made_in(path)
    scales = before.request.guidance.video
    assert scales is not None
    guidance = before.request.guidance._replace(video=replace(scales, st=2.5))
    assert changed.request == before.request.model_copy(update={"seed": 4, "guidance": guidance})
    assert (changed.machine, changed.output) == (before.machine, before.output)
    words = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED, "--crf", 30, "--overwrite", "--seed", 5)
    set_again = again(words, "--set", "seed=3", "--overwrite")
    assert made_in(set_again) == before


def test_another_edit_takes_the_place_of_that_of_the_recipe(make: Callable[..., Path]) -> None:
    path = make("v2v", CLIP, "a bell", *SMALL, *UNGUIDED, "--strength", 0.4)
    other = made_in(again(path, "--set", "extend=0.4s")).request
    assert (other.strength, other.extension) == (None, Extension(after=8))
    stronger = made_in(again(path, "--set", "strength=0.9", "--overwrite")).request
    assert stronger == made_in(path).request.model_copy(update={"strength": 0.9})


def test_a_stream_that_the_new_edit_cannot_have_is_left_to_it(make: Callable[..., Path]) -> None:
    for words, change, audio in (
        (("--extend", "0.4s", *UNGUIDED), "upscale=2", "keep"),
        (("--strength", 0.4, "--sound", "keep", *VIDEO_UNGUIDED), "extend=0.4s", "generate"),
        (("--retake", "0.3s-0.7s", "--video", "keep", *AUDIO_UNGUIDED), "strength=0.5", "generate"),
    ):
        found = core.read_recipe(make("v2v", CLIP, "a bell", *SMALL, *words, "--overwrite"))
        resolved = core.resolve_again(found, core.parse_changes([change]), {"output": "b.mp4"}).resolved
        assert (resolved.request.video, resolved.request.audio) == ("generate", audio), change


def test_a_setting_of_other_modes_is_refused(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED)
    for setting in ("upscale=2", "extend=2s", "image=a.png", "old_sound=drop"):
        assert "is an option of" in refused(2, "rerun", path, "--set", setting)


def test_a_setting_is_parsed_as_everywhere(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED)
    for words, told in {
        "seed=x": "--seed x cannot be used",
        "sed=4": "did you mean seed?",
        "frames=10": "--frames 9 or --frames 17",
        "seed": "it takes a setting and its value",
        "input=a.png": "t2v starts from a text",
        "steps=0": "it must be at least 2",
        "prompt=@nothing.txt": "nothing.txt",
    }.items():
        result = ltx2("rerun", path, "--set", words)
        assert result.exit_code == 2, (words, result.stderr)
        assert told in result.stderr, result.stderr


def test_the_original_is_never_replaced(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED)
    before = path.read_bytes()
    assert ltx2("rerun", path, "-o", path).exit_code == 2
    result = ltx2("rerun", path, "-o", path, "--overwrite")
    assert (result.exit_code, path.read_bytes()) == (2, before)
    assert "it is the file that is rendered again" in result.stderr
    path.with_name("a-rerun.mp4").write_text("taken")
    assert ltx2("rerun", path).exit_code == 2
    result = ltx2("rerun", path, "--skip-existing")
    assert (result.exit_code, path.with_name("a-rerun.mp4").read_text()) == (0, "taken")


def test_a_file_that_was_not_made_here_shows_its_settings_and_wants_a_yes(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("t2v", "a bell\x1b[2J", *SMALL, "--frames", 9, *UNGUIDED)
    assert ltx2("rerun", path).exit_code == 0
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    result = ltx2("rerun", path, "--overwrite")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--yes says yes" in result.stderr
    assert "  prompt: a bell\\x1b[2J\n" in result.stderr
    assert "  seed: 3\n" in result.stderr
    told = ltx2("rerun", path, "--overwrite", "--json")
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert [event["event"] for event in events] == ["recipe", "error", "summary"]
    assert events[0]["is_own"] is False
    assert again(path, "--overwrite", "--yes", "--input", tmp_path.parent).read_bytes() == path.read_bytes()


def test_a_recipe_that_cannot_be_used_is_exit_3_with_the_reason(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED)
    recipe = json.loads(probe(path).comment or "")
    recipe["request"]["width"] = "64"
    for comment, told in {
        "": "holds no recipe\nit was written with --no-metadata, edited since, or made by another program",
        "a bell": "holds no recipe\n",
        "{": "its comment is not a JSON object",
        '{"schema": 99}': "its schema is 99, and this version reads 2 and 3",
        json.dumps(recipe): "request.width: Input should be a valid integer",
        json.dumps({"schema": 3, "x": "x" * 1_000_000}): "it is larger than 1,000,000 bytes",
    }.items():
        result = ltx2("rerun", with_comment(path, Path("edited.mp4"), comment))
        assert result.exit_code == 3, result.stderr
        assert told in result.stderr
    recipe["request"] |= {"width": 64, "preset": "../one-stage"}
    result = ltx2("rerun", with_comment(path, Path("edited.mp4"), json.dumps(recipe)))
    assert result.exit_code == 2
    assert "names the preset ../one-stage, which this version does not have" in result.stderr


def test_a_recipe_of_an_earlier_version_gives_the_frames_and_says_what_it_lacks(make: Callable[..., Path]) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED)
    older = json.loads(probe(path).comment or "") | {"schema": 2}
    for name in ("hardware", "output"):
        del older[name]
    for file in older["model"]["files"].values():
        del file["size"]
    result = ltx2("rerun", with_comment(path, Path("older.mp4"), json.dumps(older)), "--yes")
    assert result.exit_code == 0, result.stderr
    assert "  recipe: schema 2 -> schema 3, which also tells hardware and codecs\n" in result.stderr
    again = Path(result.stdout.strip())
    assert (packets(again, "video"), packets(again, "audio")) == (packets(path, "video"), packets(path, "audio"))


def test_what_differs_elsewhere_comes_first(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("t2v", "a bell", *SMALL, "--frames", 9, *UNGUIDED)
    with_other = json.loads(probe(path).comment or "")
    with_other["made_with"]["torch"] = "2.0.0"
    with_other["hardware"] = "a faster one"
    with_other["machine"] |= {"threads": 4096, "device": "cuda:3", "products": ["nvfp4"]}
    other = with_comment(path, Path("other.mp4"), json.dumps(with_other))
    result = ltx2("rerun", other, "--yes")
    assert result.exit_code == 0, result.stderr
    before, _, after = result.stderr.partition("reading the prompt")
    for line in (
        "version torch: 2.0.0 -> ",
        "hardware: a faster one -> ",
        "machine threads: 4096 -> 1",
        "cuda:3 -> cpu",
    ):
        assert line in before, result.stderr
    assert "nothing differs" not in after
