"""Where state is kept: what was chosen, what systemd says, what XDG says."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyservice.errors import StartError
from proxyservice.state import state_directory


@pytest.mark.parametrize(
    ("chosen", "environment", "expected"),
    [
        ("/a", {"STATE_DIRECTORY": "/b", "XDG_STATE_HOME": "/c"}, "/a"),
        ("", {"STATE_DIRECTORY": "/b:/other", "XDG_STATE_HOME": "/c"}, "/b"),
        ("", {"XDG_STATE_HOME": "/c"}, "/c/proxyservice"),
        ("", {"XDG_STATE_HOME": "relative"}, "/home/of/somebody/.local/state/proxyservice"),
        ("", {}, "/home/of/somebody/.local/state/proxyservice"),
    ],
)
def test_the_first_that_is_said_counts(
    chosen: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/somebody")
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert state_directory(chosen) == Path(expected)


def test_it_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_directory("here") == tmp_path / "here"


def test_a_user_without_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31)  # a user that no table knows
    with pytest.raises(StartError, match="STATE_DIRECTORY"):
        state_directory()
    assert state_directory("/a") == Path("/a")
