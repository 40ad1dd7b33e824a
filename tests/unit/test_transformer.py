"""The denoiser: equalities between its own paths, on a tiny model with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ltx2_core.config.transformer import CONSTANTS, StreamConfig, TransformerConfig
from ltx2_core.errors import CheckpointError
from ltx2_core.models.attention import attention
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.passes import ALL_BLOCKS, Pass, Perturbation, StreamInput
from ltx2_core.models.transformer import Transformer, run_passes
from ltx2_core.sampling.denoiser import run_batched
from ltx2_core.types import Streams
from tests.tolerances import BATCHED_PASSES, CHUNKED_TOKENS, UNIQUE_TIMESTEPS

TINY = CONSTANTS | {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "num_layers": 4,
    "in_channels": 12,
    "out_channels": 12,
    "audio_in_channels": 10,
    "audio_out_channels": 10,
    "caption_channels": 20,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "av_ca_timestep_scale_multiplier": 1000.0,
}
LATER_GENERATION = {
    "caption_proj_before_connector": True,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "ff_bias": False,
    "use_keyframes_abs_pos_embedding": True,
}
VARIANTS = [
    pytest.param({}, id="plain"),
    pytest.param(LATER_GENERATION, id="gated-and-modulated"),
    pytest.param(LATER_GENERATION | {"use_prompt_adaln_single": False}, id="no-prompt-adaln"),
    pytest.param({"rope_type": "interleaved"}, id="interleaved"),
]


def config(**changes: object) -> TransformerConfig:
    return TransformerConfig.from_metadata({"transformer": TINY | changes})


def build(given: TransformerConfig, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(given)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False).eval()


def make_inputs(given: TransformerConfig, *, batch: int = 1, timesteps: int = 1, seed: int = 1) -> Streams[StreamInput]:
    generator = torch.Generator().manual_seed(seed)

    def stream(of: StreamConfig | None, tokens: int, axes: int) -> StreamInput:
        assert of is not None
        starts = torch.rand(batch, axes, tokens, 1, generator=generator) * 4
        return StreamInput(
            latent=torch.randn(batch, tokens, of.in_channels, generator=generator),
            sigma=torch.full((batch,), 0.6),
            unique_timesteps=torch.rand(batch, timesteps, generator=generator),
            timestep_index=None if timesteps == 1 else torch.randint(timesteps, (batch, tokens), generator=generator),
            positions=torch.cat((starts, starts + 0.3), dim=-1),
            context=torch.randn(batch, 5, given.caption_channels or of.width, generator=generator),
        )

    return Streams(stream(given.video, 9, 3), stream(given.audio, 7, 1))


def relative(ours: Streams[Tensor], expected: Streams[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("changes", VARIANTS)
def test_modulation_per_distinct_timestep_equals_modulation_per_token(changes: dict) -> None:
    model = build(config(**changes))
    inputs = make_inputs(model.config, batch=2, timesteps=3)

    def one_timestep_per_token(s: StreamInput) -> StreamInput:
        assert s.timestep_index is not None
        index = torch.arange(s.timestep_index.shape[1]).expand_as(s.timestep_index)
        return replace(s, unique_timesteps=s.unique_timesteps.gather(1, s.timestep_index), timestep_index=index)

    assert relative(model(inputs), model(inputs.map(one_timestep_per_token))) <= UNIQUE_TIMESTEPS


@pytest.mark.parametrize("keeps_tables", [True, False])
@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, CHUNKED_TOKENS), (torch.bfloat16, 2**-7)])
def test_tokens_in_chunks_equal_all_tokens_at_once(
    changes: dict, keeps_tables: bool, dtype: torch.dtype, tolerance: float
) -> None:
    model = build(config(**changes)).to(dtype)
    inputs = make_inputs(model.config, batch=2, timesteps=3)
    strengths = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(3))
    inputs = inputs._replace(video=replace(inputs.video, attention_mask=strengths))
    whole = model(inputs)
    model.work_in(Chunks(4, keeps_tables=keeps_tables))
    assert relative(model(inputs), whole) <= tolerance


@pytest.mark.parametrize("changes", VARIANTS)
def test_passes_in_chunks_leave_each_other_alone(changes: dict) -> None:
    model = build(config(**changes))
    model.work_in(Chunks(4))
    inputs = make_inputs(model.config, timesteps=2)
    others = [[Perturbation(video_self={2})], [Perturbation(audio_to_video=ALL_BLOCKS)], [Perturbation()]]
    together = run_passes(
        model, [Pass(inputs=inputs), *(Pass(inputs=inputs, perturbations=p, follows=0) for p in others)]
    )
    alone = [model(inputs), *(model(inputs, p) for p in others)]
    assert all(a.equal(b) for ours, own in zip(together, alone, strict=True) for a, b in zip(ours, own, strict=True))


def test_samples_in_chunks_leave_attention_out_each_for_itself() -> None:
    model = build(config())
    inputs = make_inputs(model.config, batch=2)
    perturbations = [Perturbation(video_self={1}, audio_to_video={2}), Perturbation()]
    whole = model(inputs, perturbations)
    model.work_in(Chunks(4))
    assert relative(model(inputs, perturbations), whole) <= CHUNKED_TOKENS


@pytest.mark.parametrize("changes", VARIANTS)
def test_pass_that_takes_over_equals_a_pass_of_its_own(changes: dict) -> None:
    model = build(config(**changes))
    inputs = make_inputs(model.config, timesteps=2)
    perturbed = Perturbation(video_self={2}, audio_self={3})
    isolated = Perturbation(audio_to_video=ALL_BLOCKS, video_to_audio=ALL_BLOCKS)
    others = [[perturbed], [isolated], [Perturbation()]]
    together = run_passes(
        model, [Pass(inputs=inputs), *(Pass(inputs=inputs, perturbations=p, follows=0) for p in others)]
    )
    alone = [model(inputs), *(model(inputs, p) for p in others)]
    assert all(a.equal(b) for ours, own in zip(together, alone, strict=True) for a, b in zip(ours, own, strict=True))
    assert relative(together[1], together[0]) > 1e-3


def test_pass_that_takes_over_runs_only_the_blocks_from_its_perturbation_on() -> None:
    model = build(config())
    inputs = make_inputs(model.config)
    ran: list[tuple[int, int]] = []
    passes = [Pass(inputs=inputs), Pass(inputs=inputs, perturbations=[Perturbation(video_self={2})], follows=0)]
    run_passes(model, passes, on_block=lambda block, one, _: ran.append((one, block)))
    assert sorted(ran) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]


@pytest.mark.parametrize("changes", VARIANTS)
def test_batched_passes_equal_separate_passes(changes: dict) -> None:
    model = build(config(**changes))
    inputs, negative = make_inputs(model.config, timesteps=2), make_inputs(model.config, timesteps=2, seed=5)
    negative = inputs.map(lambda own, other: replace(own, context=other.context), negative)
    passes = [
        Pass(inputs=inputs, perturbations=[Perturbation()]),
        Pass(inputs=negative, perturbations=[Perturbation()]),
        Pass(inputs=inputs, perturbations=[Perturbation(video_self={1}, audio_self={2})]),
        Pass(inputs=inputs, perturbations=[Perturbation(audio_to_video=ALL_BLOCKS, video_to_audio={0})]),
    ]
    for batched, separate in zip(run_batched(model, passes), run_passes(model, passes), strict=True):
        assert relative(batched, separate) <= BATCHED_PASSES


@pytest.mark.parametrize("changes", [{}, LATER_GENERATION | {"use_prompt_adaln_single": False}])
def test_text_that_is_kept_gives_the_same_velocities(changes: dict) -> None:
    model = build(config(**changes))
    inputs = make_inputs(model.config)
    memory = model.text_memory(inputs.map(lambda s: s.context))
    kept = model(inputs.map(lambda s, text: replace(s, context=text), memory))
    assert all(a.equal(b) for a, b in zip(kept, model(inputs), strict=True))


def test_text_that_depends_on_the_noise_level_is_not_kept() -> None:
    model = build(config(**LATER_GENERATION))
    with pytest.raises(ValueError, match="noise level"):
        model.text_memory(make_inputs(model.config).map(lambda s: s.context))


class LoadedBlocks:
    """Blocks that are loaded when they are requested, and whose weights are lost when the next one is requested."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.stored = blocks

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[nn.Module]:
        for stored in self.stored:
            block = deepcopy(stored)
            yield block
            for parameter in block.parameters():
                parameter.fill_(torch.nan)


