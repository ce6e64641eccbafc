"""One target under atheris, in a process of its own: libFuzzer's flags and folders as arguments.

`python -m tests.fuzz` starts it. The package is imported in here, so that its
branches are counted.
"""

from __future__ import annotations

import shlex
import sys
from importlib import import_module

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]


def main(target: str, flags: list[str]) -> None:
    """Fuzz until a flag of libFuzzer's says so; it ends the process."""
    with atheris.instrument_imports(include=["proxyservice"]):
        module = import_module(f"tests.fuzz.{target}")
    # libFuzzer starts itself anew to merge, by what it takes for its name.
    name = shlex.join([sys.executable, "-m", __spec__.name, target])
    atheris.Setup([name, *flags], module.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
