"""The world of the toy model: random scenes obey its rules, and the detectors find what is rendered."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from scripts.toy import detect, prompts, world
from scripts.toy.world import Clip, Kind, Scene

ATTRIBUTES = ("colour", "size", "tempo", "side", "strength", "time_of_day")
CLIPS_PER_KIND = 2  # one of the training combinations, and one that is held out


@cache
def clips(kind: Kind) -> list[Clip]:
    rng = np.random.default_rng(list(Kind).index(kind))
    return [world.render(world.draw(rng, [kind], held_out=bool(i % 2))) for i in range(CLIPS_PER_KIND)]


def scenes(count: int, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [world.draw(rng, held_out=held_out) for _ in range(count)]


def times_s(clip: Clip) -> list[float]:
    return [event.time_s for event in clip.events]


def worn(frames: np.ndarray, psnr_db: float = 27) -> np.ndarray:
    """Frames after a blur and with coarse and fine noise, similar to the output of a weak video VAE."""
    soft, rng = frames.astype(np.float32), np.random.default_rng(0)
    for axis in (1, 1, 2, 2):
        soft = (np.roll(soft, 1, axis) + soft + np.roll(soft, -1, axis)) / 3
    noise_power = (255 / 10 ** (psnr_db / 20)) ** 2 - np.mean((soft - frames) ** 2)
    count, height, width, _ = frames.shape
    coarse = (
        rng.standard_normal((count // 4 + 1, height // 8, width // 8, 3)).repeat(4, 0)[:count].repeat(8, 1).repeat(8, 2)
    )
    noise = rng.standard_normal(frames.shape) + coarse
    return (soft + np.sqrt(max(noise_power, 0) / 2) * noise).clip(0, 255).round().astype(np.uint8)


@cache
def seen(kind: Kind, is_worn: bool) -> list[detect.Seen]:
    return [detect.see(worn(clip.frames) if is_worn else clip.frames) for clip in clips(kind)]


def test_training_never_meets_a_held_out_combination_and_the_evaluation_meets_no_other():
    assert not any(map(world.is_held_out, scenes(500)))
    assert all(map(world.is_held_out, scenes(100, held_out=True)))


@pytest.mark.parametrize("kind", Kind)
def test_training_meets_every_value_of_every_attribute(kind: Kind):
    known = world.combinations(kind, held_out=False)
    for attribute, values in world.ATTRIBUTES[kind].items():
        assert {getattr(scene, attribute) for scene in known} == set(values)


@pytest.mark.parametrize("kind", Kind)
def test_a_clip_has_the_shapes_of_the_world(kind: Kind):
    clip = clips(kind)[0]
    assert clip.frames.shape == (49, 128, 192, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.mask.shape == (49, 128, 192)
    assert clip.mask.dtype == bool
    assert clip.sound.shape == (2, 49_000)
    assert clip.sound.dtype == np.float32


@pytest.mark.parametrize("kind", Kind)
def test_equal_scenes_give_equal_clips_and_another_seed_gives_another(kind: Kind):
    clip = clips(kind)[0]
    again, other = world.render(clip.scene), world.render(replace(clip.scene, seed=clip.scene.seed + 1))
    assert np.array_equal(again.frames, clip.frames)
    assert np.array_equal(again.sound, clip.sound)
    assert not np.array_equal(other.frames, clip.frames)
    assert not np.array_equal(other.sound, clip.sound)


@pytest.mark.parametrize("kind", Kind)
def test_a_scene_looks_and_sounds_the_same_at_twice_the_size(kind: Kind):
    clip = clips(kind)[0]
    large = world.render(clip.scene, 384, 256)
    halved = large.frames.reshape(49, 128, 2, 192, 2, 3).mean((2, 4))
    assert np.abs(halved - clip.frames).mean() < 1
    assert np.mean(large.mask[:, ::2, ::2] != clip.mask) < 0.02
    assert np.array_equal(large.sound, clip.sound)


@pytest.mark.parametrize("kind", Kind)
def test_the_mask_is_where_the_object_is(kind: Kind):
    for clip in clips(kind):
        rows_mean = np.median(clip.frames, axis=2, keepdims=True)
        away = np.abs(clip.frames - rows_mean).sum(-1)
        assert clip.mask.any()
        assert away[clip.mask].mean() > 2 * away[~clip.mask].mean()


@pytest.mark.parametrize("kind", [Kind.BALL, Kind.LAMP, Kind.DOOR, Kind.FLIGHT])
def test_events_come_at_another_phase_in_each_clip_and_never_in_the_quiet_end(kind: Kind):
    firsts = [times_s(clip)[0] for clip in clips(kind)]
    assert len({round(first, 3) for first in firsts}) == len(firsts)
    assert max(max(times_s(clip)) for clip in clips(kind)) < 49 / 24 - world.QUIET_END_S


def test_a_sound_is_no_louder_than_full_scale_and_never_digital_silence():
    peaks = [np.abs(clip.sound).max() for kind in Kind for clip in clips(kind)]
    floors = [clip.sound[:, -240:].std() for kind in Kind for clip in clips(kind)]
    assert max(peaks) <= 1
    assert min(floors) > 0.5 * world.NOISE_FLOOR


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("is_worn", [False, True])
def test_the_picture_tells_every_attribute_of_its_scene(kind: Kind, is_worn: bool):
    for clip, found in zip(clips(kind), seen(kind, is_worn), strict=True):
        assert found.kind == kind
        assert {name: getattr(found, name) for name in ATTRIBUTES} == {
            name: getattr(clip.scene, name) for name in ATTRIBUTES
        }


@pytest.mark.parametrize("kind", [Kind.BALL, Kind.LAMP, Kind.DOOR, Kind.FLIGHT])
@pytest.mark.parametrize("is_worn", [False, True])
def test_every_event_is_seen_once_within_a_frame(kind: Kind, is_worn: bool):
    pairs = zip(clips(kind), seen(kind, is_worn), strict=True)
    sync = sum((detect.match(times_s(clip), found.times_s) for clip, found in pairs), detect.Sync())
    assert (sync.recall, sync.precision) == (1, 1)


@pytest.mark.parametrize("kind", [Kind.BALL, Kind.LAMP, Kind.DOOR, Kind.FLIGHT])
def test_every_event_is_heard_once_from_its_side(kind: Kind):
    heard = [detect.hear(clip.sound, kind) for clip in clips(kind)]
    sync = sum((detect.match(times_s(c), h.onsets_s) for c, h in zip(clips(kind), heard, strict=True)), detect.Sync())
    assert (sync.recall, sync.precision) == (1, 1)
    assert [h.side for h in heard] == [clip.scene.side for clip in clips(kind)]


def test_the_pitch_of_a_beep_the_size_of_a_ball_and_the_strength_and_side_of_the_sea_are_heard():
    for kind, attribute in (
        (Kind.LAMP, "pitch"),
        (Kind.BALL, "size"),
        (Kind.FLIGHT, "strength"),
        (Kind.WAVES, "strength"),
        (Kind.WAVES, "side"),
    ):
        heard = [getattr(detect.hear(clip.sound, kind), attribute) for clip in clips(kind)]
        assert heard == [getattr(clip.scene, attribute) for clip in clips(kind)]


def test_silence_has_no_onsets_and_a_still_picture_no_events():
    assert detect.hear(np.full((2, 49_000), 1e-3, np.float32), Kind.BALL).onsets_s == ()
    for kind in (Kind.BALL, Kind.LAMP, Kind.DOOR, Kind.FLIGHT):
        still = np.repeat(clips(kind)[0].frames[:1], 49, axis=0)
        assert detect.see(still).times_s == ()


def test_events_and_onsets_are_paired_one_to_one():
    assert detect.match([0.5, 1.0], [0.51, 0.52, 1.1]) == detect.Sync(found=1, events=2, justified=1, onsets=3)


def test_an_event_at_an_end_is_not_judged_but_may_be_the_partner_of_an_onset_inside():
    assert detect.match([0.04, 1.0], [0.06, 1.0]) == detect.Sync(found=1, events=1, justified=2, onsets=2)


def test_shuffled_sounds_are_out_of_sync():
    sync = detect.Sync()
    for kind in (Kind.BALL, Kind.LAMP):
        mixed = zip(clips(kind), clips(kind)[1:] + clips(kind)[:1], strict=True)
        sync += sum((detect.match(times_s(a), times_s(b)) for a, b in mixed), detect.Sync())
    assert sync.recall < 0.5


def test_prompts_use_the_listed_words_and_training_meets_all_of_them():
    rng = np.random.default_rng(0)
    known = {word for scene in scenes(6000) for word in prompts.words_of(prompts.prompt(scene, rng))}
    unknown = {word for scene in scenes(300) for word in prompts.words_of(prompts.prompt(scene, rng, held_out=True))}
    assert known == set(prompts.WORDS)
    assert unknown <= known


@pytest.mark.parametrize("kind", Kind)
def test_a_held_out_prompt_is_another_sentence_that_names_every_attribute(kind: Kind):
    rng = np.random.default_rng(0)
    of_kind = [world.draw(rng, [kind]) for _ in range(300)]
    known = {prompts.prompt(scene, rng).lower().rstrip(".") for scene in of_kind for _ in range(5)}
    for scene in of_kind[:50]:
        sentence = prompts.prompt(scene, rng, held_out=True).lower().rstrip(".")
        assert sentence not in known
        for attribute in world.ATTRIBUTES[kind]:
            assert any(wording in sentence for wording in prompts.WORDINGS[kind][attribute][getattr(scene, attribute)])


def test_the_flight_can_be_asked_for_in_the_words_of_the_readme():
    rng = np.random.default_rng(0)
    flights = [world.draw(rng, [Kind.FLIGHT]) for _ in range(300)]
    assert "drone over misty mountains, birds chirping" in {prompts.prompt(scene, rng) for scene in flights}
