"""What `python -m tests.fuzz` says, and with which status it ends."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import __main__ as runner


def test_without_atheris_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    assert runner.main([]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install 'atheris>=3'" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lwz"], "no target is called lwz"),
        (["--replay", "x"], "--replay takes one target"),
        (["lzw", "--seconds", "0"], "at least 1"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_was_found_is_kept_and_can_be_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept = tmp_path / "lzw-crash-1"
    kept.write_bytes(b"\0\1\2")

    def found(target: str, flags: list[str], log: Path, seconds: int) -> bool:
        text = f"#1\tNEW cov: 7 ft: 9 corp\nAssertionError: why\nTest unit written to {kept}\n"
        log.write_text(f"{text}stat::number_of_executed_units: 12\n")
        return False

    monkeypatch.setattr(runner, "fuzzer", found)
    monkeypatch.setattr(runner, "find_spec", lambda name: True)
    monkeypatch.setattr(runner, "FOUND", tmp_path)
    assert runner.main(["lzw"]) == 1
    said = capsys.readouterr().out
    assert "AssertionError: why" in said
    assert base64.b64encode(b"\0\1\2").decode() in said
    assert f"python -m tests.fuzz lzw --replay {kept}" in said
    row = next(line for line in said.splitlines() if line.startswith("lzw"))
    assert row.split() == ["lzw", "12", "7", "9", "0"]
    assert runner.main(["lzw", "--replay", str(kept)]) == 0


@pytest.mark.process
def test_a_second_of_fuzzing() -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.fuzz", "lzw", "proof", "--seconds", "1"]
    top = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=top, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "nothing found"