def with_loaded_blocks(model: Transformer) -> Any:
    loaded: Any = deepcopy(model)
    del loaded.blocks
    loaded.blocks = LoadedBlocks(model.blocks)
    return loaded


@pytest.mark.parametrize("changes", VARIANTS)
def test_blocks_that_are_loaded_and_dropped_give_the_same_velocities(changes: dict) -> None:
    model = build(config(**changes))
    inputs = make_inputs(model.config, timesteps=2)
    passes = [Pass(inputs=inputs), Pass(inputs=inputs, perturbations=[Perturbation(video_self={2})], follows=0)]
    resident, loaded = run_passes(model, passes), run_passes(with_loaded_blocks(model), passes)
    assert all(a.equal(b) for one, other in zip(resident, loaded, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("changes", [{}, LATER_GENERATION | {"use_prompt_adaln_single": False}])
def test_blocks_that_are_loaded_and_dropped_give_the_same_text_memory(changes: dict) -> None:
    model = build(config(**changes))
    context = make_inputs(model.config).map(lambda s: s.context)
    for resident, loaded in zip(
        model.text_memory(context), with_loaded_blocks(model).text_memory(context), strict=True
    ):
        assert len(resident) == len(loaded) == model.config.layers
        assert all(
            a.equal(b) for one, other in zip(resident, loaded, strict=True) for a, b in zip(one, other, strict=True)
        )


@pytest.mark.parametrize("keys", [1, 5, 16])
@pytest.mark.parametrize("broken", ["q", "k", "v"])
def test_no_attention_loses_a_value_that_is_no_number(broken: str, keys: int) -> None:
    given = {name: torch.ones(1, 2, count, 8) for name, count in (("q", 3), ("k", keys), ("v", keys))}
    given[broken][0, 1, 0, 0] = torch.nan
    is_nan = attention(**given).isnan()
    assert is_nan[0, 1, 0].any()
    assert not is_nan[0, 0].any()


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_single_stream_model_equals_the_whole_one_without_the_other_stream(stream: str) -> None:
    whole = build(config())
    single = Transformer(whole.config.only(stream)).requires_grad_(False)
    state = whole.state_dict()
    single.load_state_dict({name: state[name] for name in single.state_dict()})
    inputs = Streams(**{stream: getattr(make_inputs(whole.config), stream)})
    assert getattr(single(inputs), stream).equal(getattr(whole(inputs), stream))


def test_disabled_stream_is_still_heard() -> None:
    model = build(config())
    inputs = make_inputs(model.config)
    assert inputs.audio is not None
    disabled = inputs._replace(audio=replace(inputs.audio, is_enabled=False))
    hidden: list[Streams[Tensor]] = []
    run_passes(model, [Pass(inputs=disabled)], on_block=lambda *args: hidden.append(args[2]))
    assert all(states.audio.equal(hidden[0].audio) for states in hidden)
    without = model(Streams(video=inputs.video)).video
    assert not model(disabled).video.allclose(without, rtol=1e-2)


@pytest.mark.parametrize(
    ("key", "value"),
    [("qk_norm", "layer_norm"), ("rope_type", "spiral"), ("cross_attention_dim", 48), ("share_ff", True)],
)
def test_setting_that_is_not_implemented_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"transformer.{key}"):
        config(**{key: value})


def test_constant_that_is_missing_is_refused_by_name() -> None:
    settings = {key: value for key, value in TINY.items() if key != "av_cross_ada_norm"}
    with pytest.raises(CheckpointError, match="av_cross_ada_norm"):
        TransformerConfig.from_metadata({"transformer": settings})


def test_gradients_reach_every_parameter() -> None:
    model = build(config(**LATER_GENERATION)).requires_grad_(True)
    inputs = make_inputs(model.config, timesteps=2)
    marked = inputs.map(lambda s: replace(s, keyframes_mask=torch.ones_like(s.latent[..., :1])))
    torch.stack([velocity.sum() for velocity in model(marked) if velocity is not None]).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
