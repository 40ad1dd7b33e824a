"""The catalogue: every file of a named model is described, and models of the user are listed with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ltx2_core.errors import RequestError, StorageError
from ltx2_core.hub.library import Library, models_home
from ltx2_core.hub.registry import Catalogue, Reference, licences, read_catalogue, read_shipped, registered_models
from ltx2_core.pipeline.resolve.loras import NamedLoras
from ltx2_core.pipeline.resolve.peaks import read_peaks
from scripts.model_table import PAGE, written

# The beginnings of hashes of published facts: changing a fact is a decision.
FACTS = {"files": "07c7746f", "licences": "ff9651a4", "cards": "78d1f4f4"}
OWN = """
summary: mine
generation: "2.0"
files:
  checkpoint: me/mine/mine.safetensors
  text_encoder: Lightricks/gemma-3-12b-it-qat-q4_0-unquantized
repositories:
  me/mine:
    files:
      mine.safetensors: {bytes: 12}
"""


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalogue:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return read_catalogue()


def own(text: str, name: str = "mine") -> None:
    models_home().mkdir(parents=True, exist_ok=True)
    (models_home() / f"{name}.yaml").write_text(text)


def put(path: Path, nbytes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(nbytes)
    return path


def test_facts_of_files_licences_and_cards_are_those_that_were_checked(shipped: Catalogue) -> None:
    facts = {
        "files": {name: known.model_dump() for name, known in sorted(shipped.repositories.items())},
        "licences": {name: known.model_dump() for name, known in sorted(licences().items())},
        "cards": [known.model_dump() for known in read_peaks()],
    }
    hashes = {
        kind: hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
        for kind, known in facts.items()
    }
    assert hashes == FACTS


def test_every_file_of_every_model_is_described_with_its_size(shipped: Catalogue) -> None:
    files = [
        file
        for model in shipped.models.values()
        for place in model.files.values()
        if model.folder is None
        for file in shipped.files_of(place)
    ]
    weights = [file for file in files if file.path.endswith(".safetensors")]
    assert len(weights) > 100
    assert [str(file) for file in weights if shipped.published(file).size is None] == []


def test_the_tables_of_the_page_are_those_that_the_catalogue_gives(shipped: Catalogue) -> None:
    assert written(PAGE.read_text(encoding="utf-8"), read_shipped()) == PAGE.read_text(encoding="utf-8")


def test_every_repository_names_a_licence_that_is_there(shipped: Catalogue) -> None:
    assert {known.licence for known in shipped.repositories.values()} == licences().keys()


def test_every_repository_that_a_name_leads_to_is_described(shipped: Catalogue) -> None:
    places = [
        place for entry in (*shipped.models.values(), *shipped.controls.values()) for place in entry.files.values()
    ]
    references = [reference for place in places if (reference := Reference.parse(place))]
    assert {one.repository for one in references} <= shipped.repositories.keys()


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("ltx-2", None),
        ("toy", None),
        ("ltx-2-fp8", None),
        ("ltx-2-nvfp4", None),
        ("ltx-2.5", None),
        ("ltx-2.5-int8", None),
    ],
)
def test_a_model_says_what_this_version_cannot_do_yet(name: str, lacking: str | None) -> None:
    assert registered_models()[name].lacking == lacking


@pytest.mark.parametrize("text", ["../up", "a/../b", "/whole/path", "name.safetensors", "a//b", "./a/b", "~/a", ""])
def test_what_is_no_reference_is_not_read_as_one(text: str) -> None:
    assert Reference.parse(text) is None


def test_a_model_of_ones_own_stands_beside_those_that_come_along(shipped: Catalogue) -> None:
    own(OWN)
    found = read_catalogue()
    assert found.models.keys() - shipped.models.keys() == {"mine"}
    assert found.published(Reference("me/mine", "mine.safetensors")).bytes == 12
    assert len(found.files_of(found.models["mine"].files["text_encoder"])) == 16


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("toy", OWN, "toy is the name of another model"),
        ("a b", OWN, "a model's name holds"),
        ("mine", OWN.replace("me/mine/mine.s", "me/../../etc/mine.s"), "neither OWNER/NAME/PATH"),
        ("mine", OWN.replace("bytes: 12", "bytes: -1"), "bytes"),
        ("mine", OWN.replace("checkpoint:", "weights:"), "files.weights"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_its_file(
    shipped: Catalogue, name: str, text: str, why: str
) -> None:
    own(text, name)
    with pytest.raises(RequestError, match=f"{name}.yaml cannot be used") as caught:
        read_catalogue()
    assert why in str(caught.value)


PLACES = [
    "home/models/me/mine/mine.safetensors",
    "home/models/mine.safetensors",
    "folder/mine.safetensors",
    "comfy/checkpoints/mine.safetensors",
    "comfy/checkpoints/deeper/mine.safetensors",
    "cache/models--me--mine/snapshots/0123/mine.safetensors",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_file_is_found_where_other_programs_keep_it_if_its_size_is_right(
    shipped: Catalogue, tmp_path: Path, place: str
) -> None:
    own(OWN)
    for folder in ("vae", "loras", "checkpoints"):
        (tmp_path / "comfy" / folder).mkdir(parents=True)
    library = Library(read_catalogue(), (tmp_path / "folder", tmp_path / "comfy"))
    reference = Reference("me/mine", "mine.safetensors")
    put(tmp_path / place, 11)
    assert library.find(reference) is None
    put(tmp_path / place, 12)
    assert library.find(reference) == tmp_path / place


def test_a_file_is_found_in_every_snapshot_of_its_repository(shipped: Catalogue, tmp_path: Path) -> None:
    snapshots = tmp_path / "cache" / "models--me--mine" / "snapshots"
    for revision in ("0", "1", "2"):
        put(snapshots / revision / f"{revision}.safetensors", 1)
    places = [Library(shipped).find(Reference("me/mine", f"{revision}.safetensors")) for revision in ("0", "1", "2")]
    assert places == [snapshots / revision / f"{revision}.safetensors" for revision in ("0", "1", "2")]


def test_the_files_of_an_open_copy_are_those_of_the_repository(shipped: Catalogue, tmp_path: Path) -> None:
    gated, name = Reference("google/gemma-3-12b-it-qat-q4_0-unquantized", "config.json"), "config.json"
    there = tmp_path / "cache" / "models--Lightricks--gemma-3-12b-it-qat-q4_0-unquantized" / "snapshots" / "0" / name
    put(there, 5)
    assert Library(shipped).find(gated) == there


def test_a_folder_of_which_a_part_is_missing_is_not_there(shipped: Catalogue, tmp_path: Path) -> None:
    encoder = Reference("Lightricks/gemma-3-12b-it-qat-q4_0-unquantized")
    library = Library(shipped)
    files = shipped.files_of(str(encoder))
    for file in files:
        put(library.home_of(file), shipped.published(file).bytes or 3)
    assert library.find_all(encoder) == library.home_of(encoder)
    library.home_of(next(file for file in files if file.path.startswith("model-00003"))).unlink()
    assert library.find_all(encoder) is None


@pytest.fixture
def named(shipped: Catalogue) -> NamedLoras:
    return NamedLoras(Library(shipped), "2.3")


def chosen(named: NamedLoras, spec: str) -> tuple[Path, float]:
    found = named.choose(spec, "--lora")
    return found.path, found.strength


def test_a_lora_is_named_with_or_without_a_strength(named: NamedLoras) -> None:
    place = "Lightricks/LTX-2.3-22b-LoRA-Cinemagraph/ltx-2.3-22b-lora-cinemagraph-0.9.safetensors"
    path = put(models_home() / place, 201453416)
    assert chosen(named, "Cinemagraph") == (path, 2.0)
    assert chosen(named, "cinemagraph:0.5") == (path, 0.5)


def test_a_published_lora_that_is_given_by_its_path_acts_as_strongly_as_by_its_name(
    named: NamedLoras, tmp_path: Path
) -> None:
    path = put(tmp_path / "ltx-2.3-22b-lora-cinemagraph-0.9.safetensors", 9)
    assert chosen(named, str(path)) == (path, 2.0)
    assert chosen(named, f"{path}:0.5") == (path, 0.5)
    other = put(tmp_path / "of-ones-own.safetensors", 9)
    assert chosen(named, str(other)) == (other, 1.0)


def test_a_lora_whose_file_name_only_the_hub_knows_is_found_by_its_repository(shipped: Catalogue) -> None:
    path = put(models_home() / "Lightricks/LTX-2-19b-LoRA-Camera-Control-Static" / "whatever.safetensors", 9)
    assert chosen(NamedLoras(Library(shipped), "2.0"), "static") == (path, 1.0)


def test_a_name_of_a_lora_goes_before_a_file_of_that_name(
    named: NamedLoras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("union"), 4)
    with pytest.raises(StorageError, match=r"LoRA union is not installed(.|\n)*ltx2 download union --only 2.3"):
        named.choose("union:0.3", "--lora")
    assert named.hides("union:0.3") == "union"
    assert chosen(named, "./union:0.3") == (Path("union"), 0.3)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("dolly-in", RequestError, "published for models of generation 2.0"),
        ("dubitt", RequestError, "did you mean dubit"),
        ("union:99", RequestError, "99 is not a strength"),
        ("./union", StorageError, "there is no such file"),
        ("union.safetensors", StorageError, "there is no such file"),
        ("dubit", RequestError, "it also needs the audio of the clip"),
    ],
)
def test_a_lora_that_cannot_be_meant_is_refused_in_words(
    named: NamedLoras, spec: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        named.choose(spec, "--lora")
    assert words in str(caught.value)


def test_a_lora_that_was_made_for_one_strength_takes_no_other(shipped: Catalogue) -> None:
    place = "Lightricks/LTX-2.5-22b-IC-LoRA-Pixel-Spatial-Upscaler"
    name = "ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0.safetensors"
    named, path = NamedLoras(Library(shipped), "2.5"), put(models_home() / place / name, 327322640)
    assert chosen(named, "pixel-upscaler") == chosen(named, "pixel-upscaler:0.5") == (path, 0.5)
    assert chosen(named, f"{path}:0.8") == (path, 0.8)
    with pytest.raises(RequestError, match=r"works at strength 0\.5 only"):
        named.choose("pixel-upscaler:0.8", "--control")


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("ltx-2.5-22b-ic-lora-new.safetensors", "made for models of generation 2.5, and this one is of 2.3"),
        ("ltx-2-19b-ic-lora-new.safetensors", "made for models of generation 2.0"),
        ("ltx-2.3-22b-ic-lora-new.safetensors", None),
        ("my-ltx-2.5-22b-style.safetensors", None),
    ],
)
def test_an_official_lora_of_another_generation_is_used_with_a_warning(
    name: str, warned: str | None, named: NamedLoras, tmp_path: Path
) -> None:
    warning = named.warning_of(named.choose(str(put(tmp_path / name, 9)), "--lora"))
    assert warning is None if warned is None else warned in str(warning)
