"""From a name to files on disk: what is planned, verified, downloaded, linked and removed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ltx2_core.errors import AccessError, RequestError, StorageError, TargetTakenError
from ltx2_core.hub import download, ledger
from ltx2_core.hub.download import Listener, fetch_files, link_files, look_up, needs_hub, verify_again, verify_found
from ltx2_core.hub.installed import installed_models, leftovers, plan_removal, remove_files
from ltx2_core.hub.library import Library, models_home
from ltx2_core.hub.registry import Reference, read_catalogue
from ltx2_core.hub.remote import RemoteFile
from ltx2_core.hub.wanted import DownloadPlan, plan_download
from ltx2_core.lock import locked
from tests.published import ENTRY, FILES, OTHER, SECOND, SHA256, WEIGHTS, Published


@pytest.fixture
def hub() -> Any:
    return Published(FILES)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Library:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    models_home().mkdir(parents=True)
    (models_home() / "mine.yaml").write_text(ENTRY)
    (models_home() / "second.yaml").write_text(SECOND)
    return Library(read_catalogue(), (tmp_path / "folder",))


def put(path: Path, content: bytes = WEIGHTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def obtained(name: str, library: Library, hub: Any, to: Path | None = None) -> list[Path]:
    """Run all steps of the command from a name to its files."""
    plan = look_up(verify_found(plan_download(name, library, (), to), Listener()), library, hub, Listener())
    fetch_files(plan, hub, Listener())
    return link_files(plan, library, Listener())


def states(plan: DownloadPlan) -> dict[str, Path | None]:
    return {str(file.reference): file.found for file in plan.files}


def test_a_plan_says_what_is_there_and_what_was_begun(library: Library, tmp_path: Path) -> None:
    found = put(tmp_path / "folder" / "mine.safetensors")
    put(models_home() / "me/mine/up/upsampler.safetensors.part", b"12345")
    plan = plan_download("Mine", library)
    assert states(plan) == {
        "me/mine/mine.safetensors": found,
        "me/encoder": None,
        "me/mine/up/upsampler.safetensors": None,
    }
    assert (plan.to_fetch, plan.is_complete, plan.is_exact) == (15, False, False)
    assert plan.to_accept == ("gemma",)
    ledger.remember_accepted("gemma")
    assert plan.to_accept == ()


def test_a_part_of_a_model_can_be_chosen(library: Library) -> None:
    assert [file.role for file in plan_download("mine", library, ["text-encoder"]).files] == ["text_encoder"]
    with pytest.raises(RequestError, match=r"--only vae(.|\n)*consists of checkpoint, text_encoder, upsampler"):
        plan_download("mine", library, ["vae"])


@pytest.mark.parametrize(
    ("name", "words"), [("mien", "did you mean mine"), ("toy", "it comes with this program"), ("?", "ltx2 models")]
)
def test_what_cannot_be_downloaded_is_refused(library: Library, name: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan_download(name, library)
    assert words in str(caught.value)


def test_a_lora_is_for_the_models_that_are_installed(library: Library) -> None:
    assert [file.role for file in plan_download("union", library).files] == ["2.0", "2.3"]
    put(models_home() / "me/mine/mine.safetensors")
    assert [file.role for file in plan_download("union", library).files] == ["2.0"]
    assert [file.role for file in plan_download("union", library, ["2.3"]).files] == ["2.3"]


def test_a_model_is_fetched_once_and_remembered_as_verified(library: Library, hub: Published) -> None:
    paths = obtained("mine", library, hub)
    home = models_home() / "me"
    assert paths == [home / "mine/mine.safetensors", home / "encoder", home / "mine/up/upsampler.safetensors"]
    assert sorted(path.name for path in (home / "encoder").iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(hub.fetched) == sorted(
        ["mine.safetensors", "config.json", "model.safetensors", "up/upsampler.safetensors"]
    )
    plan = plan_download("mine", library)
    assert all(file.is_verified for file in plan.files if file.reference.path)
    assert not plan.missing
    assert obtained("mine", library, hub) == paths
    assert len(hub.fetched) == 4


def test_what_is_known_of_all_files_needs_no_hub(library: Library, hub: Published) -> None:
    plan = plan_download("second", library)
    assert needs_hub(plan)
    put(models_home() / "me/mine/mine.safetensors")
    assert not needs_hub(verify_found(plan_download("second", library), Listener()))


def test_a_file_that_was_verified_is_not_read_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(models_home() / "mine.safetensors")
    verify_found(plan_download("second", library), Listener())
    monkeypatch.setattr(download, "read_digest", lambda *given: pytest.fail("it was read"))
    os.utime(path, (1, 1))
    assert verify_found(plan_download("second", library), Listener()).files[0].found == path


def test_a_file_of_the_right_size_with_other_bytes_counts_as_missing(library: Library, hub: Published) -> None:
    path = put(models_home() / "me/mine/mine.safetensors", WEIGHTS[:-1] + b"!")
    warnings: list[str] = []
    plan = verify_found(plan_download("second", library), Listener(on_warning=warnings.append))
    assert plan.files[0].found is None
    assert f"{path} is not the published file" in warnings[0]
    obtained("second", library, hub)
    assert path.read_bytes() == WEIGHTS


def test_the_hub_is_right_where_the_catalogue_says_otherwise(library: Library, hub: Any) -> None:
    hub.files = {"me/mine": {"mine.safetensors": OTHER}}
    warnings: list[str] = []
    plan = look_up(plan_download("second", library), library, hub, Listener(on_warning=warnings.append))
    assert plan.files[0].known.bytes == len(OTHER)
    assert f"bytes {len(OTHER)}, not {len(WEIGHTS)}" in warnings[0]
    assert SHA256 in warnings[0]


def test_files_in_a_folder_of_ones_own_are_linked_and_not_copied(
    library: Library, hub: Published, tmp_path: Path
) -> None:
    found = put(tmp_path / "folder" / "mine.safetensors")
    (path,) = obtained("second", library, hub)
    assert path == models_home() / "me/mine/mine.safetensors"
    assert path.is_symlink()
    assert path.samefile(found)
    assert hub.fetched == []
    assert Library(library.catalogue).find(Reference("me/mine", "mine.safetensors")) == path


def test_files_can_be_put_elsewhere_and_are_found_by_name_all_the_same(
    library: Library, hub: Published, tmp_path: Path
) -> None:
    paths = obtained("mine", library, hub, tmp_path / "big")
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "big").rglob("*.safetensors")) == [
        "big/encoder/model.safetensors",
        "big/mine.safetensors",
        "big/up/upsampler.safetensors",
    ]
    assert all(path.is_relative_to(models_home()) for path in paths)
    assert not plan_download("mine", library).missing


def test_a_link_to_a_file_that_is_gone_gives_way_to_a_download(
    library: Library, hub: Published, tmp_path: Path
) -> None:
    home = models_home() / "me/mine/mine.safetensors"
    home.parent.mkdir(parents=True)
    home.symlink_to(tmp_path / "gone")
    obtained("second", library, hub)
    assert home.read_bytes() == WEIGHTS
    assert not home.is_symlink()


def test_a_repository_with_several_files_of_weights_wants_a_choice(library: Library, hub: Any) -> None:
    hub.files = {"Lightricks/LTX-2-19b-LoRA-Camera-Control-Static": {"a.safetensors": b"1", "b.safetensors": b"2"}}
    with pytest.raises(StorageError, match=r"no single file of weights\na.safetensors, b.safetensors"):
        look_up(plan_download("static", library), library, hub, Listener())


def test_what_has_no_room_is_refused_before_the_first_byte(library: Library, hub: Any) -> None:
    plan = replace(look_up(plan_download("mine", library), library, hub, Listener()), free=10)
    with pytest.raises(StorageError, match=r"does not fit on the disk(.|\n)*--to FOLDER"):
        fetch_files(plan, hub, Listener())
    assert hub.fetched == []


def test_a_gated_repository_is_refused_with_the_copy_that_is_not(library: Library, hub: Any) -> None:
    entry = 'summary: g\ngeneration: "2.0"\nfiles:\n  text_encoder: google/gemma-3-12b-it-qat-q4_0-unquantized\n'
    (models_home() / "gated.yaml").write_text(entry)
    library = Library(read_catalogue())

    def refuse(repository: str, path: str) -> RemoteFile:
        raise AccessError(f"{repository} is gated", "", "log in")

    hub.look_up = refuse
    with pytest.raises(AccessError, match="log in; Lightricks/gemma-3-12b-it-qat-q4_0-unquantized has the same files"):
        look_up(plan_download("gated", library), library, hub, Listener())


def test_a_file_that_fails_ends_the_download_and_keeps_the_others(library: Library, hub: Any) -> None:
    plan = look_up(plan_download("mine", library), library, hub, Listener())
    right = hub.fetch

    def fetch(file: RemoteFile, target: Path, *rest: Any) -> str:
        if target.name == "config.json":
            raise StorageError("the disk is full")
        return right(file, target, *rest)

    hub.fetch = fetch
    with pytest.raises(StorageError, match="the disk is full"):
        fetch_files(plan, hub, Listener())
    assert (models_home() / "me/mine/mine.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_fails_stops_those_that_are_being_fetched(library: Library, hub: Any) -> None:
    plan = look_up(plan_download("mine", library), library, hub, Listener())
    has_begun, was_told = Event(), []

    def fetch(file: RemoteFile, target: Path, count: object, should_stop: Callable[[], bool]) -> str:
        if target.name == "config.json":
            has_begun.wait(10)
            raise StorageError("the disk is full")
        has_begun.set()
        deadline = time.monotonic() + 10
        while not should_stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        was_told.append(should_stop())
        return "0" * 64

    hub.fetch = fetch
    with pytest.raises(StorageError, match="the disk is full"):
        fetch_files(plan, hub, Listener())
    assert was_told
    assert all(was_told)


def test_a_download_that_is_stopped_does_not_count_as_done(library: Library, hub: Published) -> None:
    plan = look_up(plan_download("second", library), library, hub, Listener())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        fetch_files(plan, hub, Listener(should_stop=lambda: True))  # type: ignore[arg-type]


def test_what_lacks_a_part_is_not_told_as_complete(library: Library) -> None:
    with pytest.raises(StorageError, match="second is not whole on this machine\nnot here: checkpoint"):
        link_files(plan_download("second", library), library, Listener())


def test_verifying_again_notices_one_flipped_byte(library: Library, hub: Published) -> None:
    (path,) = obtained("second", library, hub)
    plan = plan_download("second", library)
    assert verify_again(plan, Listener()) == {path: True}
    path.write_bytes(WEIGHTS[:-1] + b"!")
    assert verify_again(plan, Listener()) == {path: False}


def test_a_checksum_that_only_the_hub_told_is_kept_for_later(library: Library, hub: Published) -> None:
    obtained("mine", library, hub)
    path = models_home() / "me/mine/up/upsampler.safetensors"
    assert verify_again(plan_download("mine", library), Listener())[path]
    put(path, OTHER[:-1] + b"!")
    assert verify_again(plan_download("mine", library), Listener())[path] is False
    ledger.forget(path)
    assert verify_again(plan_download("mine", library), Listener())[path] is None


def test_removing_a_model_leaves_what_another_needs(library: Library, hub: Published) -> None:
    obtained("mine", library, hub)
    removal = plan_removal("mine", library)
    assert [path.name for path in removal.shared] == ["mine.safetensors"]
    remove_files((*removal.removed, *removal.links))
    assert {one.name for one in installed_models(library) if one.is_installed} == {"second", "toy"}
    assert not (models_home() / "me/encoder").exists()


def test_removing_a_link_leaves_the_file(library: Library, hub: Published, tmp_path: Path) -> None:
    obtained("second", library, hub, tmp_path / "big")
    removal = plan_removal("second", library)
    assert removal.removed == ()
    remove_files(removal.links)
    assert (tmp_path / "big/mine.safetensors").exists()
    assert plan_download("second", Library(library.catalogue)).missing


def test_files_of_other_programs_are_never_removed(library: Library, tmp_path: Path) -> None:
    found = put(tmp_path / "cache/models--me--mine/snapshots/0/mine.safetensors")
    removal = plan_removal("second", library)
    assert (removal.removed, removal.links, removal.elsewhere) == ((), (), (found,))


def test_a_path_that_leads_out_of_the_folder_of_models_is_never_removed(library: Library, tmp_path: Path) -> None:
    there = put(tmp_path / "somebodys.safetensors")
    out = f"{models_home()}/../../{there.name}"
    (models_home() / "odd.yaml").write_text(f'summary: odd\ngeneration: "2.0"\nfiles: {{checkpoint: {out}}}\n')
    removal = plan_removal("odd", Library(read_catalogue()))
    assert (removal.removed, [path.resolve() for path in removal.elsewhere]) == ((), [there])


def test_unfinished_downloads_are_listed(library: Library, tmp_path: Path) -> None:
    own = put(models_home() / "me/mine/mine.safetensors.part")
    old = put(tmp_path / "cache/models--me--mine/blobs/ab.cd.incomplete")
    os.utime(old, (1, 1))
    put(tmp_path / "cache/models--me--mine/blobs/ef.01.incomplete")
    assert leftovers() == [own, old]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": 3}', b'{"unknown": {}}'])
def test_a_record_that_cannot_be_read_counts_as_none(library: Library, content: bytes) -> None:
    put(models_home().parent / ledger.VERIFIED, content)
    path = put(models_home() / "mine.safetensors")
    assert ledger.verified(path) is None
    ledger.remember_verified(path, SHA256)
    assert ledger.verified(path) is not None


def test_a_file_of_that_name_in_a_persons_folder_is_not_replaced(
    library: Library, hub: Published, tmp_path: Path
) -> None:
    theirs = put(tmp_path / "big" / "mine.safetensors", OTHER)
    with pytest.raises(TargetTakenError, match=r"already exists\nit is not the published file"):
        obtained("second", library, hub, tmp_path / "big")
    assert theirs.read_bytes() == OTHER
    assert hub.fetched == []


def test_the_right_file_in_the_folder_that_was_named_is_taken(library: Library, hub: Published, tmp_path: Path) -> None:
    put(tmp_path / "big" / "mine.safetensors")
    (path,) = obtained("second", library, hub, tmp_path / "big")
    assert path.samefile(tmp_path / "big" / "mine.safetensors")
    assert hub.fetched == []


def test_a_link_takes_the_place_of_no_file(library: Library, hub: Published, tmp_path: Path) -> None:
    put(tmp_path / "folder" / "mine.safetensors")
    theirs = put(models_home() / "me/mine/mine.safetensors", OTHER)
    warnings: list[str] = []
    plan = plan_download("second", library)
    link_files(plan, library, Listener(on_warning=warnings.append))
    assert theirs.read_bytes() == OTHER
    assert "is another file than" in warnings[0]


def test_files_of_a_repository_that_only_the_hub_knows_are_verified_again_too(library: Library, hub: Published) -> None:
    obtained("mine", library, hub)
    weights = models_home() / "me/encoder/model.safetensors"
    assert verify_again(plan_download("mine", library), Listener())[weights]
    weights.write_bytes(OTHER[:-1] + b"!")
    assert verify_again(plan_download("mine", library), Listener())[weights] is False


def test_the_part_of_a_download_that_runs_is_no_leftover(library: Library) -> None:
    target = models_home() / "me/mine/mine.safetensors"
    part = put(target.with_name("mine.safetensors.part"))
    with locked(target):
        assert leftovers() == []
    assert leftovers() == [part]
