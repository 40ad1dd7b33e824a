"""The facts of `ltx2 doctor` about a machine: what exists, what is missing and what to do, and nothing private."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ltx2_core import machine as records
from ltx2_core.cards import Card, TorchBuild
from ltx2_core.hub.registry import RegisteredModel, read_catalogue
from ltx2_core.pipeline.doctor import devices, facts
from ltx2_core.pipeline.doctor.facts import diagnose
from ltx2_core.pipeline.doctor.report import Diagnosis, Fact, anonymous
from ltx2_core.pipeline.resolve import machine
from tests.commands import ltx2

ROOT = Path(__file__).parents[2]
GB_24 = Card(name="RTX 4090", nbytes=24 * 2**30, capability=(8, 9), driver="570.1", free_bytes=20 * 2**30)
AMD = Card(name="Radeon", nbytes=0, maker="AMD")


def show(monkeypatch: pytest.MonkeyPatch, *shown: Card, cuda: str | None = None, hip: str | None = None) -> None:
    """A machine with these GPUs and a torch of this build, which supports the GPUs of one vendor."""
    build = TorchBuild("2.13.0", cuda, hip)
    usable = [card for card in shown if card.maker == build.maker]
    monkeypatch.setattr(facts, "find_cards", lambda: list(shown))
    monkeypatch.setattr(facts, "torch_build", lambda: build)
    monkeypatch.setattr(machine, "has_cuda_build", lambda: build.maker is not None)
    monkeypatch.setattr(machine, "find_card", lambda number: usable[number] if number < len(usable) else None)


def test_a_card_is_shown_with_all_that_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, GB_24, cuda="13.0")
    found = diagnose()
    line = "RTX 4090, 24 GB as sold, 24.0 GiB, 20.0 GiB free, compute capability 8.9, driver 570.1"
    assert found.rows["card"] == line
    assert found.rows["torch"] == "2.13.0, built for CUDA 13.0"
    assert found.devices == ("cuda:0",)


@pytest.mark.parametrize(
    ("gb", "verdicts"),
    [
        (24, ["recommended"] * 4),
        (16, ["recommended", "recommended", "recommended", "possible"]),
        (10, ["possible", "possible", "too", "too"]),
        (6, ["too"] * 4),
    ],
)
def test_the_verdict_goes_size_by_size(gb: int, verdicts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, Card(name="a card", nbytes=gb * 2**30), cuda="13.0")
    rows = diagnose().rows
    assert [rows[size].split()[0] for size in ("480p", "720p", "1080p", "4k")] == verdicts


@pytest.mark.parametrize(("gb", "fits"), [(24, "no published model"), (48, "ltx-2, "), (80, "ltx-2, ")])
def test_models_that_do_not_fit_whole_are_told_apart(gb: int, fits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, Card(name="a card", nbytes=gb * 2**30), cuda="13.0")
    whole = {"ltx-2": "bf16", "ltx-2-distilled": "bf16", "odd": "w4a8"}
    models = {
        name: RegisteredModel(summary="", generation="2.0", files={}, precision=precision, card_gb=48)
        for name, precision in whole.items()
    }
    monkeypatch.setattr(facts, "registered_models", lambda: models)
    row = diagnose().rows["fits whole"]
    assert row.startswith(fits)
    assert "odd" not in row
    assert ("a card with 48 GB" in row) == (gb < 48)


@pytest.mark.parametrize("shown", [(), (AMD,)])
def test_no_size_is_recommended_without_a_card_or_its_memory(
    shown: tuple[Card, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch, *shown, hip="7.1")
    rows = diagnose().rows
    assert "480p" not in rows
    assert "--model toy" in rows["verdict"]


def test_two_cards_have_a_row_each_and_torch_is_told_which_it_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, GB_24, AMD, hip="7.1")
    found = diagnose()
    assert found.rows["card 1"] == "Radeon, its memory cannot be read"
    assert found.devices == ("cuda:0",)  # the AMD GPU
    assert "To do" not in found.rows["torch"]


def test_a_torch_for_the_cpu_beside_a_card_is_a_row_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, GB_24)
    found = diagnose()
    assert "built for the CPU alone. To do: there is a card of NVIDIA: install the build" in found.rows["torch"]
    assert found.devices == ()


def test_models_that_are_installed_are_named_and_the_others_counted() -> None:
    others = len(read_catalogue().models) - 1
    told = f"toy; {others} more have a name and are not installed (ltx2 models)"
    assert diagnose().rows["models"] == told


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "torch_build", lambda: None)
    assert diagnose().rows["torch"].startswith("not installed. To do: pip install torch")


def test_one_thread_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert diagnose().rows["CPU"].endswith(", 1 compute thread")


def test_a_missing_encoder_is_a_row_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "encoders", lambda: {"h264": True, "av1": False})
    assert diagnose().rows["encoders"].startswith("h264. To do: av1: not in this FFmpeg")


def test_a_pyav_that_cannot_be_loaded_is_a_row_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("libavcodec.so: cannot open shared object file")

    monkeypatch.setattr(facts, "library_versions", broken)
    assert diagnose().rows["FFmpeg"].endswith("cannot open shared object file. To do: pip install av")


def test_the_libraries_of_the_tests_have_all_encoders() -> None:
    rows = diagnose().rows
    assert rows["encoders"] == "h264, h265, av1, aac, alac, flac"
    assert rows["FFmpeg"].startswith("PyAV ")


def test_the_memory_of_a_container_is_told_beside_that_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   524288 kB\n")
    monkeypatch.setattr(records, "CGROUP_LIMITS", (tmp_path / "memory.max",))
    monkeypatch.setattr(records, "MEMORY_INFO", tmp_path / "meminfo")
    assert diagnose().rows["memory"].endswith("GiB, 0.5 GiB available, of which this container may use 1.0 GiB")


def test_extras_are_installed_where_all_that_they_need_is(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=2.9", "pydantic>=2; extra == 'heic'", 'nosuchthing>1; extra == "parity"']
    monkeypatch.setattr(facts.metadata, "requires", lambda name: needs)
    assert diagnose().rows["extras"] == "heic; not installed: parity"


def test_a_wrong_variable_and_a_wrong_file_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ltx2.yaml").write_text("steps: [")
    monkeypatch.setenv("LTX2_STEP", "3")
    rows = diagnose().rows
    assert rows["settings"].startswith("ltx2.yaml")
    assert "LTX2_STEP sets nothing" in rows["variables"]
    assert "LTX2_STEP" in rows["environment"]


def test_a_home_that_cannot_be_is_a_row_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", "a" * 256)
    result = ltx2("doctor")
    assert result.exit_code == 0, result.stderr
    assert "LTX2_HOME" in result.stdout
    assert "cannot be used" in result.stdout


def test_a_token_is_set_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("HF_HOME", "/somewhere/private")
    result = ltx2("doctor")
    assert "HF_HOME, HF_TOKEN (set)" in result.stdout
    assert "hf_verysecret" not in result.output
    assert "/somewhere/private" not in result.output


def test_the_block_holds_no_user_no_host_and_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "ann lee"
    (home / "ltx2").mkdir(parents=True)
    (home / "ltx2" / "config.yaml").write_text("model_folders: [")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LTX2_HOME", str(home / "ltx2"))
    monkeypatch.setattr(getpass, "getuser", lambda: "annlee")
    monkeypatch.setattr(platform, "node", lambda: "Cray.lab.example")
    show(monkeypatch, Card(name="card of annlee on cray", nbytes=2**34), cuda="13.0")
    block = diagnose().report
    for private in ("annlee", "ann lee", "cray", "Cray", str(tmp_path), "/", "~"):
        assert private not in block.replace("GNU/Linux", "").replace("LTX2_HOME/config.yaml", ""), private
    assert "card: card of USER on HOST, 16 GB as sold" in block
    assert "settings: " in block


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/data/models/x.safetensors is damaged", "PATH is damaged"),
        (r"C:\models\x.safetensors, D:/other", "PATH, PATH"),
        ("in ./ltx2.yaml, line 3", "in PATH, line 3"),
        ("9/16 at 24000/1001 and n/a stay", "9/16 at 24000/1001 and n/a stay"),
        ("see ~/notes", "see PATH"),
    ],
)
def test_paths_of_all_systems_are_removed(text: str, clean: str) -> None:
    assert anonymous(text) == clean


def test_in_json_it_is_one_event_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = ltx2("doctor", "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in told] == ["output", "summary"]
    assert told[0]["facts"]["report"].startswith("```\nltx2 ")
    assert told[0]["facts"]["settings"] == "no file"


def test_a_card_that_torch_cannot_use_is_a_row_with_what_to_do() -> None:
    found = devices.try_devices(Diagnosis((Fact("system", "here"),), ("nonsense",)))
    assert found.rows["system"] == "here"
    assert found.rows["nonsense tried"].startswith("torch cannot compute on it: ")
    assert "To do: update the driver" in found.rows["nonsense tried"]


def test_products_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.try_devices(Diagnosis((), ("cpu",))).rows == {
        "cpu tried": "products are right in float32, bfloat16, float16, float64"
    }
    monkeypatch.setattr(devices, "WITHIN", 1e-4)
    assert devices.try_devices(Diagnosis((), ("cpu",))).rows == {"cpu tried": "products are right in float32, float64"}


def test_what_the_card_computes_follows_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, GB_24, cuda="13.0")
    monkeypatch.setattr(machine, "devices", lambda: [machine.Device("cpu:0")])
    result = ltx2("doctor")
    table, _, rest = result.stdout.partition("tried on the card\n")
    assert "4k" in table
    assert rest.lstrip().startswith("cpu:0 tried  products are right in float32")
    assert "\ncpu:0 tried: products are right in float32" in rest


def test_without_a_card_no_torch_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from ltx2_core.pipeline.doctor.facts import diagnose; found = diagnose();"
        "print(found.rows['encoders']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "h264" in done.stdout
