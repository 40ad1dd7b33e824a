"""The evaluation of the toy model: what counts as right, what is stored between runs, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltx2_core.hub.registry import RegisteredModel
from ltx2_core.types import Streams
from scripts.toy import evaluate, generate, judge, report
from scripts.toy.detect import Heard, Seen
from scripts.toy.judge import Finding
from scripts.toy.model import FILES, fresh, fresh_gemma, save, save_gemma
from scripts.toy.tokenizer import save_tokenizer
from scripts.toy.world import Kind, Scene

SCENE = Scene(Kind.LAMP, colour="red", tempo="slow", pitch="low", side="left")
SEEN = Seen(Kind.LAMP, colour="red", tempo="fast", side="left", times_s=(0.5, 1.0))
HEARD = Heard((0.51, 1.5), 440.0, "low", None, "right", "calm")
FINDING = Finding("t2v", 0, SCENE, (0.5, 1.5), "neither", SEEN, HEARD, {})
PROMPTS = ["a red ball bounces high on the left", "a blue lamp blinks"]


def findings(row: str, count: int = 10) -> list[Finding]:
    return [replace(FINDING, row=row, clip=clip) for clip in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained toy, without the zeros of its initialisation."""
    folder = tmp_path_factory.mktemp("toy")
    for name, file in FILES.items():
        parts = {component: fresh(component) for component in file.components}
        for weight in (p for part in parts.values() for p in part.parameters() if p.dim() == 2 and not p.any()):
            torch.nn.init.normal_(weight, std=0.1)
        save(name, parts, folder)
    save_gemma(fresh_gemma(), folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def toy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> generate.Generator:
    values = {"res": "192x128", "frames": 49, "steps": 2, "text_rows": 128, "negative": ""}
    values |= {f"{stream}_{scale}": 0.0 for stream in ("video", "audio") for scale in ("stg", "rescale")}
    entry = RegisteredModel(summary="", generation="2.0", files={}, defaults=values)
    monkeypatch.setattr(generate, "registered_models", lambda: {generate.TOY: entry})
    return generate.Generator.of(generate.toy_request(folder))


def test_a_clip_of_a_batch_is_the_clip_that_is_made_alone(toy: generate.Generator):
    request = toy.task.request
    together = toy.generate(request, PROMPTS, [3, 4], Streams())
    alone = [toy.generate(request, [text], [seed], Streams()) for text, seed in zip(PROMPTS, (3, 4), strict=True)]
    for stream in ("video", "audio"):
        expected = torch.cat([getattr(latents, stream) for latents in alone])
        assert torch.allclose(getattr(together, stream), expected, atol=1e-4)
        assert not torch.allclose(expected[0], expected[1], atol=0.1)


def test_a_given_stream_stays_as_it_is_and_steers_the_other(toy: generate.Generator):
    request = toy.task.request
    sounds = torch.randn(2, 4, 51, 16)
    made = [toy.generate(request, PROMPTS[:1], [3], Streams(audio=sound[None])) for sound in sounds]
    assert torch.equal(torch.cat([latents.audio for latents in made]), sounds)
    assert not torch.allclose(made[0].video, made[1].video, atol=1e-3)


def test_each_attribute_is_judged_where_it_shows():
    expected = {"scene": True, "colour seen": True, "tempo seen": False, "side seen": True}
    assert FINDING.judged == expected | {"pitch heard": True, "side heard": False}


def test_what_is_given_is_not_judged():
    assert replace(FINDING, given="sound").judged.keys() == {"scene", "colour seen", "tempo seen", "side seen"}
    assert replace(FINDING, given="picture").judged.keys() == {"pitch heard", "side heard"}


def test_sync_is_between_what_is_seen_and_heard_or_with_what_is_given():
    assert judge.sync([FINDING]).found == 1  # 0.5 with 0.51
    assert judge.sync([replace(FINDING, given="sound")]).found == 1  # the visible event at 0.5
    assert judge.sync([replace(FINDING, given="picture")]).found == 2  # both onsets


def test_nothing_happens_in_time_in_a_picture_of_another_scene():
    assert judge.sync([replace(FINDING, seen=replace(SEEN, kind=Kind.BALL))]).found == 0


def test_shuffling_gives_every_clip_the_sound_of_another_of_its_kind():
    clips = [replace(one, heard=replace(HEARD, pitch_hz=float(one.clip))) for one in findings("t2v")]
    assert all(one.heard.pitch_hz != one.clip for one in judge.shuffled(clips))
    assert {one.heard.pitch_hz for one in judge.shuffled(clips)} == {float(clip) for clip in range(10)}


def test_findings_are_read_again_but_not_a_line_that_was_cut_off(tmp_path: Path):
    path = tmp_path / "findings.jsonl"
    evaluate._append(path, "key", FINDING)
    path.write_text(path.read_text() + json.dumps({"key": "other"})[:-3])
    ((known, finding),) = evaluate._read(path).items()
    assert known == ("key", 0)
    assert finding.judged == FINDING.judged
    assert judge.sync([finding]) == judge.sync([FINDING])


def test_the_report_replaces_its_own_part_of_the_page_alone(tmp_path: Path):
    errors = {"psnr_db": 28.0, "object_error": 0.1, "mel_l1": 0.5, "onsets": 2, "onsets_near": 1, "onsets_false": 1}
    rows = ["rendered", "t2v", "plain", *(f"{axis} {scale}" for axis in report.AXES for scale in report.SCALES[1:])]
    found = [finding for row in rows for finding in findings(row)]
    kinds = [replace(FINDING, scene=replace(SCENE, kind=kind)) for kind in Kind]
    found += [replace(one, row="reconstructed", given="both", numbers=errors) for one in kinds]
    page = tmp_path / report.PAGE
    page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    report.write_report(found, "About.", tmp_path)
    text = page.read_text()
    assert text.startswith(f"above\n{report.BEGIN}\n\nAbout.")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert "old" not in text
    assert "| sm 5 | 50.0 | +0.0 ± 0.0 |" in text
    assert (tmp_path / report.PLOT).read_text().startswith("<svg")
