"""The folder for the program's own files, on each operating system."""

from __future__ import annotations

from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import platformdirs
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from ltx2_core.errors import RequestError
from ltx2_core.home import ltx2_home

LOCAL = r"C:\Users\ann\AppData\Local"


@pytest.mark.parametrize(
    ("system", "variables", "place"),
    [
        (Unix, {}, PurePosixPath("/home/ann/.local/share/ltx2")),
        (Unix, {"XDG_DATA_HOME": "/data"}, PurePosixPath("/data/ltx2")),
        (MacOS, {}, PurePosixPath("/home/ann/Library/Application Support/ltx2")),
        (Windows, {"WIN_PD_OVERRIDE_LOCAL_APPDATA": LOCAL}, PureWindowsPath(LOCAL, "ltx2")),
    ],
)
def test_without_a_variable_it_is_in_the_users_data_folder_of_the_system(
    system: type, variables: dict[str, str], place: PurePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LTX2_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ann", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platformdirs, "PlatformDirs", system)
    assert type(place)(str(ltx2_home())) == place


def test_the_variable_names_it_and_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", "/models/of/mine")
    assert ltx2_home() == Path("/models/of/mine")
    monkeypatch.setenv("LTX2_HOME", "a" * 256)
    with pytest.raises(RequestError, match="LTX2_HOME"):
        ltx2_home()
