"""`scripts/bench.py --compare`: what is certainly slower, and what cannot be decided; also `--start` and `--ranks`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts import bench
from scripts.benchmarks import compare, ranks, start
from scripts.benchmarks.compare import Incomparable, Measurement, is_slower

STEADY = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 0.98]
BUSY = [1.0, 1.6, 0.9, 1.4, 1.0, 1.5, 0.8]


def scaled(seconds: Sequence[float], factor: float) -> list[float]:
    return [one * factor for one in seconds]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (STEADY, False),
        (scaled(STEADY, 1.04), False),  # within 5 %
        (scaled(STEADY, 1.10), True),
        (scaled(STEADY, 0.5), False),  # faster
    ],
)
def test_a_slowdown_counts_above_five_percent(after: list[float], expected: bool) -> None:
    assert is_slower(STEADY, after) == expected


def test_quartiles_that_overlap_tell_nothing() -> None:
    assert not is_slower(BUSY, scaled(BUSY, 1.2))
    assert is_slower(BUSY, scaled(BUSY, 3))


def written(path: Path, runs: dict[str, list[float]], machine: str = "a CPU") -> str:
    Measurement([machine], "python scripts/bench.py --cpu", runs).write(path)
    return str(path)


def test_two_files_are_compared_work_by_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path / "old.json", {"forward": STEADY, "vocoder": STEADY, "gone": STEADY})
    new = written(tmp_path / "new.json", {"forward": scaled(STEADY, 1.1), "vocoder": STEADY, "more": STEADY})
    assert bench.main(["--compare", old, new]) == 1
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "slower by more than 5 %: forward"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if line.startswith("| ")]
    assert [(row[0], row[1], row[4], row[5]) for row in rows[2:]] == [
        ("forward", "7", "1.100", "slower"),
        ("vocoder", "7", "1.000", ""),
    ]
    assert bench.main(["--compare", new, old]) == 0


def test_what_cannot_be_compared_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path / "good.json", {"forward": STEADY})
    few = written(tmp_path / "few.json", {"forward": STEADY[:6]})
    elsewhere = written(tmp_path / "elsewhere.json", {"forward": STEADY}, machine="another CPU")
    more = written(tmp_path / "more.json", {"forward": [*STEADY, 1.0]})
    none = written(tmp_path / "none.json", {"vocoder": STEADY})
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    cases = {
        few: "fewer than 7 runs",
        more: "7 runs in one and 8 in the other",
        elsewhere: "different machines",
        none: "no work in common",
        str(broken): "not a file of runs",
        str(tmp_path / "missing.json"): "not a file of runs",
    }
    for other, why in cases.items():
        assert bench.main(["--compare", good, other]) == 2
        assert why in capsys.readouterr().err


def test_a_revision_that_does_not_exist_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--compare", "no-such-revision", "HEAD", "--meta"]) == 2
    assert "neither a file of runs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["--compare", "HEAD~1", "HEAD"])  # no bench is named


def test_two_revisions_take_turns_with_the_bench_of_this_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds: list[str] = []

    def measured(folder: Path, arguments: Sequence[str]) -> dict[str, list[float]]:
        assert (folder / "ltx2_core").is_dir()
        assert (folder / "scripts/benchmarks/compare.py").read_bytes() == Path(compare.__file__).read_bytes()
        assert arguments == ["--cpu", "--runs", "3"]
        rounds.append(folder.name)
        return {"forward": [9.0, len(rounds) * 0.01 + 1, 0.1]}

    monkeypatch.setattr(compare, "_measured", measured)
    monkeypatch.setattr(compare, "machine", list)
    assert bench.main(["--cpu", "--compare", "HEAD", "HEAD^{commit}", "--runs", "3"]) == 0
    assert rounds[:4] == ["HEAD", "HEAD^{commit}", "HEAD^{commit}", "HEAD"]
    assert len(rounds) == 14
    assert "nothing is slower" in capsys.readouterr().out


def test_a_bench_that_fails_in_a_revision_is_told(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bench.py").write_text("raise SystemExit('no such part')")
    with pytest.raises(Incomparable, match="no such part"):
        compare._measured(tmp_path, [])
    found = "{'machine': [], 'command': '', 'runs': {'a': [1]}}"
    misses_its_limits = f"import json, sys\njson.dump({found}, open(sys.argv[-1], 'w'))\nsys.exit(1)"
    (tmp_path / "scripts" / "bench.py").write_text(misses_its_limits)
    assert compare._measured(tmp_path, []) == {"a": [1]}


def test_the_start_is_timed_beside_python_alone_and_held_against_the_contract(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(start, "_python", lambda code: 0.01 if code == "pass" else 2.0)
    monkeypatch.setattr(start, "find_spec", lambda name: object())
    took = {"ltx2 --help": 0.9}
    monkeypatch.setattr(start, "_ltx2", lambda words, home: None)
    monkeypatch.setattr(start, "_timed", lambda call: call() or 0.2)
    monkeypatch.setattr(start, "timed_render", lambda home: {"render: first step": 3.0, "phase denoise": 1.0, **took})
    out = tmp_path / "start.json"
    assert bench.main(["--start", "--runs", "7", "--out", str(out)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "later than the contract: ltx2 --help"
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in told if "|" in line
    }
    assert cells["imports of a render"] == ["7", "0.010", "2.000", "2.000", "1.000", "-"]
    assert cells["ltx2 --version"] == ["7", "0.010", "0.200", "-", "-", "0.5"]
    assert cells["phase denoise"][:3] == ["7", "-", "1.000"]
    assert len(json.loads(out.read_text())["runs"]["render: first step"]) == 7


@pytest.mark.slow
def test_a_render_with_the_built_in_model_tells_its_moments_and_phases(tmp_path: Path) -> None:
    found = start.timed_render(tmp_path)
    assert 0 < found["render: first step"] < found["render: last step"] < found["render: end"]
    assert {"phase text", "phase denoise", "phase video"} <= found.keys()


def test_ranks_are_timed_in_turns_with_one_and_without_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def render(home: Path, option: str, count: str) -> dict[str, float]:
        asked.append(count)
        seconds = 99.0 if len(asked) <= 2 else {"1": 4.0, "2": 3.0}[count]
        return dict.fromkeys(ranks.SHOWN, seconds)

    monkeypatch.setattr(ranks, "timed_render", render)
    found = ranks.section(2, 3)
    assert asked == ["1", "2"] * 4
    assert found.runs == {name: [3.0] * 3 for name in ranks.SHOWN}
    assert [row["ratio"] for row in found.rows] == ["0.750"] * len(ranks.SHOWN)


def test_fewer_ranks_than_two_are_no_bench(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--ranks", "1"])
    assert "--ranks takes 2 or more" in capsys.readouterr().err
