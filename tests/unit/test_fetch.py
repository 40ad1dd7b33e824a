"""Files arrive complete and correct from a Hub with every kind of error, or they do not arrive at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import close_session

from ltx2_core.errors import StorageError
from ltx2_core.hub import connection, failures, part
from ltx2_core.hub.remote import Hub, RemoteFile
from ltx2_core.lock import locked
from tests.fake_hub import PAGE, FakeHub, Fault, use

REPOSITORY, LARGE, SMALL = "somebody/model", "transformer.safetensors", "encoder/config.json"
CONTENT = random.Random(0).randbytes(300_000)
FILES = {LARGE: CONTENT, SMALL: b'{"layers": 1}\n', "README.md": b"", "empty.bin": b""}
BUSY = Fault(status=503)
CUT = Fault(cut_after=100_000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub({REPOSITORY: FILES}) as server:
        use(server, monkeypatch, tmp_path / "home")
        yield server


@pytest.fixture(scope="module", autouse=True)
def _one_client() -> Iterator[None]:
    """All tests share the HTTP client of huggingface_hub, whose creation takes a fifth of a second."""
    yield
    close_session()


@pytest.fixture
def hub(server: FakeHub) -> Hub:
    return Hub()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / LARGE


@pytest.fixture
def file(hub: Hub) -> RemoteFile:
    return hub.look_up(REPOSITORY, LARGE)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def left(target: Path) -> set[str]:
    """The content of the folder of a file."""
    return {path.name for path in target.parent.iterdir()}


def leave_part(file: RemoteFile, target: Path, content: bytes, **other: object) -> None:
    """Write the files that a killed run leaves. other: fields of the note that differ."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(LARGE + ".part").write_bytes(content)
    note = {"checksum": file.checksum, "nbytes": file.nbytes, **other}
    target.with_name(LARGE + ".part.json").write_text(json.dumps(note))


def refused(hub: Hub, file: RemoteFile, target: Path) -> StorageError:
    with pytest.raises(StorageError) as caught:
        hub.fetch(file, target)
    assert not target.exists()
    return caught.value


def test_large_file_is_known_by_its_sha256_and_a_small_one_by_its_git_blob(server: FakeHub, hub: Hub):
    commit = server.commit(REPOSITORY)
    assert hub.look_up(REPOSITORY, LARGE) == RemoteFile(
        repository=REPOSITORY, path=LARGE, commit=commit, nbytes=300_000, checksum=sha256(CONTENT)
    )
    blob = hashlib.sha1(b"blob %d\0" % len(FILES[SMALL]) + FILES[SMALL]).hexdigest()
    assert hub.look_up(REPOSITORY, SMALL).checksum == blob


def test_names_are_those_of_all_files(hub: Hub):
    assert hub.names(REPOSITORY) == list(FILES)


def test_version_of_a_repository_is_settled_by_the_first_question(server: FakeHub, hub: Hub):
    first = hub.look_up(REPOSITORY, LARGE).commit
    hub.look_up(REPOSITORY, SMALL)
    hub.names(REPOSITORY)
    revisions = [one.path.split("/resolve/")[1].split("/")[0] for one in server.asked("hub", "HEAD")]
    assert revisions == ["main", first]
    assert server.asked("hub")[0].path.endswith(f"/revision/{first}")


@pytest.mark.parametrize("path", FILES)
def test_file_arrives_whole_under_its_name_alone(hub: Hub, target: Path, path: str):
    target = target.with_name(Path(path).name)
    counted: list[int] = []
    assert hub.fetch(hub.look_up(REPOSITORY, path), target, counted.append) == sha256(FILES[path])
    assert target.read_bytes() == FILES[path]
    assert sum(counted) == len(FILES[path])
    assert left(target) == {target.name}


def test_later_run_asks_only_for_what_an_earlier_one_has_not_left(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path
):
    leave_part(file, target, CONTENT[:200_000])
    counted: list[int] = []
    assert hub.fetch(file, target, counted.append) == sha256(CONTENT)
    (request,) = server.asked("storage")
    assert (request.begins, request.sent) == (200_000, 100_000)
    assert sum(counted) == 300_000
    assert left(target) == {LARGE}


