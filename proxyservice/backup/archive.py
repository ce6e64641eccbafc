"""The file that a backup is: a plain tar whose first member says what the others are.

Anybody's `tar` shows what is in one. Read back is only what this module writes:
ordinary files, each once, in the order, size and SHA-256 that the manifest says.
Links, devices, other kinds of header and names that lead elsewhere are refused
before anything is written, and nothing is read into memory but the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from struct import Struct
from typing import Any, BinaryIO

from proxyservice.errors import StartError
from proxyservice.running import RUNNING_FILE
from proxyservice.state_lock import LOCK_FILE

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state"
"""Folder of what lies in the state directory."""
OPTIONS = "options"
"""Folder of what options named elsewhere, in a folder for each option."""

LOG_ENDS = ("-wal", "-shm", "-journal")
"""What SQLite has beside a store, and would play into it; a backup's store is whole without."""

BLOCK_BYTES = 512
COPIED_BYTES = 1 << 20
MOST_FILES = 1000
"""A state directory has a handful."""
MANIFEST_LIMIT_BYTES = 1 << 20
FILE_LIMIT_BYTES = 64 << 20
"""Keys, pins, tokens, policies: the largest that the service reads has 16 MiB."""
DATABASE_LIMIT_BYTES = 4 << 30
"""A full history has some 200 MB."""
LATEST = 1e11
"""Seconds since 1970: some 3,000 years, which a calendar can show."""
LONGEST_NAME_BYTES = 100
"""What the header of a tar holds."""

_MAGIC = b"ustar\x0000"
_ORDINARY = b"0"
_HEADER = Struct("100s8s8s8s12s12s8s1s100s8s")
"""Name, mode, owner, group, size, time, sum, kind, link, magic; what follows is empty."""


class BadArchiveError(StartError):
    """What was read is no backup, or no longer; the text goes behind the file's name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file; ``option`` and ``path`` of one that an option named elsewhere."""

    name: str
    size: int
    sha256: str
    option: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds; ``made`` is a time of the wall clock, in seconds since 1970."""

    made: float
    program: str
    database: str = ""
    """Name of the leases' entry; empty where there were none on disk."""
    store: str = ""
    """Where those were, if that was elsewhere."""
    files: list[Entry] = field(default_factory=list)


def is_name(name: str) -> bool:
    """Whether it leads to a file below its folder that is not hidden there, and can be shown."""
    parts = name.split("/")
    return (
        len(name.encode(errors="replace")) <= LONGEST_NAME_BYTES
        and name.isprintable()
        and "\\" not in name
        and not any(part == "" or part.startswith(".") for part in parts)
    )


# ---------------------------------------------------------------------- writing


def write(file: BinaryIO, manifest: Manifest, contents: Iterator[BinaryIO]) -> None:
    """The whole archive; ``contents`` are those of ``manifest.files``, in their order.

    Raises OSError, and StartError when a content is no longer what the manifest says.
    """
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
    file.write(_header(MANIFEST, len(text)) + text + _padding(len(text)))
    for entry, content in zip(manifest.files, contents, strict=True):
        file.write(_header(entry.name, entry.size))
        if _copy(content, file, entry.size) != entry.sha256 or content.read(1):
            raise StartError(f"{entry.name} changes while it is read; try again")
        file.write(_padding(entry.size))
    file.write(bytes(2 * BLOCK_BYTES))


def _header(name: str, size: int) -> bytes:
    numbers = (b"0000600", b"0000000", b"0000000", b"%011o" % size, b"00000000000")
    block = bytearray(_HEADER.pack(name.encode(), *numbers, b"", _ORDINARY, b"", _MAGIC))
    block += bytes(BLOCK_BYTES - len(block))
    block[148:156] = b"%06o\x00 " % _sum(block)
    return bytes(block)


def _sum(block: bytes | bytearray) -> int:
    """Of a header, as if the sum in it were blanks."""
    return sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK_BYTES)


# ---------------------------------------------------------------------- reading


