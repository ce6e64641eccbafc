"""The C programs of ``csource/`` (compiled when needed) and the programs of the system.

Knows where they are and how they are called; not what is measured with them.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from benchmarks.processes import BenchmarkError, run

SOURCE = Path(__file__).parent / "csource"
COMPILE_SECONDS = 60.0
# Where distributions put servers without naming the place in an ordinary PATH.
SYSTEM_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find(program: str) -> str | None:
    """Absolute path of a program on PATH or among the system's servers, or None."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PLACES])
    return shutil.which(program, path=path)


def need(program: str) -> str:
    """As `find`, but BenchmarkError when it is absent."""
    found = find(program)
    if found is None:
        raise BenchmarkError(f"{program} is not installed (docs/benchmarks.md says how)")
    return found


@functools.cache
def compiled(name: str, directory: Path) -> str:
    """Path of the C program `name`, compiled into `directory` at its first use."""
    compiler = find("cc") or find("gcc") or find("clang")
    if compiler is None:
        raise BenchmarkError("no C compiler (cc, gcc or clang)")
    target = directory / name
    run([compiler, "-O2", "-o", str(target), str(SOURCE / f"{name}.c")], COMPILE_SECONDS)
    return str(target)
