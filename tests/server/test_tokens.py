"""Tokens: what is in the file, what a proof needs, and what becomes of one that is good no more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxyservice.errors import StartError
from proxyservice.node.cli import main
from proxyservice.node.endpoint import parse_endpoint
from proxyservice.node.tokens import TOKEN_VARIABLE, find_token, make_token, write_token
from proxyservice.server.access import Access
from proxyservice.server.claims import Claimed
from proxyservice.server.tokens import NEW_ONE, Tokens
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.tokens import Token
from tests.attacks.running import full
from tests.leases.harness import store_thread
from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit, wait_until
from tests.server.memory import MemoryRelay, RawNode

UNAUTHENTICATED = (pb.REFUSAL_UNAUTHENTICATED, 0)
NOON = 1_800_014_400.0  # 2027-01-15T12:00:00Z


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


# ---------------------------------------------------------------------------- one token


def test_a_token_is_read_as_it_was_written() -> None:
    token = Token.new()
    assert Token.parse(f" {token.text}\n") == token
    assert token.text != Token.new().text
    assert len(token.text) == 64


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-1], lambda t: t + "x", lambda t: "x" + t, str.upper]
)
def test_what_is_no_token_is_not_repeated(damage: Any, tmp_path: Path) -> None:
    secret = damage(Token.new().text)
    file = tmp_path / "token"
    file.write_text(secret)
    file.chmod(0o600)
    for path, environment in ((file, {}), (None, {TOKEN_VARIABLE: secret})):
        with pytest.raises(StartError) as error:
            find_token(path, environment)
        assert secret[5:] not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_token_shows_nothing_of_its_secret() -> None:
    token = Token.new()
    shown = repr(token) + str(token)
    assert token.seed.hex() not in shown
    assert repr(token.seed) not in shown
    assert token.text[21:] not in shown


def test_the_file_comes_before_the_environment_and_none_is_fine(tmp_path: Path) -> None:
    mine, other = Token.new(), Token.new()
    write_token(tmp_path / "token", mine)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    environment = {TOKEN_VARIABLE: other.text}
    assert find_token(tmp_path / "token", environment) == mine
    assert find_token(None, environment) == other
    assert find_token(None, {}) is None
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(StartError, match="chmod 600"):
        find_token(tmp_path / "token", {})
    with pytest.raises(StartError, match="cannot create"):
        write_token(tmp_path / "token", mine)


# ------------------------------------------------------------------------------ the file


def known(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "tokens"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_a_file_has_names_ends_comments_and_two_tokens_of_one_name(tmp_path: Path) -> None:
    lines = [make_token("alice", expires, NOON)[1] for expires in (None, "12h")]
    read = Tokens.read(known(tmp_path, "# ours", "", lines[0], lines[1] + "  # the new one"))
    first, second = read.known.values()
    assert (first.name, second.name) == ("alice", "alice")
    assert second.ends == NOON + 12 * 3600
    assert read.ends == [second.ends, first.ends]


@pytest.mark.parametrize(
    ("ends", "at"),
    [
        ("2027-01-15", NOON - 12 * 3600),
        ("2027-01-15T12:00:00Z", NOON),
        ("2027-01-15T14:00:00+02:00", NOON),
    ],
)
def test_ways_to_write_an_end(ends: str, at: float, tmp_path: Path) -> None:
    line = make_token("a", None, NOON)[1]
    (token,) = Tokens.read(known(tmp_path, f"{line} {ends}")).known.values()
    assert token.ends == at


GOOD = make_token("alice", None, NOON)[1]


@pytest.mark.parametrize(
    "bad",
    [
        "alice",
        GOOD.rpartition(" ")[0],
        GOOD + " 2027-01-15 more",
        GOOD + " soon",
        GOOD + " 2027-02-30",
        GOOD[1:],
        GOOD.replace(" alice", "0 alice"),
        GOOD.replace("alice", 'a"b'),
        GOOD.replace("alice", "a" * 65),
        GOOD + "\n" + GOOD,
        "\x00\xff",
    ],
)
def test_a_bad_line_is_named(bad: str, tmp_path: Path) -> None:
    path = known(tmp_path, "# first", bad)
    number = 1 + len(bad.splitlines())
    with pytest.raises(StartError, match=f"tokens, line {number}: ") as error:
        Tokens.read(path)
    assert "\n" not in str(error.value)


def test_a_secret_in_the_wrong_file_is_not_repeated(tmp_path: Path) -> None:
    secret = Token.new().text
    with pytest.raises(StartError) as error:
        Tokens.read(known(tmp_path, f"{secret} {secret} alice"))
    assert secret not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StartError, match="cannot read"):
            Tokens.read(path)


# -------------------------------------------------------------------------- what a proof needs


class Operator:
    """A service with a token file, and the wall clock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tokens"
        self.wall = NOON
        self.write()
        self.relay = MemoryRelay()
        self.relay.factory.access = Access(self.path, wall=lambda: self.wall)
        self.relay.factory.watch_access()

    def write(self, *lines: str) -> None:
        self.path.write_text("".join(line + "\n" for line in lines))

    def hangup(self, *lines: str) -> None:
        """The file is written anew, and the service is told."""
        self.write(*lines)
        self.relay.factory.access.reload()
        self.relay.factory.check_access()
        self.relay.pump()

    def node(self, token: Token | None, seed: int = 1, **changed: Any) -> RawNode:
        """A node that sends a good Proof with this token, but for what is changed."""
        node = self.relay.node(seed)
        node.hello()
        challenge = node.take(Opcode.CHALLENGE)
        proof = node.proof(challenge)
        if token is not None:
            proof.token_id, proof.token_signature = token.id, token.sign(node.signed(challenge))
        proof.MergeFrom(pb.Proof(**changed))
        node.say(Opcode.PROOF, proof)
        return node


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_a_known_token_lets_in_and_no_other(operator: Operator) -> None:
    token, line = make_token("alice", None, NOON)
    operator.hangup(line)
    node = operator.node(token)
    assert node.take(Opcode.WELCOME).payload.proved
    assert node.lease()
    for bad in (
        operator.node(None, 2),
        operator.node(Token.new(), 3),
        operator.node(Token(token.id, bytes(32)), 4),
        operator.node(token, 5, token_signature=bytes(64)),
        operator.node(token, 6, signature=bytes(64)),
    ):
        assert bad.refused() == UNAUTHENTICATED
        operator.relay.pass_time(2)
        assert bad.lost is not None
    assert node.lost is None


