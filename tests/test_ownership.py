"""What others can change is refused with one line: directories, links, and files of the state."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.logger import capturedLogs

from proxyservice import ownership
from proxyservice.errors import ProxyServiceError, StartError, StoreError
from proxyservice.leases.store import LeaseStore, sqlite_url
from proxyservice.node.exposure import Exposure, read_settings
from proxyservice.node.node import NodeEvents
from proxyservice.ownership import check_directory, check_own, open_own
from proxyservice.server.relay_id import SECRET_FILE, relay_id
from proxyservice.state_lock import StateLock
from proxyservice.tap import make_state_directory

SOMEBODY = 31_007
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


def one_line(refused: Callable[[], object]) -> str:
    with pytest.raises(ProxyServiceError) as caught:
        refused()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777, 0o2775])
def test_a_directory_that_others_can_write_is_refused(state: Path, mode: int) -> None:
    state.chmod(mode)
    assert f"chmod go-w {state}" in one_line(lambda: check_directory(state))
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o711])
def test_one_that_others_can_only_read_is_not(state: Path, mode: int) -> None:
    state.chmod(mode)
    check_directory(state)
    check_directory(state / "not" / "there")


@as_root
def test_somebody_elses_directory_is_refused(state: Path) -> None:
    os.chown(state, SOMEBODY, SOMEBODY)
    assert f"belongs to user {SOMEBODY}" in one_line(lambda: check_directory(state))


@as_root
def test_somebody_elses_link_is_refused_and_our_own_followed(state: Path) -> None:
    """As systemd has /var/lib/NAME for a dynamic user: a link of root's to private/NAME."""
    link = state.with_name("link")
    link.symlink_to(state)
    check_directory(link)
    os.chown(link, SOMEBODY, SOMEBODY, follow_symlinks=False)
    assert str(link) in one_line(lambda: check_directory(link))
    os.chown(link, 0, 0, follow_symlinks=False)
    state.chmod(0o777)
    assert f"other users can write to {state}" in one_line(lambda: check_directory(link))


def test_links_in_a_circle_are_one_line(state: Path) -> None:
    one, other = state / "one", state / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    assert str(one) in one_line(lambda: check_directory(one))


def test_a_place_that_everybody_can_exchange_is_refused(state: Path) -> None:
    parent = state.parent
    parent.chmod(0o777)
    assert f"chmod o-w {parent}" in one_line(lambda: check_directory(state))
    parent.chmod(0o1777)  # sticky, as /tmp: nobody else can rename what is in it
    check_directory(state)


def foreign(path: Path, kind: str) -> None:
    """Something at `path` that is not a file of ours."""
    other = path.parent.parent / "other"
    other.write_bytes(b"of somebody")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "link to nothing":
        path.symlink_to(other.with_name("nothing"))
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"x" * 32)
        path.chmod(0o600)
        if kind == "written by others":
            path.chmod(0o622)
        else:
            os.chown(path, SOMEBODY, SOMEBODY)


KINDS = [
    *("link", "link to nothing", "directory", "pipe", "written by others"),
    pytest.param("somebody else's", marks=as_root),
]
USES: dict[str, Callable[[Path], object]] = {
    "lock": lambda state: StateLock(state).take(),
    SECRET_FILE: relay_id,
    "leases.sqlite": lambda state: LeaseStore(sqlite_url(state / "leases.sqlite"), 7).open(0.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", USES)
def test_a_foreign_file_of_the_state_is_refused_and_left(state: Path, name: str, kind: str) -> None:
    foreign(state / name, kind)
    said = one_line(lambda: USES[name](state))
    assert str(state / name) in said
    other = state.parent / "other"
    assert other.read_bytes() == b"of somebody"
    assert not other.with_name("nothing").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused(state: Path, mode: int) -> None:
    relay_id(state)
    (state / SECRET_FILE).chmod(mode)
    assert "chmod go-rwx" in one_line(lambda: relay_id(state))
    (state / SECRET_FILE).chmod(0o600)
    assert relay_id(state) == relay_id(state)


def test_where_no_modes_are_kept_a_secret_is_warned_of_and_a_directory_of_all_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT: what others may do is the mount's to say, and chmod of no use."""
    relay_id(state)
    (state / SECRET_FILE).chmod(0o755)
    monkeypatch.setattr(ownership, "keeps_modes", lambda directory: False)
    with capturedLogs() as logged:
        assert relay_id(state)
    assert [one["why"] for one in logged] == [ownership.NO_MODES]
    (state / SECRET_FILE).chmod(0o777)
    for refused in (lambda: relay_id(state), lambda: check_directory(state)):
        said = one_line(refused)
        assert "chmod" not in said
        assert "umask=0077" in said
        state.chmod(0o777)


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_store_elsewhere_is_in_a_directory_of_our_own(state: Path, mode: int) -> None:
    """The log beside it, which others could put there, says who has which port."""
    state.chmod(mode)
    store = LeaseStore(sqlite_url(state / "other.sqlite"), 7)
    with pytest.raises(StoreError, match="other users can write"):
        store.open(0.0)
    assert list(state.iterdir()) == []


def test_the_service_and_a_node_look_at_their_directory_first(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(state)
    state.chmod(0o777)
    with pytest.raises(Exception, match=f"--state-dir: other users can write to {state}"):
        make_state_directory(str(state))
    settings = read_settings(["8080"], ["127.0.0.1:1"], state_dir=str(state))
    node = Exposure(None, settings, NodeEvents())
    with pytest.raises(StartError, match="other users can write"):
        node.startService()
    assert list(state.iterdir()) == []


def test_what_is_ours_is_opened(state: Path) -> None:
    path = state / "file"
    check_own(path)
    os.close(open_own(path, os.O_WRONLY | os.O_CREAT, secret=True))
    assert path.stat().st_mode & 0o777 == 0o600
    check_own(path)
