"""curl and 500 visitors at once against nginx, through `expose` and the real service."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.processes import Program, Relay, wait_until
from tests.real.conftest import (
    FULL,
    Run,
    address_of,
    needs,
    program,
    socket_address,
    unused_port,
)

pytestmark = [pytest.mark.process, needs("nginx", "curl")]

FILE_BYTES = (1 << 30) if FULL else (64 << 20)
CHUNK = 1 << 20
VISITORS = 500
CURL = ["curl", "-sS", "--max-time", "120"]

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/t1; fastcgi_temp_path {directory}/t2;
    uwsgi_temp_path {directory}/t3; scgi_temp_path {directory}/t4;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {directory}/files;
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


class Nginx:
    """Serves one file of random bytes, and takes what is PUT below /put/."""

    def __init__(self, directory: Path) -> None:
        self.port = unused_port()
        self.files = directory / "files"
        self.files.mkdir()
        self.path = self.files / "big.bin"
        self.digest = _write_random(self.path)
        user = f"user {Path.home().owner()};" if os.getuid() == 0 else ""
        configuration = directory / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(directory=directory, port=self.port, user=user)
        )
        self.program = Program(directory / "nginx", program("nginx"), "-c", configuration)
        wait_until(self._listens, what=lambda: self.program.stderr)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _write_random(path: Path) -> str:
    digest = hashlib.sha256()
    generator = random.Random(1)
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // CHUNK):
            chunk = generator.randbytes(CHUNK)
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    directory = tmp_path_factory.mktemp("nginx")
    server = Nginx(directory)
    yield server
    server.program.end()
    server.path.unlink()


@pytest.mark.heavy
def test_a_large_file_arrives_whole_both_ways(
    relay: Relay, expose: Run, nginx: Nginx, tmp_path: Path
) -> None:
    exposing = expose(nginx.port, "--via", relay.via)
    url = f"http://{address_of(exposing, nginx.port)}"
    fetched = tmp_path / "fetched"
    subprocess.run([*CURL, "-f", "-o", fetched, f"{url}/big.bin"], check=True)
    assert digest_of(fetched) == nginx.digest
    fetched.unlink()
    subprocess.run([*CURL, "-f", "-T", nginx.path, f"{url}/put/up.bin"], check=True)
    uploaded = nginx.files / "put" / "up.bin"
    assert digest_of(uploaded) == nginx.digest
    uploaded.unlink()
    assert exposing.end() == 0
    size = r"1(\.0+)?GiB" if FULL else r"64(\.0)?MiB"
    assert re.search(rf"ended: 2 visitors, in {size}, out {size}\n", exposing.stderr)


class Meeting:
    """Opens when all have come."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._open = asyncio.Event()

    async def all_here(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._open.set()
        await asyncio.wait_for(self._open.wait(), 60)


async def fetch_at_once(address: tuple[str, int], content: bytes) -> list[bool]:
    """Each visitor fetches a piece of its own while all the others are connected too."""
    connected, answered = Meeting(VISITORS), Meeting(VISITORS)

    async def visit(number: int) -> bool:
        reader, writer = await asyncio.open_connection(*address)
        await connected.all_here()
        first, size = number * 1009, 40_000 + number
        request = f"GET /big.bin HTTP/1.1\r\nHost: x\r\nRange: bytes={first}-{first + size - 1}\r\n"
        writer.write(request.encode() + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        got = await reader.readexactly(size)
        await answered.all_here()
        writer.close()
        return head.startswith(b"HTTP/1.1 206") and got == content[first : first + size]

    return await asyncio.gather(*map(visit, range(VISITORS)))


def test_500_visitors_at_once_get_each_its_own(relay: Relay, expose: Run, nginx: Nginx) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * VISITORS:
        pytest.skip("too few descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        exposing = expose(nginx.port, "--via", relay.via)
        address = socket_address(address_of(exposing, nginx.port))
        with nginx.path.open("rb") as file:
            content = file.read(1 << 20)
        assert asyncio.run(fetch_at_once(address, content)) == [True] * VISITORS
        assert exposing.end() == 0
        assert f"ended: {VISITORS} visitors, " in exposing.stderr
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
