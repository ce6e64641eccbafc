"""Small files: whole or not at all, also where there are no hard links, no modes, no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyservice import files
from proxyservice.files import (
    create_private,
    keeps_modes,
    locked,
    make_private_directory,
    replace_private,
)
from proxyservice.node.keys import load_or_create_key
from proxyservice.ownership import check_directory
from proxyservice.tap import make_state_directory


def refusing(number: int) -> Callable[..., Any]:
    def refuse(*args: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=[None, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Why there are no hard links; None: there are."""
    if request.param is not None:
        monkeypatch.setattr(os, "link", refusing(request.param))
    return request.param


def test_a_file_is_made_private_and_never_over_another(links: int | None, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    create_private(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_private(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["secret"]


def test_nor_over_a_link_that_leads_nowhere(links: int | None, tmp_path: Path) -> None:
    (tmp_path / "secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "secret", b"one")
    assert os.listdir(tmp_path) == ["secret"]


def test_without_links_nobody_sees_half_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    rename = Path.rename
    seen = []

    def look(partial: Path, path: Path) -> Path:
        seen.append((path.exists(), partial.read_bytes()))
        return rename(partial, path)

    monkeypatch.setattr(Path, "rename", look)
    create_private(tmp_path / "secret", b"whole")
    assert seen == [(False, b"whole")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.EBADF, errno.ENOTSUP])
def test_a_directory_that_cannot_be_synced_is_no_error(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    replace_private(tmp_path / "secret", b"one")
    replace_private(tmp_path / "secret", b"two")
    assert (tmp_path / "secret").read_bytes() == b"two"


def test_a_disk_that_fails_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        replace_private(tmp_path / "secret", b"one")
    assert os.listdir(tmp_path) == []


def test_whether_modes_are_kept_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert keeps_modes(tmp_path)
    assert os.listdir(tmp_path) == []
    real = os.fstat

    def fstat(descriptor: int) -> Any:
        found = list(real(descriptor))
        return os.stat_result([found[0] | 0o777, *found[1:]])

    monkeypatch.setattr(files.os, "fstat", fstat)
    monkeypatch.setattr(files.os, "chmod", refusing(errno.EPERM))
    assert not keeps_modes(tmp_path)
    assert os.listdir(tmp_path) == []
    assert keeps_modes(tmp_path / "nowhere"), "nothing is known against it"


def test_a_lock_keeps_another_process_out_until_it_is_over(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    script = f"""
from pathlib import Path
from proxyservice.files import locked
with locked(Path({str(path)!r})):
    print("in", flush=True)
    input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(TimeoutError, match="another process has it locked"), locked(path):
            pass
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait(20) == 0
    with locked(path):
        pass


def test_where_there_are_no_locks_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with locked(tmp_path / "shared"):
        pass
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    create_private(tmp_path / "secret", b"one")


@pytest.fixture
def no_umask() -> Iterator[None]:
    """As a process has it whose supervisor, or container, has set none."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_nobody_else_can_change_a_directory_nor_what_is_made_above_it(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "here" / "proxyservice"
    make_private_directory(directory)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.parents[:2])]
    assert modes == [0o700, 0o755, 0o755]
    make_private_directory(directory)  # is no error when it is there


@pytest.mark.usefixtures("no_umask")
def test_a_first_start_without_a_umask_makes_nothing_that_the_next_refuses(
    tmp_path: Path,
) -> None:
    state, key = tmp_path / "relay" / "state", tmp_path / "node" / "state" / "node.key"
    make_state_directory(str(state))
    load_or_create_key(key)
    for directory in (state, key.parent):
        check_directory(directory)
