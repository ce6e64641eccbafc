"""LZW word for word as docs/protocol.md has it, on texts of bits: slow and easy to check."""

from __future__ import annotations

CLEAR, END = 256, 257


def straightforward_encode(plain: bytes) -> bytes:
    codes = []
    hi, overflow, width = 257, 512, 9
    table: dict[tuple[int, int], int] = {}

    def emit(code: int) -> None:
        codes.append(format(code, f"0{width}b"))

    def step() -> bool:
        nonlocal hi, overflow, width
        hi += 1
        if hi == overflow:
            width, overflow = width + 1, overflow * 2
        if hi < 4095:
            return True
        emit(CLEAR)
        hi, overflow, width = 257, 512, 9
        table.clear()
        return False

    emit(CLEAR)
    code: int | None = None
    for byte in plain:
        if code is None:
            code = byte
        elif (code, byte) in table:
            code = table[code, byte]
        else:
            emit(code)
            if step():
                table[code, byte] = hi
            code = byte
    if code is not None:
        emit(code)
        step()
    emit(END)
    bits = "".join(codes)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def straightforward_decode(stream: bytes) -> bytes | None:
    """None for an error."""
    bits = "".join(format(byte, "08b") for byte in stream)
    out, pos, width, hi = bytearray(), 0, 9, 257
    meaning = {code: bytes((code,)) for code in range(256)}
    last: bytes | None = None
    while pos + width <= len(bits):
        code, pos = int(bits[pos : pos + width], 2), pos + width
        if code == END:
            return bytes(out)
        if code == CLEAR:
            meaning = {code: bytes((code,)) for code in range(256)}
            width, hi, last = 9, 257, None
            continue
        if code == hi and last is not None:
            meaning[hi] = last + last[:1]
        elif code not in meaning:
            return None
        elif last is not None:
            meaning[hi] = last + meaning[code][:1]
        out += meaning[code]
        last, hi = meaning[code], hi + 1
        if hi == 1 << width:
            if width == 12:
                hi, last = hi - 1, None
            else:
                width += 1
    return None
