"""Text that others wrote, made fit to be shown: in a log, on a terminal, in an error.

Every text of a peer passes here on its way to people, and nowhere else is it
cleaned. Files that people edit are decoded here too.
"""

from __future__ import annotations

import os
import sys

SHOWN_CHARACTERS = 200
"""A reason is a sentence; whatever is longer is not for people."""


def printable(text: str, most_characters: int = SHOWN_CHARACTERS) -> str:
    """The text on one line: what moves a cursor or turns text around is `?`, the rest is cut.

    `str.isprintable` knows control characters, escapes, line ends, the marks
    that reverse the direction of text, and halves of surrogate pairs.
    """
    if len(text) <= most_characters and text.isprintable():
        return text
    shown = "".join(char if char.isprintable() else "?" for char in text[: most_characters + 1])
    return shown if len(shown) <= most_characters else shown[: most_characters - 3] + "..."


def without_controls(text: str) -> str:
    """Lines of our own, line ends and tabs kept, without what a peer's part of them could do."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def argument_text(argument: str) -> str:
    """What was typed on the command line, as text, whatever locale it was decoded by.

    The protocol and our messages are UTF-8, a terminal nearly always is, and
    the locale of a service or a container often is not. Raises ValueError for
    bytes that are no text.
    """
    if argument.isascii() or (sys.getfilesystemencoding() == "utf-8" and _is_text(argument)):
        return argument
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        if _is_text(argument):  # text in the locale's own encoding
            return argument
        raise ValueError(f"{printable(argument)!r} is no text in UTF-8") from None


def _is_text(argument: str) -> bool:
    """Not so with the halves of surrogate pairs that stand for undecodable bytes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode_text(data: bytes) -> str:
    """The text of a file that people edit: UTF-8, also with Windows' mark before it.

    Line ends are what the file has. Raises ValueError with one line.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16 (PowerShell's > writes that); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8: byte 0x{data[error.start]:02x}") from None
