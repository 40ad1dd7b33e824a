"""The training of the toy's denoiser: the content of samples, and that it computes the same as `ltx2`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import repeat
from torch import Tensor, nn

from ltx2_core.headers import read_header
from ltx2_core.lora import fuse
from ltx2_core.lora_file import match, read_lora
from ltx2_core.models.attention import attention
from ltx2_core.models.passes import PassMask
from ltx2_core.models.rope import rope_tables
from ltx2_core.types import Streams
from scripts.toy import world
from scripts.toy.cache_latents import touched_cells
from scripts.toy.model import AUDIO_CHANNELS, AUDIO_STEPS, FPS, VIDEO_CHANNELS, VIDEO_GRID, fresh, save, trained, write
from scripts.toy.shards import Cache, Examples, write_shard
from scripts.toy.text_path import TextPath
from scripts.toy.train_distilled import SIGMAS, Paths, adapt, lora_tensors
from scripts.toy.train_transformer import (
    DRAWS,
    Batch,
    Bins,
    Denoised,
    FastRope,
    Spans,
    draw_sigmas,
    loss_of,
    make_batch,
    optimisers,
    pace,
)
from scripts.toy.training import Average, Run
from scripts.toy.world import Kind


def examples(count: int, kind: Kind = Kind.BALL) -> Examples:
    """Random latents with random scenes."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    return Examples(
        torch.randn(count, VIDEO_CHANNELS, *VIDEO_GRID, generator=generator),
        torch.randn(count, AUDIO_CHANNELS, AUDIO_STEPS, 16, generator=generator),
        torch.zeros(count, *VIDEO_GRID, dtype=torch.uint8),
        [world.draw(rng, [kind]) for _ in range(count)],
    )


def batches(count: int, clips: int = 8, *, has_spans: bool = False) -> list[Batch]:
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    return [make_batch(examples(clips), rng, is_large=False, has_spans=has_spans) for rng in rngs]


