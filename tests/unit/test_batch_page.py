"""The documentation page about batches contains files that are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.pipeline.batch.expand import job_seed

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
BLOCKS = {
    kind: re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
    for kind in ("text", "yaml", "json", "csv")
}
SUFFIXES = {"text": ".txt", "yaml": ".yaml", "json": ".jsonl", "csv": ".csv"}


def settled(kind: str) -> core.Batch:
    path = Path("scenes").with_suffix(SUFFIXES[kind])
    path.write_text(BLOCKS[kind])
    return core.read_batch(core.AskedBatch(path=path, flags={"model": "toy", "seed": "1"}, takes=TAKES))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (256, 160), "red").save("lamp.png")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "text",
            [
                f"0001-a-lamp-blinks-on-the-left-a-low-hum-{job_seed(1, 1)}",
                f"0002-a-red-ball-rolls-over-wooden-boards-{job_seed(1, 2)}",
                f"0003-a-kettle-starts-to-whistle-{job_seed(1, 3)}",
            ],
        ),
        ("yaml", ["opening", "rolling", "with-image"]),
        ("json", ["0001-a-lamp-blinks-on-the-left-7", f"0002-the-lamp-goes-out-{job_seed(1, 2)}"]),
        ("csv", ["opening", "rolling"]),
    ],
)
def test_the_files_on_the_page_hold_the_jobs_that_it_says(kind: str, names: list[str]):
    found = settled(kind)
    assert [job.name for job in found.jobs] == names
    assert found.folder == Path("scenes")


def test_the_yaml_on_the_page_sets_what_it_says():
    opening, rolling, image = (job.resolved.request for job in settled("yaml").jobs)
    assert {request.frames for request in (opening, rolling, image)} == {25}
    assert (rolling.seed, rolling.steps, image.mode) == (7, 6, "i2v")
