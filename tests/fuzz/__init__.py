"""Coverage-guided fuzzing: `python -m tests.fuzz` (docs/development.md, "Fuzzing").

Each module of `TARGETS` has a function ``check(data: bytes) -> None`` that
asserts what must hold for any input, and ``seeds()``, inputs to begin with.
`test_corpus.py` runs the committed corpus through them without the fuzzer.
"""

TARGETS = (
    *("frames", "messages", "multiplexer", "streams", "lzw", "proof", "relay", "haproxy", "node"),
)
