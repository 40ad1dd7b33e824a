"""Whole renders on a simulated GPU give the latents and the files of the CPU, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.card import card_of
from tests.commands import UNGUIDED, rendered
from tests.synthetic_media import RATE_HZ, tone, write_sound, write_video

TEXT, SMALL = ("t2v", "a bell rings"), ("--frames", 9, "--steps", 2)
TWICE, ONCE = ("--res", "128x128", *SMALL), ("--res", "64x64", *SMALL)
STYLE = ("--lora", "MODEL/ltx-2-tiny-lora-style.safetensors:0.7")
REFERENCES = ("--lora", "GIVEN/ic-lora.safetensors", "--ref", "GIVEN/still.png", "--voice-ref", "GIVEN/voice.wav")
LONGER, CACHED = ("--res", "64x64", "--steps", 2, "--frames", 25), ("--cache-steps", 0.5)
SPANS = ("--segment", "0s-0.5s=a red lamp", "--segment", "0.5s-1s=a green lamp")
WINDOWS = ("--until", "3s", "--window", "2s", "--overlap", "0.5s")
# by feature: the generation and the precision of the model, and the words of the command
RENDERS: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "an image, LoRAs in streamed blocks": (
        "2.0",
        "bf16",
        ("i2v", "GIVEN/still.png", "a bell", *UNGUIDED, *ONCE, *STYLE, "--memory", "streamed"),
    ),
    "images in two guided stages": (
        "2.0",
        "bf16",
        ("i2v", "GIVEN/still.png", "a bell", "--image", "GIVEN/still.png@8", "--preset", "two-stage", *TWICE),
    ),
    "steps that are cached": ("2.0", "bf16", (*TEXT, "--res", "64x64", "--frames", 9, "--steps", 4, *CACHED)),
    "spans of text, lean": ("2.0", "bf16", (*TEXT, *UNGUIDED, *LONGER, *SPANS, "--memory", "lean")),
    "references": ("2.0", "bf16", (*TEXT, *UNGUIDED, *TWICE, *REFERENCES)),
    "restyled": ("2.0", "bf16", ("v2v", "GIVEN/clip.mp4", "a bell", *UNGUIDED, "--strength", 0.7, *ONCE)),
    "following audio": ("2.0", "bf16", ("a2v", "GIVEN/voice.wav", "a dog", *ONCE)),
    "enlarged": ("2.0", "bf16", ("v2v", "GIVEN/clip.mp4", "a bell", "--upscale", 2)),
    "a loop": ("2.3", "bf16", (*TEXT, *LONGER, "--loop")),
    "two evaluations a step, attention": (
        "2.3",
        "bf16",
        (*TEXT, *TWICE, "--preset", "hq", "--attention", "OUT/map.mp4"),
    ),
    "diffusion decoder, previews": (
        "2.5",
        "bf16",
        (*TEXT, *UNGUIDED, *ONCE, "--decoder", "diffusion", "--preview", 1),
    ),
    "windows": ("2.0", "bf16", (*TEXT, *UNGUIDED, "--res", "64x64", "--steps", 2, *WINDOWS)),
    "fp8": ("2.0", "fp8", (*TEXT, *UNGUIDED, *ONCE, *STYLE)),
    "mixed formats, streamed": ("2.0", "mixed", (*TEXT, *UNGUIDED, *ONCE, "--memory", "streamed")),
    "blocks of a GGUF file": ("2.0", "gguf-q4_k", (*TEXT, *UNGUIDED, *ONCE)),
}
QUICK = "an image, LoRAs in streamed blocks"


@pytest.fixture(scope="module")
def given(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image, a clip, a voice and an in-context LoRA."""
    folder = tmp_path_factory.mktemp("given")
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(folder / "still.png")
    write_sound(folder / "voice.wav", samples=tone(RATE_HZ // 2))
    write_video(folder / "clip.mp4", frames=9, fps=Fraction(24), size=(64, 64), sound="aac")
    (distilled,) = tiny.glob("*distilled-lora.safetensors")
    save_file(load_file(distilled), folder / "ic-lora.safetensors", {"reference_downscale_factor": "2"})
    return folder


def made(target: Path, words: tuple[object, ...], device: str) -> tuple[dict[str, Tensor], bytes]:
    """The latents that a command stores, and the bytes of its file."""
    kept = ("--device", device, "--precision", "fp32", "--seed", 7, "--keep-latents", "--no-metadata", "--no-cache")
    path = rendered(*words, *kept, "-o", target)
    files = sorted(Path(f"{target}.job").glob("*.safetensors"))
    return {f"{file.name} {name}": x for file in files for name, x in load_file(file).items()}, path.read_bytes()


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RENDERS]
)
def test_render_on_a_card_gives_the_bits_of_the_cpu(
    name: str,
    given: Path,
    tiny_of: Callable[[str], Path],
    tiny_in: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, precision, words = RENDERS[name]
    model = tiny_of(version) if precision == "bf16" else tiny_in(precision)

    def on(device: str) -> tuple[dict[str, Tensor], bytes]:
        out = tmp_path / device
        out.mkdir()
        places = {"MODEL": str(model), "GIVEN": str(given), "OUT": str(out)}
        own = [reduce(lambda word, place: word.replace(*place), places.items(), str(word)) for word in words]
        return made(out / "made.mp4", (*own, "--model", model), device)

    latents, file = on("cpu")
    with card_of(monkeypatch) as card:
        before = card.copied
        on_card, file_on_card = on("cuda")
    is_streamed = any(word in ("streamed", "lean") for word in words)
    assert (card.copied > before) == is_streamed
    assert on_card.keys() == latents.keys()
    assert [one for one, x in latents.items() if not x.equal(on_card[one])] == []
    assert file_on_card == file