def test_complete_part_is_verified_without_a_request(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    leave_part(file, target, CONTENT)
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert server.asked("storage") == []


@pytest.mark.parametrize("other", [{"checksum": "0" * 64}, {"nbytes": 1}, {"nbytes": None}])
def test_part_of_another_file_is_not_used(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path, other: dict[str, object]
):
    leave_part(file, target, CONTENT[:1000], **other)
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [0]


def test_part_without_its_note_is_not_used(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    leave_part(file, target, CONTENT[:1000])
    target.with_name(LARGE + ".part.json").write_text("[" * 10_000)
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [0]


def test_part_serves_a_later_version_of_the_repository_with_the_same_file(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path
):
    leave_part(file, target, CONTENT[:1000], commit="0" * 40)
    hub.fetch(file, target)
    assert [one.begins for one in server.asked("storage")] == [1000]


def test_part_with_a_flipped_byte_is_fetched_once_more_from_the_beginning(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path
):
    leave_part(file, target, b"x" + CONTENT[1:200_000])
    counted: list[int] = []
    assert hub.fetch(file, target, counted.append) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [200_000, 0]
    assert sum(counted) == 300_000


def test_file_that_is_there_and_right_is_not_fetched(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    counted: list[int] = []
    assert hub.fetch(file, target, counted.append) == sha256(CONTENT)
    assert sum(counted) == len(CONTENT)
    assert server.asked("storage") == []


def test_file_that_is_there_and_wrong_is_replaced(hub: Hub, file: RemoteFile, target: Path):
    target.parent.mkdir()
    target.write_bytes(b"x" + CONTENT[1:])
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert target.read_bytes() == CONTENT


def test_two_fetches_of_one_file_ask_for_its_bytes_once(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    server.bytes_per_s = 1e6
    found: list[str] = []
    threads = [Thread(target=lambda: found.append(hub.fetch(file, target))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sha256(CONTENT)] * 2
    assert [one.sent for one in server.asked("storage")] == [300_000]


def test_who_waits_for_another_process_can_be_stopped(hub: Hub, file: RemoteFile, target: Path):
    target.parent.mkdir()
    with locked(target), pytest.raises(KeyboardInterrupt):
        hub.fetch(file, target, should_stop=lambda: True)


def test_lost_connections_are_made_up_for_at_a_fresh_address(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    server.at_storage = [CUT, CUT]
    assert hub.fetch(file, target) == sha256(CONTENT)
    requests = server.asked("storage")
    assert [one.begins for one in requests] == [0, 100_000, 200_000]
    assert len({one.path for one in requests}) == 3
    assert requests[1].headers["if-range"].startswith('"storage-')


def test_body_without_a_length_that_ends_early_is_a_lost_connection(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path
):
    server.at_storage = [Fault(cut_after=100_000, has_length=False)]
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [0, 100_000]


@pytest.mark.parametrize("status", [401, 403, 410])
def test_expired_address_is_asked_for_again(server: FakeHub, hub: Hub, file: RemoteFile, target: Path, status: int):
    leave_part(file, target, CONTENT[:1000])
    server.at_storage = [Fault(status=status, body=b"<Error>expired</Error>")]
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [1000, 1000]


def test_server_without_ranges_begins_again(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    server.always_at_storage = Fault(has_range=False)
    leave_part(file, target, CONTENT[:1000])
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.sent for one in server.asked("storage")] == [300_000]


def test_part_is_kept_where_only_the_etag_of_the_storage_host_has_changed(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path
):
    leave_part(file, target, CONTENT[:200_000], etag='"of another host"')
    assert hub.fetch(file, target) == sha256(CONTENT)
    asked = [(one.status, one.begins) for one in server.asked("storage")]
    assert asked == [(200, 200_000), (206, 200_000)]


def test_range_that_does_not_exist_begins_again(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    leave_part(file, target, CONTENT[:1000])
    server.at_storage = [Fault(status=416)]
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [1000, 0]


def test_part_that_begins_elsewhere_is_not_taken(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    leave_part(file, target, CONTENT[:1000])
    server.at_storage = [Fault(range_shift=10)]
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert [one.begins for one in server.asked("storage")] == [1000, 0]


def test_server_that_never_goes_on_in_the_middle_is_given_up(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    server.always_at_storage = Fault(has_range=False, cut_after=1000)
    assert "cannot go on in the middle" in refused(hub, file, target).why


@pytest.mark.parametrize("fault", [BUSY, Fault(status=500), Fault(status=429), Fault(cut_after=0)])
def test_busy_server_is_asked_again_but_not_for_ever(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path, fault: Fault
):
    server.at_storage = [fault] * 5
    assert hub.fetch(file, target) == sha256(CONTENT)
    target.unlink()
    server.always_at_storage = fault
    assert refused(hub, file, target).hint.startswith("run the command again")
    assert len(server.asked("storage")) == 12


def test_tries_are_counted_from_the_last_byte_that_came(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    server.at_storage = [BUSY] * 4 + [CUT] + [BUSY] * 4 + [CUT] + [BUSY] * 4
    assert hub.fetch(file, target) == sha256(CONTENT)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1),
        ({"Retry-After": "20"}, 20),
        ({"Retry-After": "90000"}, failures.LONGEST_WAIT),
        ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, failures.LONGEST_WAIT),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "²"}, 1),
        ({"Retry-After": "9" * 5000}, 1),
        ({"RateLimit": '"resolvers";r=0;t=42'}, 42),
    ],
)
def test_server_says_how_long_to_wait(
    server: FakeHub,
    hub: Hub,
    file: RemoteFile,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    seconds: float,
):
    waited: list[float] = []
    monkeypatch.setattr(failures, "FETCH_WAITS", (1, 3))
    monkeypatch.setattr(failures, "pause", lambda seconds, should_stop: waited.append(seconds))
    server.at_storage = [Fault(status=429, headers=headers)]
    hub.fetch(file, target)
    assert waited == [seconds]


def test_question_is_asked_again(server: FakeHub, hub: Hub):
    server.at_hub = [BUSY, Fault(status=429)]
    assert hub.names(REPOSITORY) == list(FILES)


@pytest.mark.parametrize("place", [0, 150_000, 299_999])
def test_flipped_byte_never_becomes_a_file(server: FakeHub, hub: Hub, file: RemoteFile, target: Path, place: int):
    wrong = bytearray(CONTENT)
    wrong[place] ^= 1
    server.always_at_storage = Fault(content=bytes(wrong))
    error = refused(hub, file, target)
    assert sha256(wrong) in error.why
    assert sha256(CONTENT) in error.why
    assert left(target) == set()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""])
@pytest.mark.parametrize("has_length", [True, False])
def test_wrong_length_never_becomes_a_file(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path, content: bytes, has_length: bool
):
    server.always_at_storage = Fault(content=content, has_length=has_length)
    refused(hub, file, target)
    assert LARGE not in left(target)


def test_longer_file_at_the_storage_host_does_not_cost_what_is_there(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path
):
    leave_part(file, target, CONTENT[:1000])
    server.at_storage = [Fault(content=CONTENT + b"x")]
    assert "300,001" in refused(hub, file, target).why
    assert target.with_name(LARGE + ".part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("has_length", [True, False])
def test_web_page_never_becomes_a_file(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path, kind: str, has_length: bool
):
    server.always_at_storage = Fault(content=PAGE.ljust(300_000), kind=kind, has_length=has_length)
    assert "sent a web page" in refused(hub, file, target).why
    assert left(target) == set()


def test_full_disk_keeps_what_was_fetched(
    server: FakeHub, hub: Hub, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
):
    def write(descriptor: int, data: memoryview) -> int:
        if os.fstat(descriptor).st_size >= 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:50_000])

    real = os.write
    monkeypatch.setattr(part.os, "write", write)
    error = refused(hub, file, target)
    assert error.what.startswith(f"the disk is full, and {LARGE} needs ")
    monkeypatch.undo()
    assert target.with_name(LARGE + ".part").stat().st_size >= 100_000


def test_stop_leaves_what_is_there_for_the_next_run(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    counted: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(file, target, counted.append, should_stop=lambda: sum(counted) > 100_000)
    assert 100_000 < sum(counted) < 300_000
    assert left(target) == {LARGE + ".part", LARGE + ".part.json"}
    assert hub.fetch(file, target) == sha256(CONTENT)
    assert server.asked("storage")[1].begins == sum(counted)


def test_stop_is_noticed_while_nothing_comes(server: FakeHub, hub: Hub, file: RemoteFile, target: Path):
    server.at_storage = [Fault(stall_after=100_000)]
    counted: list[int] = []
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(file, target, counted.append, should_stop=lambda: sum(counted) == 100_000)
    assert time.monotonic() - start < connection.DOWNLOAD_TIMEOUT_S / 2


def test_planted_link_is_not_followed(hub: Hub, file: RemoteFile, target: Path, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    target.parent.mkdir()
    target.with_name(LARGE + ".part").symlink_to(victim)
    assert "cannot be written" in refused(hub, file, target).what
    assert victim.read_text() == "mine"


def test_link_in_the_place_of_the_file_is_replaced_and_not_what_it_names(
    hub: Hub, file: RemoteFile, target: Path, tmp_path: Path
):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    target.parent.mkdir()
    target.symlink_to(victim)
    hub.fetch(file, target)
    assert not target.is_symlink()
    assert victim.read_text() == "mine"


def test_folder_that_is_a_file_is_named(hub: Hub, file: RemoteFile, target: Path):
    target.parent.write_text("not a folder")
    assert str(target.parent) in refused(hub, file, target).what


@pytest.mark.parametrize("kind", ["InvalidURL", "UnsupportedProtocol"])
def test_an_address_that_cannot_be_used_is_no_failure_of_the_network(kind: str) -> None:
    error = type(kind, (Exception,), {"__module__": f"{sorted(failures.PROGRAMS)[0]}._exceptions"})()
    wanted = failures.Wanted(endpoint="https://hub.example", has_token=False, repository="a/b")
    failure = failures.transport_failure(wanted, "hub.example", error)
    assert isinstance(failure, StorageError)
    assert failure.what == "hub.example leads to an address that cannot be used"