def test_a_recorded_signature_of_a_token_is_worth_nothing_on_another_connection(
    operator: Operator,
) -> None:
    token, line = make_token("alice", None, NOON)
    operator.hangup(line)
    first = operator.relay.node(1)
    first.hello()
    recorded = token.sign(first.signed(first.take(Opcode.CHALLENGE)))
    replay = operator.node(None, 1, token_id=token.id, token_signature=recorded)
    assert replay.refused() == UNAUTHENTICATED


def test_without_a_file_tokens_are_not_looked_at() -> None:
    relay = MemoryRelay()
    node = relay.node(1)
    node.hello()
    proof = node.proof(node.take(Opcode.CHALLENGE))
    proof.token_id, proof.token_signature = b"x" * 8, bytes(64)
    node.say(Opcode.PROOF, proof)
    assert node.take(Opcode.WELCOME)


def test_two_tokens_of_one_name_are_good_until_one_goes(operator: Operator) -> None:
    (old, old_line), (new, new_line) = (make_token("alice", None, NOON) for _ in range(2))
    operator.hangup(old_line, new_line)
    first, second = operator.node(old, 1), operator.node(new, 2)
    assert first.take(Opcode.WELCOME)
    assert second.take(Opcode.WELCOME)
    operator.hangup(new_line)
    assert first.refused() == UNAUTHENTICATED
    operator.relay.pass_time(2)
    assert first.lost is not None
    assert second.lost is None


def test_t27_a_revoked_token_loses_its_session_within_5_s(operator: Operator) -> None:
    token, line = make_token("alice", None, NOON)
    operator.hangup(line)
    node = operator.node(token)
    node.take(Opcode.WELCOME)
    visitor = operator.relay.visit(node.lease())
    assert visitor is not None
    operator.hangup()
    operator.relay.pass_time(4.75)
    assert node.lost is not None
    assert visitor.lost is not None
    assert operator.node(token).refused() == UNAUTHENTICATED


def test_another_key_under_the_same_identifier_is_another_token(operator: Operator) -> None:
    token, line = make_token("alice", None, NOON)
    operator.hangup(line)
    node = operator.node(token)
    node.take(Opcode.WELCOME)
    operator.hangup(line.replace(token.public_key.hex(), Token.new().public_key.hex()))
    assert node.refused() == UNAUTHENTICATED


