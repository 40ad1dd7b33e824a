"""Loading components: strict in the names of the file, only the needed tensors, and without a copy in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.checkpoint import BUILDERS, load_component, without_data
from ltx2_core.components import COMPONENTS, DIT
from ltx2_core.config.released import released_configs
from ltx2_core.errors import CheckpointError
from ltx2_core.headers import read_header
from ltx2_core.keymap import official_name, own_names
from scripts.make_fullsize_checkpoint import write_sparse

CHECKPOINT = "ltx-2-tiny-dev.safetensors"


def rewritten(tiny: Path, out: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """The tiny checkpoint with a change to its tensors."""
    tensors = load_file(tiny / CHECKPOINT)
    change(tensors)
    path = out / "changed.safetensors"
    save_file(tensors, path, dict(read_header(tiny / CHECKPOINT).metadata))
    return path


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("upsampler", "duration_head")])
def test_component_has_the_weights_of_the_file_under_their_official_names(tiny: Path, name: str) -> None:
    module = load_component(name, tiny / CHECKPOINT)
    with safe_open(tiny / CHECKPOINT, "pt") as file:
        for own, tensor in module.state_dict().items():
            assert tensor.equal(file.get_tensor(official_name(name, own)))


def with_prefix(prefix: str) -> Callable[[dict[str, Tensor]], None]:
    """A change that gives the denoiser and its connectors a different prefix."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(DIT)]:
            tensors[name.replace(DIT, prefix)] = tensors.pop(name)

    return change


@pytest.mark.parametrize("name", ["transformer", "video_connector", "audio_connector"])
@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_the_prefixes_of_a_denoiser_are_one(tiny: Path, tmp_path: Path, prefix: str, name: str) -> None:
    renamed = load_component(name, rewritten(tiny, tmp_path, with_prefix(prefix))).state_dict()
    official = load_component(name, tiny / CHECKPOINT).state_dict()
    assert renamed.keys() == official.keys()
    assert all(tensor.equal(official[own]) for own, tensor in renamed.items())


def test_modules_are_made_without_drawing_their_weights() -> None:
    given = torch.ones(3)
    with without_data():
        layer = torch.nn.Linear(2, 3)
        assert torch.nn.init.uniform_(given) is given
    assert layer.weight.is_meta
    assert given.equal(torch.ones(3))
    assert not torch.nn.Linear(2, 3).weight.is_meta


