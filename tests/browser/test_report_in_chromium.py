"""Reports in a real browser: they open from disk, play, compare, pick, load nothing, and fit on a phone.

`make report-test` installs Chromium if it can. Without Chromium all tests here are skipped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from ltx2_core.media.overview import look_at
from ltx2_core.pipeline.report.cells import result_of
from ltx2_core.pipeline.report.page import batch_page
from ltx2_core.pipeline.report.write import write_report
from tests.report_files import clip, frames, noise, recipe, result

from .chromium import PROGRAM, Page, chromium

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed: make report-test as root does it")
MARKUP = "<script>window.isHacked = true</script><img src=x onerror='window.isHacked = true'>"
PLAYERS = "[both.players.a, both.players.b]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """A browser that has not requested anything yet. At the end there must be no errors, and no requests except to the
    disk.
    """
    browser.requests.clear()
    browser.trouble.clear()
    browser.show(1280, 900)
    yield browser
    browser.run("0")  # earlier events arrive before the answer to this
    assert browser.trouble == []
    assert {urlsplit(address).scheme for address in browser.requests} <= {"file", "data", "blob"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four clips of two seconds each, from two prompts and two seeds, and their page."""
    folder = tmp_path_factory.mktemp("results") / "scenes"
    folder.mkdir()
    results = []
    for number, (prompt, seed) in enumerate([(MARKUP, 1), (MARKUP, 2), ("a lamp", 1), ("a lamp", 2)]):
        images = torch.cat([frames(number), frames(number).flip(0)])
        path = clip(folder / f"{number} é#.mp4", recipe(prompt, seed), noise(0.1, number, 50 / 24), images)
        results.append(result_of(path.name, look_at(path)))
    (folder / "report.html").write_bytes(batch_page(folder.name, results))
    return folder


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.press(key)


def open_batch(page: Page, folder: Path) -> None:
    page.open(folder / "report.html")
    page.run("localStorage.clear()")
    page.open(folder / "report.html")


def test_a_clip_plays_with_its_sound(page: Page, folder: Path) -> None:
    page.open(write_report(next(folder.glob("0*.mp4")), overwrite=True))
    press(page, " ")
    page.until("document.querySelector('video')?.currentTime > 0.3")
    facts = "(v => [v.videoWidth, v.videoHeight, v.muted, v.error])(document.querySelector('video'))"
    assert page.run(facts) == [96, 64, False, None]
    page.until("document.querySelector('video').webkitAudioDecodedByteCount > 0")
    press(page, " ")
    assert page.run("document.querySelector('video').paused")
    assert page.run("document.querySelectorAll('.recipe tr').length") > 20


def test_only_one_clip_plays_at_a_time(page: Page, folder: Path) -> None:
    open_batch(page, folder)
    press(page, "ArrowRight", " ", "ArrowRight", " ")
    page.until(
        "document.querySelectorAll('video').length == 2 && document.querySelectorAll('video')[1].currentTime > 0"
    )
    assert page.run("[...document.querySelectorAll('video')].map(player => player.paused)") == [True, False]


def test_two_results_are_compared_under_one_clock(page: Page, folder: Path) -> None:
    open_batch(page, folder)
    press(page, "ArrowRight", "a", "ArrowDown", "ArrowRight", "b", "c")
    for _ in range(3):
        page.until(f"{PLAYERS}.every(one => !one.paused && one.currentTime > 0.2 && one.currentTime < 1.8)")
        first, second = page.run(f"{PLAYERS}.map(one => one.currentTime)")
        assert abs(first - second) < 0.1
        time.sleep(0.1)
    assert page.run(f"{PLAYERS}.map(one => one.muted)") == [False, True]
    press(page, "l")
    assert page.run(f"{PLAYERS}.map(one => one.muted)") == [True, False]
    page.run("halt(); setTime(0.5)")
    press(page, "ArrowRight")
    page.until(f"{PLAYERS}.every(one => !one.seeking)")
    first, second = page.run(f"{PLAYERS}.map(one => one.currentTime)")
    assert first == second == pytest.approx(0.5 + 1 / 24, abs=0.001)
    press(page, "]", "]")
    clipped = "getComputedStyle(compare.querySelector('.pane.b')).clipPath"
    assert page.run(clipped) == "inset(0px 0px 0px 60%)"
    assert page.run("byId('wipe').value") == "60"
    rows = page.run("[...compare.querySelectorAll('.difference tbody tr')].map(row => row.innerText)")
    assert rows == [f"prompt\t{MARKUP}\ta lamp", "seed\t1\t2"]
    press(page, "Escape")
    page.until("!compare.open && document.querySelectorAll('video').length == 0")