@pytest.fixture(scope="module")
def model() -> Denoised:
    """A denoiser whose residual branches are not zero, unlike those of an untrained one."""
    model = Denoised(fresh("transformer"), TextPath.fresh(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
@pytest.mark.parametrize("has_spans", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
def test_training_computes_what_the_denoiser_computes(model: Denoised, is_masked: bool, has_spans: bool) -> None:
    made = batches(40, clips=2, has_spans=has_spans)
    batch = next(b for b in made if (b.inputs.video.timestep_index is not None) == is_masked)
    keep = PassMask(audio_to_video=torch.ones(2 * DRAWS, 1, 1), video_to_audio=torch.ones(2 * DRAWS, 1, 1))
    trained = model(batch._replace(keep=keep))
    texts = [model.text(prompts) for prompts in (batch.prompts, batch.later) if prompts]
    contexts = Streams(*(torch.cat(rows, dim=1).repeat_interleave(DRAWS, 0) for rows in zip(*texts, strict=True)))
    plain = model.denoiser(batch.inputs.map(lambda given, context: replace(given, context=context), contexts))
    for ours, core in zip(trained, plain, strict=True):
        assert core.std() > 0.01
        torch.testing.assert_close(ours, core, rtol=0.02, atol=0.02 * core.std().item())


def test_rotary_positions_for_training_are_those_of_the_core() -> None:
    rope = rope_tables(
        torch.rand(1, 5, 3), 48, 4, theta=100.0, is_interleaved=False, double_grid=True, dtype=torch.float32
    )
    x = torch.randn(2, 4, 5, 12)
    torch.testing.assert_close(FastRope(rope.cos, rope.sin).rotate(x), rope.rotate(x))


def test_attention_with_gradients_is_the_same() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8).unbind()
    bias = torch.randn(2, 1, 7, 7)
    torch.testing.assert_close(attention(q.requires_grad_(), k, v, bias), attention(q.detach(), k, v, bias))


def test_a_clean_stream_has_no_noise_and_is_not_learned() -> None:
    every = batches(6)
    for stream in ("video", "audio"):
        frozen = 0
        for batch in every:
            given, weights = getattr(batch.inputs, stream), getattr(batch.weights, stream)
            is_frozen = given.sigma == 0
            frozen += int(is_frozen.sum())
            assert not weights[is_frozen].any()
            assert not given.unique_timesteps[is_frozen].any()
            assert weights[~is_frozen].any(-1).all()
        assert 5 < frozen < 35  # of 96, a sixth


def test_noise_and_clean_latent_lie_on_the_line_of_the_velocity() -> None:
    given = examples(8)
    batch = make_batch(given, np.random.default_rng(0), is_large=False)
    one, target = batch.inputs.audio, batch.targets.audio
    clean = repeat(given.audio, "b c t m -> (b twice) t (c m)", twice=DRAWS)
    torch.testing.assert_close(one.latent, clean + one.sigma[:, None, None] * target, atol=1e-5, rtol=0)


def test_given_tokens_are_clean_and_not_learned() -> None:
    masked = [batch for batch in batches(60, clips=2) if batch.inputs.video.timestep_index is not None]
    assert 4 < len(masked) < 24  # of 60, a fifth
    first_frame_given = prefix_given = 0
    for batch in masked:
        for one, weights in zip(batch.inputs, batch.weights, strict=True):
            given = one.timestep_index == 0
            assert not weights[given].any()
            assert not one.unique_timesteps[:, 0].any()
            torch.testing.assert_close(one.unique_timesteps[:, 1], one.sigma)
        cells = VIDEO_GRID[1] * VIDEO_GRID[2]
        index = batch.inputs.video.timestep_index
        first_frame_given += int((~index[:, :cells].any(-1) & index[:, cells:].all(-1)).sum())
        steps = batch.inputs.audio.timestep_index
        assert steps is not None
        is_prefix = torch.stack([one.any(-1) & (one.diff(dim=-1) >= 0).all(-1) for one in (index, steps)]).all(0)
        prefix_given += int((is_prefix & ~steps[:, 0].bool()).sum())
    assert first_frame_given > 0
    assert prefix_given > len(masked) / 2  # of 4 samples each, a third


def test_noise_levels_fill_the_range_with_a_share_near_the_end() -> None:
    sigmas = draw_sigmas(np.random.default_rng(0), 4000)
    assert 0 < sigmas.min() < sigmas.max() < 1
    assert 0.2 < (sigmas < 0.3).float().mean() < 0.35
    assert (sigmas > 0.9).float().mean() > 0.1


def test_spans_are_joined_at_one_time_and_read_their_own_prompts() -> None:
    given = examples(4)
    for seed in range(8):
        spans = Spans.draw(given, np.random.default_rng(seed))
        frame = round((spans.border_s * FPS + 7) / 8)
        assert 2 <= frame < VIDEO_GRID[0] - 1
        for row, (scene, later) in enumerate(zip(spans.joined.scenes, spans.later, strict=True)):
            first, second = given.scenes.index(scene), given.scenes.index(later)
            assert first != second
            assert spans.joined.video[row, :, :frame].equal(given.video[first, :, :frame])
            assert spans.joined.video[row, :, frame:].equal(given.video[second, :, frame:])
            assert spans.joined.audio[row, :, 0].equal(given.audio[first, :, 0])
            assert spans.joined.audio[row, :, -1].equal(given.audio[second, :, -1])
    (batch,) = batches(1, clips=4, has_spans=True)
    assert len(batch.prompts) == len(batch.later) == 4
    for one in batch.inputs:
        assert one.text_shares is not None
        first, second = one.text_shares.weights
        assert first[0] == second[-1] == 1
        assert first[-1] == second[0] == 0


def test_steps_with_two_spans_learn(model: Denoised) -> None:
    mine = deepcopy(model)
    (batch,) = batches(1, clips=2, has_spans=True)
    losses: list[float] = []
    optimiser = optimisers(mine, 0.002)
    for _ in range(2):
        loss = loss_of(mine(batch), batch, Bins())
        loss.backward()
        for one in optimiser.values():
            one.step()
            one.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_object_cells_weigh_more() -> None:
    given = examples(8)
    given.mask[:, 3, 1, 2] = 1
    batch = make_batch(given, np.random.default_rng(0), is_large=False)
    weights = batch.weights.video[batch.inputs.video.sigma > 0]
    touched = (3 * VIDEO_GRID[1] + 1) * VIDEO_GRID[2] + 2
    assert (weights[:, touched] == 5 * weights[:, 0]).all()
    assert weights[:, 0].all()


def test_the_same_step_makes_the_same_batch() -> None:
    first, second = (make_batch(examples(2), np.random.default_rng((3, 4)), is_large=False) for _ in range(2))
    assert first.prompts == second.prompts
    assert torch.equal(first.inputs.video.latent, second.inputs.video.latent)


def test_the_loss_of_the_true_velocity_is_nothing() -> None:
    (batch,) = batches(1)
    bins = Bins()
    assert loss_of(batch.targets, batch, bins) == 0
    assert loss_of(batch.targets.map(lambda x: x + 1), batch, bins).item() == pytest.approx(2)


def test_steps_begin_small_stay_even_and_end_small() -> None:
    sizes = [pace(step, 1000, first=200) for step in range(200, 1000)]
    assert sizes[0] < 0.02
    assert max(sizes) == sizes[300] == 1
    assert sizes[-1] < 0.04


def test_every_parameter_learns_and_belongs_to_one_optimiser(model: Denoised) -> None:
    groups = [parameter for one in optimisers(model, 0.01).values() for parameter in one.param_groups[0]["params"]]
    assert len(groups) == len(set(map(id, groups))) == len(list(model.parameters()))
    (batch,) = batches(1, clips=1)
    loss_of(model(batch), batch, Bins()).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    model.zero_grad()
    assert unused == set()


def test_an_average_is_only_there_inside_its_block() -> None:
    layer = nn.Linear(2, 2)
    average = Average(layer.parameters(), 0.9)
    with torch.no_grad():
        layer.weight.add_(1)
    average.update()
    own = layer.weight.detach().clone()
    with average.applied():
        assert not torch.equal(layer.weight, own)
    assert torch.equal(layer.weight, own)


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def train(folder: Path, *stops: int) -> Tensor:
        for stop in stops:
            torch.manual_seed(0)
            layer = nn.Linear(3, 3)
            optimiser, average = torch.optim.AdamW(layer.parameters(), 0.1), Average(layer.parameters(), 0.9)
            run = Run(folder, {"layer": layer, "optimiser": optimiser, "average": average})
            for step in run.steps(stop):
                layer(torch.full((3,), float(step))).square().sum().backward()
                optimiser.step()
                optimiser.zero_grad()
                average.update()
        return torch.cat([average.values[0], layer.weight.detach()])

    assert torch.equal(train(tmp_path / "once", 6), train(tmp_path / "twice", 3, 6))


def test_new_shards_are_taken_up_and_kinds_are_equally_frequent(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.safetensors", examples(2, Kind.BALL))
    cache = Cache(tmp_path, [Kind.BALL, Kind.LAMP])
    assert len(cache) == 2
    write_shard(tmp_path / "b.safetensors", examples(30, Kind.LAMP))
    write_shard(tmp_path / "c.safetensors", examples(5, Kind.DOOR))
    cache.refresh()
    assert len(cache) == 32
    drawn = cache.draw(np.random.default_rng(0), 200, VIDEO_GRID)
    kinds = [scene.kind for scene in drawn.scenes]
    assert kinds.count(Kind.BALL) + kinds.count(Kind.LAMP) == 200
    assert 70 < kinds.count(Kind.BALL) < 130


def test_an_object_touches_the_cells_that_it_is_seen_in() -> None:
    masks = torch.zeros(1, 49, 128, 192, dtype=torch.bool)
    masks[0, 0, 0, 0] = masks[0, 8, 127, 191] = True  # the first latent frame is one frame, the next one eight
    cells = touched_cells(masks, VIDEO_GRID)
    assert cells.nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 3, 5]]


def test_streams_of_a_batch_have_the_shapes_of_the_denoiser() -> None:
    (batch,) = batches(1, clips=1)
    shapes = batch.inputs.map(lambda given: tuple(given.latent.shape))
    assert shapes == Streams((DRAWS, 168, VIDEO_CHANNELS), (DRAWS, AUDIO_STEPS, 16 * AUDIO_CHANNELS))


def test_low_rank_changes_are_found_and_fused_by_the_tool_as_they_were_learned(tmp_path: Path) -> None:
    save("transformer.safetensors", {"transformer": fresh("transformer", 1)}, tmp_path)
    denoiser = trained("transformer", tmp_path)
    adapted = adapt(denoiser, 2)
    for layer in adapted.values():
        nn.init.normal_(layer.up, std=0.1)
    write(tmp_path / "lora.safetensors", lora_tensors(adapted), {})
    plain = trained("transformer", tmp_path)
    matched = match(read_lora(tmp_path / "lora.safetensors"), read_header(tmp_path / "transformer.safetensors"))
    fuse(plain, [(matched, 1.0)])
    assert len(matched.changes) == len(adapted)
    for name, layer in adapted.items():
        learned = layer.linear.weight + layer.up.bfloat16().float() @ layer.down.bfloat16().float()
        torch.testing.assert_close(plain.get_parameter(f"{name}.weight"), learned, atol=1e-6, rtol=1e-5)


def test_a_step_on_a_path_leads_from_one_level_to_the_next(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    video, audio = (torch.randn(1, len(SIGMAS), n, c, generator=generator).half() for n, c in ((168, 48), (51, 64)))
    write(tmp_path / "0.safetensors", {"video": video, "audio": audio}, {"prompts": '["a lamp"]'})
    batch = Paths(tmp_path).batch(np.random.default_rng(0), 8)
    assert batch.prompts == ["a lamp"] * (8 // DRAWS)
    for kept, given, target in zip((video, audio), batch.inputs, batch.targets, strict=True):
        for start, sigma, velocity in zip(given.latent, given.sigma.tolist(), target, strict=True):
            level = min(range(len(SIGMAS)), key=lambda at: abs(SIGMAS[at] - sigma))
            assert torch.equal(start, kept[0, level].float())
            reached = start - (SIGMAS[level] - SIGMAS[level + 1]) * velocity
            torch.testing.assert_close(reached, kept[0, level + 1].float(), atol=1e-4, rtol=1e-3)