def test_missing_tensors_are_named_with_the_prefix_of_the_file(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        with_prefix("")(tensors)
        del tensors["transformer_blocks.1.attn1.to_q.weight"]

    with pytest.raises(CheckpointError, match=r"1 missing \(transformer_blocks\.1\.attn1\.to_q\.weight\)"):
        load_component("transformer", rewritten(tiny, tmp_path, change))


def test_every_tensor_of_a_checkpoint_belongs_to_one_component(tiny: Path) -> None:
    header = read_header(tiny / CHECKPOINT)
    # The upsampler has no prefix, and only the statistics belong to both encoder and decoder.
    components = [name for name in COMPONENTS if name not in ("upsampler", "video_statistics")]
    owned = [name for component in components for name in own_names(component, header)]
    statistics = [name for name in owned if ".per_channel_statistics." in name]  # these belong to encoder and decoder
    assert sorted(owned) == sorted([*header.tensors, *set(statistics)])


def test_tensors_keep_their_dtype_unless_one_is_asked_for(tiny: Path) -> None:
    stored = load_component("transformer", tiny / CHECKPOINT).state_dict()
    assert {t.dtype for name, t in stored.items() if "table" in name} == {torch.float32}
    assert {t.dtype for name, t in stored.items() if "table" not in name} == {torch.bfloat16}
    widened = load_component("transformer", tiny / CHECKPOINT, dtype=torch.float32).state_dict()
    assert {t.dtype for t in widened.values()} == {torch.float32}


def test_missing_unexpected_and_misshapen_tensors_are_named_as_in_the_file(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[DIT + "transformer_blocks.1.attn1.to_q.weight"]
        tensors[DIT + "transformer_blocks.1.attn1.to_x.weight"] = torch.zeros(1)
        tensors[DIT + "proj_out.bias"] = torch.zeros(3)

    with pytest.raises(CheckpointError) as caught:
        load_component("transformer", rewritten(tiny, tmp_path, change))
    assert "1 missing (model.diffusion_model.transformer_blocks.1.attn1.to_q.weight)" in caught.value.why
    assert "1 unexpected (model.diffusion_model.transformer_blocks.1.attn1.to_x.weight)" in caught.value.why
    assert "1 of another shape (model.diffusion_model.proj_out.bias is [3], expected [128])" in caught.value.why


def test_tensors_of_other_components_are_not_looked_at(tiny: Path, tmp_path: Path) -> None:
    changed = rewritten(tiny, tmp_path, lambda tensors: tensors.pop("vocoder.conv_pre.bias"))
    load_component("audio_decoder", changed)
    with pytest.raises(CheckpointError, match="does not hold the model"):
        load_component("vocoder", changed)


def test_statistics_that_nobody_reads_are_tolerated(tiny: Path, tmp_path: Path) -> None:
    extra = {f"vae.per_channel_statistics.{name}": torch.zeros(128) for name in ("mean-of-stds", "channel")}
    decoder = load_component("video_decoder", rewritten(tiny, tmp_path, lambda tensors: tensors.update(extra)))
    assert not any("mean-of-stds" in name or "channel" in name.split(".") for name in decoder.state_dict())


def test_component_that_is_not_in_the_file_is_named(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="has no vocoder"):
        load_component("vocoder", tiny / "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors")


def test_quantised_weights_that_could_be_read_in_two_ways_are_refused(tiny: Path, tmp_path: Path) -> None:
    name = DIT + "transformer_blocks.0.attn1.to_q.weight"
    changed = rewritten(tiny, tmp_path, lambda t: t.update({name: t[name].to(torch.int8)}))
    with pytest.raises(CheckpointError, match="quantised"):
        load_component("transformer", changed)


def test_tensor_of_another_type_is_refused(tiny: Path, tmp_path: Path) -> None:
    changed = rewritten(
        tiny, tmp_path, lambda t: t.update({DIT + "proj_out.bias": torch.zeros(128, dtype=torch.int32)})
    )
    with pytest.raises(CheckpointError, match=r"1 of another type \(model.diffusion_model.proj_out.bias is I32\)"):
        load_component("transformer", changed)


def test_missing_keyframe_embedding_is_zero(tiny: Path) -> None:
    header = read_header(tiny / CHECKPOINT)
    config = {"transformer": header.config["transformer"] | {"use_keyframes_abs_pos_embedding": True}}
    module = load_component("transformer", header, config=config)
    assert not module.get_parameter("video.keyframe_embedding").any()


def test_loading_is_lazy_and_the_same_every_time(tiny: Path) -> None:
    first, second = (load_component("vocoder", tiny / CHECKPOINT).state_dict() for _ in range(2))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


LOAD = """
import sys, threading
from pathlib import Path
import torch
from ltx2_core.checkpoint import load_component

def anonymous_bytes():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

import ltx2_core.models.transformer
torch.zeros(8).to(torch.bfloat16)
before = peak = anonymous_bytes()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous_bytes())
watcher = threading.Thread(target=watch)
watcher.start()
model = load_component("transformer", Path(sys.argv[1]))
total = sum(p.sum().item() * 0 + p.nbytes for p in model.parameters())  # touch every page
done.set(); watcher.join()
print(total, max(peak, anonymous_bytes()) - before)
"""


@pytest.mark.slow
def test_loading_a_component_adds_at_most_a_tenth_of_its_bytes_to_anonymous_memory(tmp_path: Path) -> None:
    transformer = released_configs()["2.0"]["transformer"] | {"num_layers": 1}
    config = {"transformer": transformer}
    with torch.device("meta"):
        state = BUILDERS["transformer"](config).state_dict()
    path = tmp_path / "full-width.safetensors"
    tensors = {official_name("transformer", own): ("BF16", tensor.shape) for own, tensor in state.items()}
    write_sparse(path, tensors, {"config": json.dumps(config)})
    done = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True, check=True)
    total, added = (float(number) for number in done.stdout.split())
    assert total > 1e9
    assert added <= 0.1 * total