def test_an_expired_token_loses_its_session_within_5_s(operator: Operator) -> None:
    token, line = make_token("alice", "1h", NOON)
    other, other_line = make_token("bob", "2h", NOON)
    operator.hangup(line, other_line)
    node, stays = operator.node(token), operator.node(other, 2)
    node.take(Opcode.WELCOME)
    stays.take(Opcode.WELCOME)
    operator.wall += 3599
    operator.relay.pass_time(3)
    assert node.lost is None
    operator.wall += 1
    operator.relay.pass_time(4.75)
    assert node.lost is not None
    assert stays.lost is None
    assert operator.node(token, 3).refused() == UNAUTHENTICATED
    operator.wall += 86400  # the clock is set far ahead
    operator.relay.pass_time(4.75)
    assert stays.lost is not None


def test_a_bad_file_changes_nothing(operator: Operator) -> None:
    token, line = make_token("alice", None, NOON)
    operator.hangup(line)
    node = operator.node(token)
    node.take(Opcode.WELCOME)
    operator.hangup("rubbish")
    operator.relay.pass_time(2)
    assert node.lost is None
    assert operator.node(token, 2).take(Opcode.WELCOME)


# ---------------------------------------------------------------------------- as people do it


def test_token_new_prints_the_secret_once_and_the_line(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["token", "new", "alice", "--expires", "90d"])
    assert ran.exit_code == 0
    token = Token.parse(ran.stderr)
    (of_file,) = Tokens.read(known(tmp_path, ran.stdout)).known.values()
    assert (of_file.id, of_file.public_key) == (token.id, token.public_key)
    assert abs(of_file.ends - time.time() - 90 * 86400) < 60
    assert token.text not in ran.stdout
    out = tmp_path / "secret"
    ran = CliRunner().invoke(main, ["token", "new", "alice", "--out", str(out)])
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert find_token(out, {}) is not None


@pytest.mark.parametrize("wrong", ["", "a b", "a --expires soon", "a --expires", "a --out /"])
def test_token_new_says_what_is_wrong_in_one_line(wrong: str) -> None:
    ran = CliRunner().invoke(main, ["token", "new", *wrong.split()])
    assert ran.exit_code in (1, 2)
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""


def test_the_endpoint_takes_a_token_file() -> None:
    endpoint = parse_endpoint(None, ["relay.example"], {"token": "file"})
    assert endpoint._token_file == Path.cwd() / "file"


class TokenRelay(Relay):
    """The service with a token file."""

    def __init__(self, directory: Path, port: int, tokens: Path) -> None:
        low = 25000 + os.getpid() % 1000 * 4
        super().__init__(
            directory, port, range(low, low + 4), "--token-file", str(tokens), "--hold", "0"
        )


@pytest.mark.heavy
@pytest.mark.process
def test_expose_needs_a_token_and_ends_when_it_is_revoked(
    tmp_path: Path, started: list[Program], free_port: int
) -> None:
    """T27, with real programs; and no log of either side has the secret (T28)."""
    token, line = make_token("alice", None, NOON)
    secret, tokens = tmp_path / "secret", known(tmp_path, line)
    write_token(secret, token)
    relay = TokenRelay(tmp_path / "relay", free_port, tokens)
    started.append(relay)

    def expose(name: str, *more: object, **environment: str) -> Program:
        directory = tmp_path / name
        command = (SCRIPTS / "proxyservice", "expose", echo.port, "--via", relay.via, *more)
        program = Program(directory, *command, STATE_DIRECTORY=str(directory), **environment)
        started.append(program)
        return program

    with EchoServer() as echo:
        without = expose("without")
        assert without.ended() == 1
        assert "wants a token" in without.stderr
        by_file = expose("file", "--token", secret)
        by_environment = expose("environment", **{TOKEN_VARIABLE: token.text})
        for node in (by_file, by_environment):
            address = node.wait_for(r"exposed \d+ at (\S+)")[1]
            assert visit(address, b"hello") == b"hello"
        tokens.write_text("rubbish\n")
        relay.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "what was read before stays in use" in relay.stdout)
        assert visit(address, b"hello") == b"hello"
        tokens.write_text("")
        begun = time.monotonic()
        relay.process.send_signal(signal.SIGHUP)
        for node in (by_file, by_environment):
            assert node.ended() == 1
            assert f"the token was revoked: {NEW_ONE}" in node.stderr
        assert time.monotonic() - begun < (5 if full() else 20)
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the moment wants
            visit(address, b"hello")
    for program in started:
        assert token.text[21:] not in program.stdout + program.stderr
        assert token.seed.hex() not in program.stdout + program.stderr


def test_tokens_deny_claims(tmp_path: Path) -> None:
    from proxyservice.tap import Options, _default_claimed

    options = Options()
    options.parseOptions(["--token-file", str(known(tmp_path)), "--state-dir", str(tmp_path / "s")])
    assert _default_claimed(options) is Claimed.DENY
