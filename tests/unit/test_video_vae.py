from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx2_core.config.video_vae import Resample, ResBlocks, VideoVAEConfig
from ltx2_core.errors import CheckpointError, RequestError
from ltx2_core.grids import Factors
from ltx2_core.models.video_layers import CausalConv3d
from ltx2_core.models.video_vae import VideoDecoder, VideoEncoder

METADATA: dict[str, Any] = {
    "latent_channels": 4,
    "encoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_space_res", {"multiplier": 2}],
        ["compress_time_res", {"multiplier": 2}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", 1],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_space", {"multiplier": 2}],
        ["compress_time", {"multiplier": 1}],
        ["compress_all", {"multiplier": 2, "residual": True}],
        ["res_x", {"num_layers": 1, "inject_noise": False}],
    ],
    "patch_size": 2,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "decoder_base_channels": 4,
    "timestep_conditioning": False,
}


def config(**changes: Any) -> VideoVAEConfig:
    return VideoVAEConfig.from_metadata({"vae": METADATA | changes})


def with_random_weights(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(tensor.shape, generator=generator) - 0.4 for name, tensor in module.state_dict().items()}
    state["per_channel_statistics.std-of-means"] += 1
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def encoder(**changes: Any) -> VideoEncoder:
    return with_random_weights(VideoEncoder(config(**changes)))


def decoder(**changes: Any) -> VideoDecoder:
    return with_random_weights(VideoDecoder(config(**changes)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1))


def test_factors_follow_from_the_block_list():
    assert config().factors == Factors(4, 8, 8)


def test_one_frame_stands_alone_and_every_further_latent_frame_for_a_full_cell():
    assert encoder()(noise(1, 3, 9, 16, 24)).shape == (1, 4, 3, 2, 3)
    assert decoder()(noise(1, 4, 3, 2, 3)).shape == (1, 3, 9, 16, 24)


def test_encoder_never_looks_ahead():
    video = noise(1, 3, 9, 16, 16)
    changed = video.clone()
    changed[:, :, 5:] += 1
    whole, other = encoder()(video), encoder()(changed)
    torch.testing.assert_close(whole[:, :, :2], other[:, :, :2])
    assert not torch.allclose(whole[:, :, 2], other[:, :, 2])


@pytest.mark.parametrize("is_causal", [True, False])
def test_decoder_looks_ahead_unless_it_is_causal(is_causal: bool):
    latent = noise(1, 4, 3, 2, 2)
    changed = latent.clone()
    changed[:, :, 2] += 1
    model = decoder(causal_decoder=is_causal)
    assert torch.allclose(model(latent)[:, :, :5], model(changed)[:, :, :5]) == is_causal


def test_encoder_drops_frames_that_do_not_fill_a_cell():
    video = noise(1, 3, 8, 16, 16)
    torch.testing.assert_close(encoder()(video), encoder()(video[:, :, :5]))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_convolution_equals_torch_with_repeated_end_frames(is_causal: bool, padding: Any):
    layer = CausalConv3d(2, 3, is_causal=is_causal, padding=padding).requires_grad_(False)
    plain = nn.Conv3d(2, 3, 3, padding=(0, 1, 1), padding_mode=padding).requires_grad_(False)
    plain.load_state_dict(layer.conv.state_dict())
    x = noise(2, 2, 3, 2, 4)
    ends = (2, 0) if is_causal else (1, 1)
    torch.testing.assert_close(layer(x), plain(F.pad(x, (0, 0, 0, 0, *ends), mode="replicate")))


def test_missing_padding_mode_means_zeros_in_the_encoder_and_mirrors_in_the_decoder():
    assert (config().encoder_padding, config().decoder.padding) == ("zeros", "reflect")
    both = config(spatial_padding_mode="reflect", encoder_spatial_padding_mode="zeros")
    assert (both.encoder_padding, both.decoder.padding) == ("reflect", "reflect")


def test_decoder_unfolds_the_patches_that_the_encoder_folds():
    video = noise(1, 3, 2, 4, 6)
    assert torch.equal(decoder().unpatchify(encoder().patchify(video)), video)


def test_unnormalize_inverts_normalize():
    x, statistics = noise(2, 4, 1, 2, 3), encoder().per_channel_statistics
    torch.testing.assert_close(statistics.unnormalize(statistics.normalize(x)), x)


def test_clips_of_a_batch_do_not_touch_each_other():
    video, latent = noise(2, 3, 5, 16, 16), noise(2, 4, 2, 2, 2)
    for model, x in ((encoder(), video), (decoder(), latent)):
        torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]))


def test_inputs_stay_as_they_are():
    video, latent = noise(1, 3, 5, 16, 16), noise(1, 4, 2, 2, 2)
    for model, x in ((encoder(), video), (decoder(), latent), (decoder(timestep_conditioning=True), latent)):
        before = x.clone()
        model(x)
        assert torch.equal(x, before)


