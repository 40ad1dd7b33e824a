"""Make the pictures of docs/report.md: reports of a batch and of a clip of the toy model, as Chromium shows them.

ltx2 batch scenes.txt --model toy --seeds 1-4 --report    # four prompts, the third of a flight over mountains
ltx2 t2v "a door slams in the middle of the room" --model toy --seed 1 --report -o door.mp4
python -m scripts.report_pictures scenes/report.html door.html
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tests.browser.chromium import Page, chromium

DOCS = Path(__file__).resolve().parent.parent / "docs"
QUALITY = 68
WIDE, HIGH = 1040, 1636  # of the page about a batch, whose picture is smaller


def main(batch: Path, clip: Path) -> None:
    """Open both pages and write the three pictures. batch, clip: the pages."""
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as page:
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.show(WIDE, HIGH)
        _press(page, batch, ["ArrowRight", "p", *["ArrowDown"] * 2, "a", "ArrowRight", "p", "ArrowRight", "b"])
        _write(page, "report-batch.jpg", scale=0.75)
        page.show(1040, 980, is_dark=True)
        page.press("c")
        page.until("[both.players.a, both.players.b].every(one => one.currentTime > 0.2)")
        page.run("halt(); setTime(0.54); document.activeElement.blur()")
        page.until("[both.players.a, both.players.b].every(one => !one.seeking)")
        _write(page, "report-compare.jpg")
        page.show(1040, 1000)
        _press(page, clip, [])
        _write(page, "report-clip.jpg")


def _press(page: Page, path: Path, keys: Sequence[str]) -> None:
    """Open a page and press keys."""
    page.open(path)
    for key in keys:
        page.press(key)
    page.run("Promise.all([...document.images].map(one => one.decode().catch(() => null))).then(() => scrollTo(0, 0))")


def _write(page: Page, name: str, scale: float = 1) -> None:
    """Write what is seen, at this part of its size."""
    page.run("new Promise(done => setTimeout(() => done(true), 500))")
    image = Image.open(io.BytesIO(page.picture())).convert("RGB")
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    image.save(DOCS / name, quality=QUALITY, optimize=True, progressive=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
