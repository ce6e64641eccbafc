"""Fuzz, replay, and grow the committed corpus: `python -m tests.fuzz --help`.

Each target runs in a process of its own (`one.py`), bounded in memory and in
time for each input. Status 1: something was found; the input is saved, and the
command that runs it again is printed.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha1
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz import TARGETS

CORPUS = Path(__file__).with_name("corpus")
FOUND = Path(__file__).with_name("found")

MEMORY_MB = 512
"""Of one process; imports and the largest input take a tenth of it."""

INPUT_SECONDS = 20
"""For one input, which takes milliseconds: also on a loaded machine this means it hangs."""

GRACE_SECONDS = 120
"""To import, run the corpus once, and end; then the process is killed."""

LARGEST_BYTES = 2048
COMMITTED_BYTES = 768
"""Inputs up to this size are kept; what longer ones reach, seeds reach."""

PRINTED_BYTES = 3000
"""Found inputs up to this size are printed whole: where CI runs no file is kept."""


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    options = parsed(arguments)
    targets = options.targets or list(TARGETS)
    if options.replay:
        return replay(targets, options.replay)
    if find_spec("atheris") is None:
        print(
            "fuzz: atheris is not installed: pip install 'atheris>=3' "
            "(there are wheels for some versions of Python only)"
        )
        return 2
    print(f"{'target':<12} {'executions':>10} {'edges':>6} {'features':>8} {'new inputs':>10}")
    run = partial(fuzz, seconds=options.seconds, grow=options.grow)
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [target for target, good in zip(targets, pool.map(run, targets), strict=True)
                  if not good]  # fmt: skip
    print(f"found something in: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (default 2)")
    parser.add_argument(
        "--grow", action="store_true", help="put what reaches more into the committed corpus"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="run one input, without atheris"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.replay and len(options.targets) != 1:
        parser.error("--replay takes one target")
    if min(options.seconds, options.jobs) < 1:
        parser.error("--seconds and --jobs are at least 1")
    return options


def replay(targets: list[str], file: Path) -> int:
    """Run one input as it is; its exception, if any, is what there is to see."""
    import_module(f"tests.fuzz.{targets[0]}").check(file.read_bytes())
    print(f"{targets[0]}: nothing wrong with {file}")
    return 0


def fuzz(target: str, seconds: int, grow: bool) -> bool:
    """Run one target and print its line; false when something was found."""
    with tempfile.TemporaryDirectory() as folder:
        new, seeds, log = Path(folder, "new"), Path(folder, "seeds"), Path(folder, "log")
        new.mkdir()
        save_seeds(target, seeds)
        committed = CORPUS / target
        committed.mkdir(parents=True, exist_ok=True)
        FOUND.mkdir(exist_ok=True)
        flags = [f"-max_total_time={seconds}", f"-max_len={LARGEST_BYTES}"]
        good = fuzzer(target, [*flags, str(new), str(committed), str(seeds)], log, seconds)
        text = log.read_text(errors="replace")
        print(line(target, text, new), flush=True)
        if not good:
            tell_found(target, text)
        if good and grow:
            merge(target, [new, seeds], log)
        return good


def save_seeds(target: str, folder: Path) -> None:
    folder.mkdir()
    for data in import_module(f"tests.fuzz.{target}").seeds():
        (folder / sha1(data).hexdigest()).write_bytes(data)


def fuzzer(target: str, flags: list[str], log: Path, seconds: int) -> bool:
    """Run libFuzzer on a target; true when it ended well."""
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", target, *flags),
        *(f"-rss_limit_mb={MEMORY_MB}", f"-timeout={INPUT_SECONDS}", "-print_final_stats=1"),
        *(f"-artifact_prefix={FOUND}/{target}-", "-verbosity=1"),
    ]
    with log.open("wb") as out:
        try:
            limit = seconds + GRACE_SECONDS
            ended = subprocess.run(command, stdout=out, stderr=out, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            out.write(b"\nthe process did not end\n")
            return False
    return ended.returncode == 0


def line(target: str, log: str, new: Path) -> str:
    """What libFuzzer says of a run, as a row of the table."""
    executions = (re.findall(r"number_of_executed_units: +(\d+)", log) or ["?"])[-1]
    edges, features = (re.findall(r"cov: (\d+) ft: (\d+)", log) or [("?", "?")])[-1]
    count = len(list(new.iterdir()))
    return f"{target:<12} {executions:>10} {edges:>6} {features:>8} {count:>10}"


def tell_found(target: str, log: str) -> None:
    """What went wrong, which input did it, and how to see it again."""
    kept = [text for text in log.splitlines() if not re.match(r"#\d+\s|INFO:|stat::|0x", text)]
    print("\n".join(kept[-40:]))
    for name in re.findall(r"Test unit written to (\S+)", log):
        file = Path(name)
        data = file.read_bytes()
        if len(data) <= PRINTED_BYTES:
            print(f"echo {base64.b64encode(data).decode()} | base64 -d >{file.name}")
        print(f"run it again: python -m tests.fuzz {target} --replay {file}", flush=True)


def merge(target: str, folders: list[Path], log: Path) -> None:
    """Replace the committed corpus by the smallest that reaches as much."""
    committed = CORPUS / target
    merged = log.parent / "merged"
    merged.mkdir()
    sources = [str(folder) for folder in (merged, committed, *folders)]
    flags = ["-set_cover_merge=1", f"-max_len={COMMITTED_BYTES}", *sources]
    if fuzzer(target, flags, log, GRACE_SECONDS):
        shutil.rmtree(committed)
        shutil.copytree(merged, committed)
    else:
        print(f"{target}: the corpus stays as it is:\n{log.read_text(errors='replace')[-2000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
