"""Reports: measurements of a file, the layout of results, and that a page is complete, small and harmless."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from ltx2_core.errors import MediaError, TargetTakenError
from ltx2_core.media.clip import Output
from ltx2_core.media.overview import OF_MANY, OF_ONE, Overview, look_at
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_audio
from ltx2_core.pipeline.report.cells import (
    Recipes,
    Result,
    address,
    badges,
    picked_line,
    recipe_values,
    rerun_command,
    result_of,
    unreadable,
)
from ltx2_core.pipeline.report.page import batch_page, clip_page, grouped
from ltx2_core.pipeline.report.write import write_report
from tests.claps import write_claps
from tests.report_files import RATE_HZ, clip, frames, looked_at, noise, recipe, result
from tests.synthetic_media import write_video

MARKUP = """<script>alert(1)</script> "'><img src=x onerror=alert(1)> {{ 7 * 7 }} </title></style> &amp; \u2028"""
MOST_BYTES = 250_000  # limit for a page of a hundred clips, without their posters


@pytest.fixture(scope="module")
def overview(tmp_path_factory: pytest.TempPathFactory) -> Overview:
    return looked_at(tmp_path_factory.mktemp("clip"))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text in each kind of element."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while tag in self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside[-1]][-1] += data

    def tags(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def told(page: bytes) -> dict[str, object]:
    """The data that a page contains for its script."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.DOTALL)
    return json.loads(data)


# Measurements


def test_what_the_check_finds_is_found_in_the_file(tmp_path: Path) -> None:
    dark = clip(tmp_path / "dark.mp4", None, noise(1e-4), frames() * 0.02)
    assert {*look_at(dark).problems} >= {"dark", "quiet"}
    still = clip(
        tmp_path / "still.mp4",
        None,
        Waveform(noise(5.0).samples.clamp(-1, 1), RATE_HZ),
        frames()[:1].repeat(9, 1, 1, 1),
    )
    assert {*look_at(still).problems} == {"static", "clipped"}
    silent = write_video(tmp_path / "silent.mp4", sound="aac", is_silent=True)
    assert "silent" in look_at(silent).problems


def test_a_file_without_audio_or_without_video_has_what_it_has(tmp_path: Path) -> None:
    mute = look_at(clip(tmp_path / "mute.mp4", None, None))
    assert (mute.spectrogram, mute.waves, mute.level, mute.sync) == (None, (), None, None)
    assert mute.poster is not None
    write_audio(Output(path=tmp_path / "a.wav"), noise())
    heard = look_at(tmp_path / "a.wav")
    assert (heard.poster, heard.size, heard.sync) == (None, None, None)
    assert heard.spectrogram is not None
    assert heard.duration_s == pytest.approx(25 / 24)


def test_a_waveform_has_a_text_for_each_of_two_channels(tmp_path: Path) -> None:
    left = noise()
    samples = left.samples * torch.tensor([[1.0], [0.0]])
    loud, silent = look_at(clip(tmp_path / "a.mp4", None, replace(left, samples=samples))).waves
    assert len(loud) == len(silent) == OF_MANY.columns
    assert {*silent[:-4]} == {"0"}
    assert min(loud[4:-4]) > "T"


def test_the_poster_is_the_frame_with_the_most_contrast(tmp_path: Path) -> None:
    images = torch.full((17, 3, 64, 96), 0.4) + frames()[:17] * 0.02
    images[16] = frames()[0]
    poster = look_at(clip(tmp_path / "a.mp4", None, None, images)).poster
    assert poster is not None
    with Image.open(BytesIO(poster.content)) as image:
        assert (image.format, image.size) == ("WEBP", (96, 64))
        bright = image.convert("L").getextrema()
    assert bright[1] > 230  # type: ignore[operator]


def test_frames_of_odd_sizes_are_looked_at(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mp4", size=(47, 33), pixels="yuv444p")
    found = look_at(path)
    assert found.size == (47, 33)
    assert found.problems == {}


def test_badges_tell_loudness_and_a_lag_beyond_a_frame(tmp_path: Path) -> None:
    late = [*badges(look_at(write_claps(tmp_path / "late.mp4", late_s=0.16)))]
    (sync,) = [badge for badge in late if badge.word.startswith("sync")]
    assert sync.word in ("sync +155 ms", "sync +160 ms", "sync +165 ms")
    assert sync.is_warning
    (loudness,) = [badge for badge in late if badge.word.endswith("LUFS")]
    assert re.fullmatch(r"−\d+\.\d LUFS", loudness.word)
    unclear = [*badges(look_at(write_claps(tmp_path / "static.mp4", is_static=True)))]
    assert "the video is static" in next(badge.meaning for badge in unclear if badge.word == "sync unclear")


# Layout of results


def test_results_stand_by_prompt_and_seed_with_gaps(overview: Overview) -> None:
    given = [("ball", 1), ("ball", 2), ("ball", 3), ("lamp", 1), ("lamp", 3)]
    groups, columns = grouped([result(overview, f"{p}-{s}.mp4", prompt=p, seed=s) for p, s in given])
    assert columns == 3
    assert [group.heading for group in groups] == ["ball", "lamp"]
    seeds = [[cell and cell.result.seed for cell in group.cells] for group in groups]
    assert seeds == [[1, 2, 3], [1, None, 3]]
    assert [cell.number for group in groups for cell in group.cells if cell] == [0, 1, 2, 3, 4]


def test_prompts_with_one_result_each_share_a_group(overview: Overview) -> None:
    (group,), columns = grouped([result(overview, f"{n}.mp4", prompt=f"scene {n}", seed=n) for n in range(20)])
    assert (len(group.cells), columns) == (20, 8)
    assert group.cells[3] is not None
    assert group.cells[3].labels == ("scene 3",)


def test_what_a_sweep_sets_tells_cells_apart(overview: Overview) -> None:
    (group,), _ = grouped([result(overview, f"{steps}.mp4", steps=steps) for steps in (4, 8, 20)])
    assert [cell and cell.labels for cell in group.cells] == [("steps 4",), ("steps 8",), ("steps 20",)]


def test_recipes_are_a_table_in_which_equal_values_stand_once(overview: Overview) -> None:
    seeds = [result(overview, f"{seed}.mp4", seed=seed) for seed in (7, 8, 7)]
    columns = {name: (values, places) for name, values, places in Recipes.of(seeds).columns}
    assert columns["seed"] == (("7", "8"), (0, 1, 0))
    assert columns["prompt"] == (("a lamp",), None)
    assert columns["file transformer"] == (("a.safetensors (ffffffffffff)",), None)
    unknown = Recipes.of([seeds[0], Result(file="b.mp4", overview=overview)])
    assert ("seed", ("7",), (0, -1)) in unknown.columns


def test_a_recipe_says_what_a_person_set_first_and_nothing_that_is_not_set() -> None:
    values = dict(recipe_values(recipe()))
    assert [*values][:3] == ["mode", "prompt", "seed"]
    assert values["machine device"] == "cpu"
    assert values["guidance video st"]
    assert "given prompt" not in values


# The page


def test_markup_in_a_text_is_shown_as_text(overview: Overview) -> None:
    file = "a&b\"<i>'.mp4"
    for page in (
        clip_page(result(overview, file, prompt=MARKUP)),
        batch_page("<b>", [result(overview, file, prompt=MARKUP)]),
    ):
        elements = Elements(page)
        assert len(elements.tags("script")) == 2
        assert elements.tags("i") == elements.tags("b") == []
        assert all(not name.startswith("on") for _, attributes in elements.found for name in attributes)
        assert MARKUP in [*elements.texts["h2"], *elements.texts["p"]]
        columns = told(page)["recipes"]
        assert isinstance(columns, list)
        assert next(column["values"] for column in columns if column["name"] == "prompt") == [MARKUP]
        (cell,) = elements.tags("article")
        assert cell["data-file"] == file


def test_a_page_loads_nothing_but_the_files_beside_it(overview: Overview) -> None:
    page = batch_page("scenes", [result(overview, "a b#1?.mp4"), result(overview, "x:y.mp4", seed=2)])
    elements = Elements(page)
    addresses = [
        attributes.get(name) for _, attributes in elements.found for name in ("src", "href") if name in attributes
    ]
    assert [one for one in addresses if not one.startswith("data:")] == ["./a%20b%231%3F.mp4", "./x%3Ay.mp4"]  # type: ignore[union-attr]
    text = page.decode()
    assert re.findall(r"https?://[^\"']*", text) == [
        "http://www.w3.org/2000/svg"
    ]  # the namespace of SVG, which is not loaded
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", text)
    (policy,) = [tag["content"] for tag in elements.tags("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; media-src 'self' file:; ")


def test_the_policy_allows_the_one_script_of_the_page(overview: Overview) -> None:
    page = clip_page(result(overview)).decode()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page


def test_a_page_of_a_hundred_clips_is_small(tmp_path: Path) -> None:
    views = [look_at(clip(tmp_path / f"{seed}.mp4", None, noise(0.2, seed), frames(seed))) for seed in range(4)]
    prompts = [f"{'a long sentence about a scene with many words, ' * 6}number {number}" for number in range(25)]
    hundred = [
        result(
            views[number % 4],
            f"{number:04d}-a-long-sentence-about-a-scene-{number}.mp4",
            prompt=prompts[number // 4],
            seed=number % 4,
        )
        for number in range(100)
    ]
    page = batch_page("scenes", hundred).decode()
    without = re.sub(r'(<a class="play"[^>]*><img src=")data:[^"]*', r"\1", page)
    assert len(page) - len(without) > 100 * 500
    assert len(without.encode()) < MOST_BYTES


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", recipe(), noise())
    first, second = (batch_page("scenes", [result_of("a.mp4", look_at(path))]) for _ in range(2))
    assert first == second
    assert clip_page(result_of("a.mp4", look_at(path, OF_ONE))) == clip_page(result_of("a.mp4", look_at(path, OF_ONE)))


def test_what_is_not_there_is_said_without_its_place(overview: Overview) -> None:
    damaged = unreadable("c.mp4", 3, MediaError("/home/somebody/c.mp4 cannot be read", "it is empty"))
    waiting = [Result(file=f"{state}.mp4", state=state, seed=1) for state in ("waiting", "failed")]
    page = batch_page("scenes", [result(overview), *waiting, damaged])
    for words in (
        "4 jobs, 1 prompt, 2 seeds, 1 waiting, 1 failed, 1 unreadable",
        ">not rendered</h2>",
        "failed.mp4",
        "it is empty",
    ):
        assert words in page.decode()
    assert "/home" not in page.decode()
    assert len(Elements(page).tags("article")) == 4


@pytest.mark.parametrize(
    ("file", "folder", "command"),
    [
        ("a.mp4", "", "ltx2 rerun a.mp4"),
        ("-o.mp4", "", "ltx2 rerun ./-o.mp4"),
        ("a b'.mp4", "my scenes", "ltx2 rerun 'my scenes/a b'\"'\"'.mp4'"),
    ],
)
def test_the_command_can_be_pasted(file: str, folder: str, command: str) -> None:
    assert rerun_command(file, folder) == command


def test_a_picked_file_is_no_comment_and_an_address_is_no_scheme() -> None:
    assert [picked_line(file) for file in ("a.mp4", "#1.mp4", " a.mp4")] == ["a.mp4", "./#1.mp4", "./ a.mp4"]
    assert address("javascript:alert(1).mp4") == "./javascript%3Aalert%281%29.mp4"


def test_a_name_or_a_prompt_that_is_no_text_makes_a_page_all_the_same(overview: Overview) -> None:
    page = batch_page("scenes", [result(overview, "\udcff\n.mp4", prompt="a lamp", seed=seed) for seed in (1, 2)])
    elements = Elements(page)
    assert [one["href"] for one in elements.tags("a")] == ["./%FF%0A.mp4"] * 2
    assert elements.tags("article")[0]["data-file"] == "?\n.mp4"


def test_what_has_no_prompt_says_why(overview: Overview) -> None:
    (wordless,), _ = grouped([result(overview, f"{seed}.mp4", prompt="", seed=seed) for seed in (1, 2)])
    assert wordless.heading == "no prompt"
    bare = Result(file="a.mp4", overview=overview)
    assert (bare.heading, Result(file="a.mp4", state="waiting").heading) == ("no recipe", "not rendered")


def test_a_file_without_a_recipe_has_a_page_all_the_same(tmp_path: Path) -> None:
    page = write_report(clip(tmp_path / "a.mp4", None, noise()))
    assert page == tmp_path / "a.html"
    assert "no recipe" in page.read_text()
    assert "data-rerun" not in Elements(page.read_bytes()).tags("article")[0]
    with pytest.raises(TargetTakenError, match="already exists"):
        write_report(tmp_path / "a.mp4")
    assert write_report(tmp_path / "a.mp4", overwrite=True).read_bytes() == page.read_bytes()