class ArchiveReader:
    """Reads an archive once, from its beginning to its end. Raises BadArchiveError and OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        name, size = self._next()
        if name != MANIFEST or size > MANIFEST_LIMIT_BYTES:
            raise BadArchiveError("is no backup of this program")
        text = self._exactly(size)
        self._exactly(-size % BLOCK_BYTES)
        self.manifest = _manifest(text)

    def files(self) -> Iterator[Entry]:
        """Each entry in turn; `copy` it before the next is asked for."""
        for entry in self.manifest.files:
            if self._next() != (entry.name, entry.size):
                raise BadArchiveError(f"is damaged: its member {entry.name} is another")
            yield entry

    def copy(self, entry: Entry, target: BinaryIO) -> None:
        """Write the content of an entry there."""
        if _copy(self._file, target, entry.size) != entry.sha256:
            raise BadArchiveError(f"is damaged or cut short in {entry.name}")
        self._exactly(-entry.size % BLOCK_BYTES)

    def end(self) -> None:
        """It has its own end, and nothing behind it but the zeros that `tar` may add."""
        rest = self._exactly(2 * BLOCK_BYTES)
        while rest:
            if any(rest):
                raise BadArchiveError("is damaged: something follows its end")
            rest = self._file.read(COPIED_BYTES)

    def _next(self) -> tuple[str, int]:
        block = self._exactly(BLOCK_BYTES)
        try:
            name = block[:100].rstrip(b"\0").decode()
            size, told = int(block[124:135], 8), int(block[148:154], 8)
        except ValueError:
            raise BadArchiveError("is no backup of this program") from None
        if block[257:265] != _MAGIC or told != _sum(block):
            raise BadArchiveError("is no backup of this program, or is damaged")
        if block[156:157] != _ORDINARY or any(block[157:257]) or any(block[345:500]):
            raise BadArchiveError(f"holds {name!r}, which is no ordinary file")
        return name, size

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise BadArchiveError("is empty or cut short")
        return data


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> str:
    """Copy so many bytes, or fewer where there are not so many; the SHA-256 of what was copied."""
    digest = sha256()
    while size and (data := source.read(min(size, COPIED_BYTES))):
        target.write(data)
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def _manifest(text: bytes) -> Manifest:
    try:
        document: dict[str, Any] = json.loads(text)
        form = document.pop("format")
        if not isinstance(form, int) or form < 1:
            raise ValueError
        if form > FORMAT:
            raise BadArchiveError("was made by a newer version; upgrade this program")
        files = [Entry(**one) for one in document.pop("files")]
        manifest = Manifest(**document, files=files)
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BadArchiveError("is no backup of this program: its manifest cannot be read") from None
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError and TypeError for nonsense, BadArchiveError for what must not be done."""
    made, names = manifest.made, [entry.name for entry in manifest.files]
    if (
        not isinstance(made, (int, float))
        or not 0 <= made < LATEST
        or len(names) > MOST_FILES
        or len(set(names)) != len(names)
    ):
        raise ValueError
    if manifest.database and manifest.database not in names:
        raise ValueError
    if not all(
        isinstance(one, str) for one in (manifest.program, manifest.database, manifest.store)
    ):
        raise TypeError
    for entry in manifest.files:
        folder, _, inner = entry.name.partition("/")
        beside = entry.name in {manifest.database + end for end in LOG_ENDS}
        known = (
            folder in (STATE, OPTIONS)
            and inner
            and inner not in (LOCK_FILE, RUNNING_FILE)
            and not beside
        )
        if not known or not is_name(entry.name):
            raise BadArchiveError(
                f"names {entry.name[:200]!r}, which is no place in a state directory"
            )
        most = DATABASE_LIMIT_BYTES if entry.name == manifest.database else FILE_LIMIT_BYTES
        if not isinstance(entry.size, int) or not 0 <= entry.size <= most:
            raise BadArchiveError(f"is too large: {entry.name} is said to have {entry.size} bytes")
        if not all(isinstance(text, str) for text in (entry.sha256, entry.option, entry.path)):
            raise TypeError
