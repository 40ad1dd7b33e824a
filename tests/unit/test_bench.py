"""The benches themselves, on models that are small enough for a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import TorchRuntimeError

from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings
from ltx2_core.types import Streams
from scripts import bench
from scripts.benchmarks import decoders, meta, paired, subjects
from scripts.benchmarks.compare import Measurement
from scripts.benchmarks.compiled import Count, EagerBlock
from scripts.benchmarks.meta import Budget, Launches, LiveBytes, flop_counter
from scripts.benchmarks.paired import Pair
from scripts.benchmarks.subjects import Size, make_inputs
from tests.benches import narrow_the_decoders

CPU = torch.device("cpu")
PLAIN = ["--only", "forward", "guided-step", "decoders"]  # the compiler takes a minute
SMALL = ["--layers", "2", "--heads", "1", "--runs", "1", "--decoded", "64x64x1", "--sizes", "64x64x9", "96x64x9"]
ROW_BYTES = 1000 * 4


def test_live_bytes_are_what_is_alive_at_one_time():
    given = torch.ones(1000)
    with LiveBytes([given]) as memory:
        a = given + 1
        b = a * 2  # two tensors are alive
        del a
        c = b - 1  # two again, because a is freed
        assert memory.live == 2 * ROW_BYTES
        del b, c
        given.view(10, 100).add_(1)  # views and in-place changes allocate nothing
    assert (memory.live, memory.peak) == (0, 2 * ROW_BYTES)


def test_what_computes_is_a_launch_and_a_view_is_none():
    x = torch.ones(4, 6)
    with torch.inference_mode(), Launches() as launches:
        x.view(6, 4)[1:].mT.unsqueeze(0)
        assert launches.count == 0
        x + 1
        x[0].add_(1)
        x.to(torch.bfloat16)
        torch.zeros(2)
    assert launches.count == 4


def test_products_of_a_block_are_counted_apart_and_what_is_outside_is_not():
    block, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.ones(3, 4)
    with torch.inference_mode(), EagerBlock(block) as eager:
        block(x + 1)
        block(x).mul(2)
    assert eager.found == Count(own=2, others=2, nbytes=2 * 2 * 3 * 4 * 4)


def test_a_block_takes_no_more_launches_than_it_needs():
    def launches(layers: int) -> int:
        config = TransformerConfig.from_metadata(scaled_settings(layers, 1))
        model = random_transformer(config, torch.bfloat16, CPU)
        with torch.inference_mode(), Launches() as launches:
            model(make_inputs(config, (64, 64, 33), torch.bfloat16, CPU))
        return launches.count

    assert launches(3) - launches(2) <= 118


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_attention_are_counted(dtype: torch.dtype):
    n, d = 5, 8
    x = torch.ones(1, 2, n, d, dtype=dtype)
    with torch.inference_mode(), flop_counter() as flops:
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        x[0, 0] @ x[0, 0].T
    product = 2 * n * n * d
    assert flops.get_total_flops() == 2 * 2 * product + product


def test_a_model_without_weights_costs_what_it_costs_with_them():
    config = TransformerConfig.from_metadata(scaled_settings(1, 1))
    model = random_transformer(config, torch.bfloat16, CPU)

    def cost(size: Size) -> float:
        with torch.inference_mode(), flop_counter() as flops:
            model(make_inputs(config, size, torch.bfloat16, CPU))
        return flops.get_total_flops() / 1e12

    def budget(size: Size, teraflops: float = 10**9, **limits: int) -> Budget:
        return Budget(size, teraflops, **{"bytes_per_token": 10**9, "launches_per_block": 10**9} | limits)

    budgets = (
        budget((64, 64, 9), cost((64, 64, 9))),
        budget((96, 64, 9), cost((96, 64, 9)) / 1.03),
        budget((96, 96, 9), bytes_per_token=1),
        budget((128, 96, 9), launches_per_block=1),
    )
    section = meta.section(budgets, layers=1, heads=1)
    assert section.verdict == "over budget: 96x64x9, 96x96x9, 128x96x9"
    assert not section.is_good
    assert meta.section(budgets[:1], layers=1, heads=1).is_good


@pytest.mark.slow
def test_the_full_size_model_keeps_its_budgets():
    assert bench.main(["--meta"]) == 0


def test_two_calls_take_turns_and_every_second_round_the_other_order():
    log = ""

    def call(name: str, value: float):
        def run() -> Streams[torch.Tensor]:
            nonlocal log
            log += name
            return Streams(torch.tensor([1.0, value]), torch.ones(2))

        return run

    pair = paired.in_turns([call("a", 2.0), call("b", 4.0)], CPU, 4)
    assert log == "ab" + "ab" + "abba" * 2
    assert [len(seconds) for seconds in pair.seconds] == [4, 4]
    assert pair.difference == 0.5


def test_a_value_that_is_not_finite_is_no_agreement():
    bad = Streams(torch.ones(2), torch.tensor([1.0, torch.nan]))
    pair = paired.in_turns([lambda: bad, lambda: Streams(torch.ones(2), torch.ones(2))], CPU, 1)
    assert pair.difference is not None
    assert not pair.difference <= 1


def test_the_ratio_is_that_of_neighbours():
    pair = Pair(flops=0, seconds=[[1.0, 8.0, 3.0], [2.0, 4.0, 2.0]], peak_bytes=[0, 0], difference=0.0)
    assert pair.ratio == 1.5  # the median of 0.5, 2.0 and 1.5


@pytest.fixture
def without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (paired, decoders):
        monkeypatch.setattr(module, "find_spec", lambda name: None)


@pytest.fixture(autouse=True)
def narrow_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_the_decoders(monkeypatch)


@pytest.mark.usefixtures("without_diffusers")
def test_the_gpu_bench_runs_end_to_end_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, runs = tmp_path / "tables" / "small.md", tmp_path / "runs.json"
    assert bench.main(["--gpu", "--device", "cpu", *PLAIN, *SMALL, "--out", str(out), str(runs)]) == 0
    rows = [line for line in out.read_text().splitlines() if re.match(r"\| (?!work|-)", line)]
    assert [" ".join(row.split()[1:6]) for row in rows] == [
        "forward | 64x64x9 | 8",
        "guided step | 64x64x9 |",
        "forward | 96x64x9 | 12",
        "video decoder | 64x64x1 |",
        "vocoder | 4 steps |",
    ]
    assert out.read_text() == capsys.readouterr().out
    assert {name: len(seconds) for name, seconds in Measurement.read(runs).runs.items()} == {
        "forward 64x64x9": 1,
        "guided step 64x64x9": 1,
        "forward 96x64x9": 1,
        "video decoder 64x64x1": 1,
        "vocoder 4 steps": 1,
    }


@pytest.mark.usefixtures("without_diffusers")
def test_a_forward_with_compiled_blocks_is_timed_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ran: list[str] = []

    def compile_blocks(model: Transformer) -> None:
        model.blocks[0].register_forward_pre_hook(lambda *_: ran.append("compiled"))

    monkeypatch.setattr(subjects, "compile_blocks", compile_blocks)
    words = ["--gpu", "--device", "cpu", "--only", "compiled-forward", *SMALL]
    assert bench.main(words) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| compiled forward")]
    assert len(ran) == 3, "one to warm up, one for its outputs, one that is timed; FLOPs are counted without it"
    assert [float(cell) for cell in row.split("|")[4:6]] == [1.0, pytest.approx(0, abs=60)]


@pytest.mark.usefixtures("without_diffusers")
def test_a_compiler_that_fails_leaves_its_row_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(*_: object) -> None:
        raise TorchRuntimeError("no such instruction")

    monkeypatch.setattr(subjects, "compile_blocks", lambda model: model.blocks[0].register_forward_pre_hook(fail))
    words = ["--gpu", "--device", "cpu", "--only", "forward", "compiled-forward", *SMALL]
    assert bench.main(words) == 0
    told = capsys.readouterr()
    assert "left out, as no such instruction" in told.err
    assert [line.split()[1] for line in told.out.splitlines() if line.startswith("| ")][1:] == [
        "-" * 7,
        *["forward"] * 2,
    ]


@pytest.mark.usefixtures("without_diffusers")
def test_the_cpu_bench_fails_without_diffusers(capsys: pytest.CaptureFixture[str]):
    assert bench.main(["--cpu", *PLAIN, *SMALL]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("diffusers is not installed")


@pytest.mark.parametrize("arguments", [[], ["--gpu"]])
def test_nothing_to_measure_or_nothing_to_measure_it_on_is_exit_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        bench.main(arguments)
    assert caught.value.code == 2


@pytest.mark.slow
def test_the_memory_modes_are_timed_beside_resident_weights_in_the_formats_that_are_named(tmp_path: Path):
    out = tmp_path / "small.md"
    words = ["--gpu", "--device", "cpu", "--modes", "--formats", "bf16", "fp8", "--cap", "8"]
    assert bench.main([*words, *SMALL[:-1], "--out", str(out)]) == 0
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")][2:]
    assert [(row[0].strip("| "), row[1].strip()) for row in rows] == [
        (form, mode) for form in ("bf16", "fp8") for mode in ("streamed", "lean")
    ]
    assert all(float(row[6].strip(" |")) > 0 for row in rows)
