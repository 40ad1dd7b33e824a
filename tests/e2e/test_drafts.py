"""Drafts: the first stage of a render in few steps, and picks among the drafts, which are rendered in full."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.media.probe import probe
from ltx2_core.pipeline import processes
from ltx2_core.pipeline.batch.begin import begin
from ltx2_core.pipeline.batch.picks import DRAFTS, picked_batch
from ltx2_core.pipeline.batch.record import read_record
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from tests.commands import UNGUIDED, ltx2, rendered

# a forked process has already imported torch, and the models are tiny
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("kept_models"),
]
FORK = multiprocessing.get_context("fork")
SMALL = ("--preset", "smoke", "--steps", 3, *UNGUIDED)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "START_METHOD", "fork")
    Path("ltx2.yaml").write_text("draft_steps: 2\n")


def test_a_draft_is_the_first_stage_of_the_full_render():
    two = ("--preset", "two-stage", "--model", "toy", "--res", "128x128", "--frames", 9, "--steps", 2, "--seed", 5)
    full = rendered("t2v", "a lamp", *two, *UNGUIDED, "--keep-latents", "-o", "full.mp4")
    draft = rendered("t2v", "a lamp", *two, *UNGUIDED, "--keep-latents", "--draft", "-o", "draft.mp4")
    first, its = (load_file(path.with_name(f"{path.name}.job") / "latents-1.safetensors") for path in (full, draft))
    assert all((first[name] == its[name]).all() for name in ("video", "audio"))
    assert "64x64" in ltx2("inspect", draft).stdout


def test_a_draft_says_what_it_does_less_and_becomes_the_full_render_again():
    draft = ltx2("t2v", "a lamp", *SMALL, "--seed", 7, "--draft")
    assert draft.exit_code == 0, draft.stderr
    assert "draft: 2 of 3 steps" in draft.stderr
    path = Path(draft.stdout.strip())
    assert path.name == "t2v-a-lamp-7-draft.mp4"
    full = rendered("t2v", "a lamp", *SMALL, "--seed", 7)
    again = rendered("rerun", path, "--set", "draft=false", "-o", "again.mp4")
    assert full.read_bytes() == again.read_bytes() != path.read_bytes()
    assert rendered("rerun", path, "-o", "draft.mp4").read_bytes() == path.read_bytes()


def test_a_draft_that_would_be_the_full_render_is_refused():
    refused = ltx2("t2v", "a lamp", "--preset", "smoke", "--draft")
    assert refused.exit_code == 2
    assert "--draft cannot be used here" in refused.stderr
    assert "2 steps" in refused.stderr


def test_a_draft_is_as_large_as_the_first_stage_and_its_file_is_cut_like_the_full_one():
    layers = [(COMMAND_LINE, {"model": "ltx-2.3", "res": "1080p", "preset": "two-stage", "seed": 1})]
    drafted = [(COMMAND_LINE, {"draft": True}), *layers]
    full, draft = (core.plan_render("t2v", "a lamp", given, vram_gb=24).resolved.request for given in (layers, drafted))
    assert (full.file_size, full.steps_of_stages) == ((1920, 1080), [30, 3])
    assert (draft.file_size, draft.steps_of_stages) == ((960, 540), [8])
    assert (draft.width, draft.height, draft.steps, draft.full_recipe) == (1920, 1088, 30, full.recipe)


def test_picks_of_a_batch_of_drafts_are_rendered_in_full():
    Path("p.txt").write_text("@ is a sign")
    Path("s.txt").write_text("a lamp\n@p.txt\n")
    drafts = ltx2("batch", "s.txt", *SMALL, "--seeds", "1-2", "--draft", "--grid")
    assert drafts.exit_code == 0, drafts.stderr
    assert len(drafts.stdout.splitlines()) == 4
    assert f"wrote {Path.cwd() / 's-draft/grid.png'}\nwrote {Path.cwd() / 's-draft/grid.mp4'}" in drafts.stderr
    assert probe(Path("s-draft/grid.mp4")).video is not None
    assert {Path(line).parent.name for line in drafts.stdout.splitlines()} == {"s-draft"}
    before = sorted(path.name for path in Path("s-draft").iterdir())
    Path("picks.txt").write_text("# ltx2 picks of s-draft\n# the best ones\n0001-a-lamp-2.mp4\n0002-is-a-sign-1.mp4")
    planned = ltx2("batch", "picks.txt", "--plan")
    assert "seed 2: a lamp\n" in planned.stdout
    assert "seed 1: @ is a sign\n" in planned.stdout
    assert not Path("picks").exists()
    picked = rendered("batch", "picks.txt", "--shard", "0/2")
    assert picked.relative_to(Path.cwd()) == Path("picks/0001-a-lamp-2.mp4")
    full = rendered("t2v", "a lamp", *SMALL, "--seed", 2, "-o", "full.mp4")
    assert picked.read_bytes() == full.read_bytes()
    assert sorted(path.name for path in Path("s-draft").iterdir()) == before
    again = ltx2("batch", "s.txt", *SMALL, "--seeds", "1-2", "--plan")
    assert again.stdout.splitlines()[0] == "s/"  # the full renders are in a separate folder


def kept_drafts() -> None:
    """A folder `s-draft` like that of a batch of two drafts, without the clips."""
    Path("s.txt").write_text("a lamp\n")
    words = ("--preset", "smoke", "--steps", 3, "--seeds", "1-2", "--draft", "--max-time", "0.001s")
    assert ltx2("batch", "s.txt", *words).exit_code == 9


def picks(*lines: str, name: str = "picks.txt", batch: str = "s-draft") -> Path:
    path = Path(name)
    path.write_text("\n".join([f"# ltx2 picks of {batch}", *lines]))
    return path


def test_picks_are_found_from_their_own_folder_and_from_that_of_the_batch():
    kept_drafts()
    for path in (picks("0001-a-lamp-1.mp4"), picks("s-draft/0001-a-lamp-1.mp4")):
        assert "0001-a-lamp-1.mp4" in ltx2("batch", path, "--plan").stdout
    inside = picks("./0001-a-lamp-2.mp4", name="s-draft/best.txt")
    planned = ltx2("batch", inside, "--plan", "--steps", 4)  # the command line overrides the settings of the draft
    assert planned.stdout.splitlines()[0] == "best/"
    (job,) = json.loads(ltx2("batch", inside, "--plan", "--steps", 4, "--json").stdout.splitlines()[0])["jobs"]
    assert (job["seed"], job["steps"], job["draft"], job["prompt"]) == (2, "4", False, "a lamp")
    assert ltx2("batch", inside, "--plan", "--shard", "0/2").exit_code == 0  # every pick contains its seed


def test_picks_read_the_files_of_their_drafts_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (64, 64)).save("a.png")
    job = {
        "mode": "i2v",
        "input": "a.png",
        "image": ["./a.png@last:0.5"],
        "prompt": "a lamp",
        "name": "lamp",
        "seed": 1,
    }
    Path("s.jsonl").write_text(json.dumps(job))
    flags = {"preset": "smoke", "steps": "3", "draft": True}
    drafts = core.read_batch(core.AskedBatch(path=Path("s.jsonl"), flags=flags, takes=TAKES))
    begin(drafts, drafts.jobs, overwrites=False)
    (line,) = map(json.loads, (Path("s-draft") / DRAFTS).read_text().splitlines())
    assert (line["input"], line["folder"]) == ("a.png", str(tmp_path))
    picks("lamp.mp4")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, given in ((tmp_path, Path()), (elsewhere, tmp_path)):
        monkeypatch.chdir(folder)
        planned = ltx2("batch", tmp_path / "picks.txt", "--plan", "--json")
        assert planned.exit_code == 0, planned.stderr
        (job,) = json.loads(planned.stdout.splitlines()[0])["jobs"]
        assert job["input"] == str(given / "a.png")
        assert job["image"] == [str(given / "a.png@last:0.5") if given == tmp_path else "./a.png@last:0.5"]


def test_what_is_wrong_with_picks_is_one_list():
    kept_drafts()
    result = ltx2("batch", picks("0001-a-lamp-3.mp4", "0001-a-lamp-1.mp4", "../x.mp4", "0001-a-lamp-1.mp4"))
    assert result.exit_code == 2
    assert "3 jobs cannot be rendered" in result.stderr
    assert "line 2: 0001-a-lamp-3.mp4 is not a result of s-draft" in result.stderr
    assert "did you mean 0001-a-lamp-" in result.stderr
    assert "line 5: two jobs would write 0001-a-lamp-1.mp4" in result.stderr
    lost = ltx2("batch", picks("0001-a-lamp-1.mp4", "0001-a-lamp-2.mp4", batch="other"))
    assert lost.exit_code == 2
    assert "line 2; picks.txt, line 3: the batch other cannot be found" in lost.stderr
    assert not Path("picks").exists()
    (Path("s-draft") / DRAFTS).unlink()
    assert "0001-a-lamp-1.mp4 is not a draft" in ltx2("batch", picks("0001-a-lamp-1.mp4")).stderr
    (Path("s-draft") / DRAFTS).write_text("[]\n")
    assert "drafts.jsonl cannot be read" in ltx2("batch", picks("0001-a-lamp-1.mp4")).stderr


def test_picks_are_no_drafts():
    kept_drafts()
    result = ltx2("batch", picks("0001-a-lamp-1.mp4"), "--draft")
    assert (result.exit_code, "--draft cannot be used here" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("# ltx2 picks of a\nb.mp4", "a"),
        ("\ufeff#ltx2 picks of my clips \r\nb.mp4", "my clips"),
        ("# a comment\n# ltx2 picks of a", None),
        ("ltx2 picks of a", None),
        ("", None),
    ],
)
def test_the_first_line_says_that_a_file_holds_picks(text: str, name: str | None):
    Path("p.txt").write_text(text)
    assert picked_batch(Path("p.txt")) == name
    Path("p.csv").write_text(text)
    assert picked_batch(Path("p.csv")) is None


def test_drafts_are_kept_beside_those_of_another_file():
    kept_drafts()
    Path("t.txt").write_text("a door\n")
    ltx2("batch", "t.txt", *SMALL, "--seeds", 1, "--draft", "-o", "s-draft/", "--max-time", "0.001s")
    names = [json.loads(line)["name"] for line in (Path("s-draft") / DRAFTS).read_text().splitlines()]
    assert names == ["0001-a-door-1", "0001-a-lamp-1", "0001-a-lamp-2"]
    record = read_record(Path("s-draft"))
    assert record is not None
    assert len(record.jobs) == 3