def test_both_begin_again_together_at_the_end(page: Page, folder: Path) -> None:
    open_batch(page, folder)
    press(page, "ArrowRight", "a", "ArrowRight", "b", "c")
    page.run("setTime(1.9)")
    page.until(f"{PLAYERS}.every(one => !one.paused && one.currentTime > 0.1 && one.currentTime < 1)")
    first, second = page.run(f"{PLAYERS}.map(one => one.currentTime)")
    assert abs(first - second) < 0.15
    press(page, "Escape")


def test_picks_are_saved_as_a_file(page: Page, folder: Path, tmp_path: Path) -> None:
    open_batch(page, folder)
    press(page, "ArrowRight", "ArrowDown", "p", "ArrowUp", "ArrowRight", "p", "ArrowLeft", "p", "p")
    assert page.run("byId('pick-count').textContent") == "2 picks"
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    press(page, "s")
    saved = tmp_path / "picks.txt"
    end = time.monotonic() + 10
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert saved.read_text() == "# ltx2 picks of scenes\n1 é#.mp4\n2 é#.mp4\n"
    page.run("byId('only-picks').click()")
    assert page.run("cells.filter(cell => cell.offsetParent).length") == 2
    page.open(folder / "report.html")
    assert page.run("byId('pick-count').textContent") == "2 picks"  # the browser has stored them
    page.run("localStorage.clear()")


def test_markup_in_a_prompt_stays_text(page: Page, folder: Path) -> None:
    open_batch(page, folder)
    press(page, "ArrowRight", "Enter")
    assert page.run("document.querySelector('h2').textContent") == MARKUP
    assert MARKUP in page.run("[...document.querySelectorAll('.recipe td')].map(cell => cell.textContent)")
    assert page.run("window.isHacked === undefined")


@pytest.mark.parametrize("width", [320, 390, 1280, 1920])
def test_nothing_is_wider_than_the_window(page: Page, folder: Path, width: int) -> None:
    page.show(width, 800)
    open_batch(page, folder)
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.run(wide)
    press(page, "ArrowRight", "Enter", "a", "p", "ArrowRight", "b")
    assert not page.run(wide)
    press(page, "c")
    assert not page.run("compare.scrollWidth > compare.clientWidth")
    press(page, "Escape", "?")
    assert not page.run("byId('help').scrollWidth > byId('help').clientWidth")


def test_every_control_has_a_name(page: Page, folder: Path) -> None:
    open_batch(page, folder)
    press(page, "ArrowRight", "Enter", "a", "ArrowRight", "b", "c")
    nameless = (
        "[...document.querySelectorAll('button, input, a, svg, img.spectrum')].filter(one => !(one.ariaLabel "
        "|| one.getAttribute('aria-label') || one.alt || one.textContent.trim() || one.closest('label')))"
    )
    assert page.run(f"{nameless}.map(one => one.outerHTML)") == []
    assert page.run("byId('data').textContent.length") > 1000


def test_a_hundred_cells_open(page: Page, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = [look_at(path) for path in sorted(folder.glob("*.mp4"))]
    hundred = [result(views[n % 4], f"{n}.mp4", prompt=f"scene {n // 4}", seed=n % 4) for n in range(100)]
    (tmp_path / "report.html").write_bytes(batch_page("scenes", hundred))
    seconds = page.open(tmp_path / "report.html")
    assert page.run("cells.length") == 100
    assert page.run("document.querySelectorAll('.strip path').length") == 100
    posters = (
        "Promise.all([...document.querySelectorAll('.play img')].map(one => one.decode())).then(all => all.length)"
    )
    assert page.run(posters) == 100
    assert page.run("document.querySelectorAll('video').length") == 0
    with capsys.disabled():
        print(f"\na page of 100 cells was open after {seconds:.2f} s")  # noqa: T201