def test_gradients_reach_every_parameter_and_change_no_value():
    video, latent = noise(1, 3, 5, 16, 16), noise(1, 4, 2, 2, 2)
    models = (encoder(), decoder(), decoder(timestep_conditioning=True))
    functions = (models[0].forward, models[1].decode, models[2].decode)  # none of these models draws noise
    for model, function, x in zip(models, functions, (video, latent, latent), strict=True):
        expected = function(x)
        model.requires_grad_(True)
        result = function(x)
        result.square().mean().backward()
        assert torch.equal(result, expected)
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_result_has_the_dtype_of_the_input_whatever_the_weights_have():
    assert encoder().bfloat16()(noise(1, 3, 1, 16, 16)).dtype == torch.float32
    assert decoder()(noise(1, 4, 1, 2, 2).bfloat16()).dtype == torch.bfloat16


def test_conditioned_decoder_mixes_in_noise_of_the_given_generator():
    model, latent = decoder(timestep_conditioning=True), noise(1, 4, 2, 2, 2)
    drawn = torch.randn(latent.shape, generator=seeded(7))
    assert torch.equal(model(latent, seeded(7)), model.decode(model.add_noise(latent, drawn)))
    assert not torch.equal(model(latent, seeded(7)), model(latent, seeded(8)))


def test_conditioned_decoder_listens_to_the_timestep():
    model, latent = decoder(timestep_conditioning=True), noise(1, 4, 2, 2, 2)
    assert not torch.allclose(model.decode(latent, timestep=0.05), model.decode(latent, timestep=0.2))


def test_unconditioned_decoder_draws_nothing():
    generator = seeded(7)
    decoder()(noise(1, 4, 1, 2, 2), generator)
    assert torch.equal(generator.get_state(), seeded(7).get_state())


def test_missing_timestep_setting_means_a_conditioned_decoder():
    metadata = {key: value for key, value in METADATA.items() if key != "timestep_conditioning"}
    assert VideoVAEConfig.from_metadata({"vae": metadata}) == config(timestep_conditioning=True)


def test_mirroring_decoder_refuses_a_single_row():
    latent = noise(1, 4, 1, 1, 2)
    with pytest.raises(RequestError, match="two latent rows"):
        decoder()(latent)
    assert decoder(spatial_padding_mode="zeros")(latent).shape == (1, 3, 1, 8, 16)


def test_number_in_place_of_settings_counts_layers():
    assert config(encoder_blocks=[["res_x", 3]]).encoder_blocks == (ResBlocks(layers=3),)


def test_residual_is_ignored_where_only_time_or_space_grows():
    plain, marked = {"multiplier": 2}, {"multiplier": 2, "residual": True}
    blocks = [[["compress_time", settings], ["compress_space", settings]] for settings in (plain, marked)]
    assert config(decoder_blocks=blocks[0]) == config(decoder_blocks=blocks[1])


def test_decoder_list_runs_backwards():
    forwards, backwards = (config(decoder_blocks=METADATA["decoder_blocks"][::step]) for step in (1, -1))
    assert forwards.decoder.blocks == backwards.decoder.blocks[::-1]
    growth = Resample(stride=Factors(2, 2, 2), multiplier=2, is_residual=True)
    assert forwards.decoder.blocks[1] == growth  # the second to last block of the file


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("_class_name", "CausalImageVAE", "CausalImageVAE"),
        ("dims", 2, "vae.dims"),
        ("norm_layer", "group_norm", "group_norm"),
        ("latent_log_var", "none", "latent_log_var"),
        ("spatial_padding_mode", "replicate", "replicate"),
        ("encoder_blocks", [["res_x_y", {"multiplier": 2}]], "res_x_y"),
        ("encoder_blocks", [["compress_all", {"multiplier": 2}]], "compress_all"),
        ("decoder_blocks", [["attn", {}]], "attn"),
        ("decoder_blocks", [["res_x", {"num_layers": 1, "inject_noise": True}]], "inject_noise"),
        ("decoder_blocks", [["compress_all", {"multiplier": 2, "depth": 3}]], "depth"),
    ],
)
def test_unknown_settings_are_refused_by_name(setting: str, value: Any, named: str):
    with pytest.raises(CheckpointError, match=named):
        config(**{setting: value})


def test_log_variance_channels_do_not_change_the_latent():
    shared, own = encoder(), VideoEncoder(config(latent_log_var="per_channel")).requires_grad_(False)
    state = {name: tensor for name, tensor in shared.state_dict().items() if not name.startswith("conv_out")}
    lacking = own.load_state_dict(state, strict=False)  # the last layer is missing; it is filled below
    assert all(name.startswith("conv_out") for name in lacking.missing_keys)
    assert lacking.unexpected_keys == []
    for name, tensor in own.conv_out.state_dict().items():
        tensor[:4] = shared.conv_out.state_dict()[name][:4]
    video = noise(1, 3, 1, 16, 16)
    assert own.conv_out.conv.out_channels == 8
    torch.testing.assert_close(own(video), shared(video))
