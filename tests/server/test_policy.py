"""The policy's file: how it is read, and that it holds at each use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.errors import StartError
from proxyservice.leases.lease import LeaseQuota, LeaseTimes
from proxyservice.leases.port_set import PortSet
from proxyservice.node.keys import fingerprint
from proxyservice.server.access import Access, Caller
from proxyservice.server.policy import Policy
from proxyservice.server.rules import Rules
from proxyservice.server.tokens import KnownToken
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import application_frame
from tests.leases.harness import store_thread
from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit, wait_until
from tests.server.memory import MemoryRelay, RawNode

FAR = "203.0.113.7"


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def key_of(seed: int) -> str:
    return fingerprint(Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")))


ONE, TWO = key_of(1), key_of(2)


class Operator:
    """A service with a policy file."""

    def __init__(self, directory: Path, text: str, **options: Any) -> None:
        self.path = directory / "policy.toml"
        self.path.write_text(text)
        self.relay = MemoryRelay(ports=range(20000, 20010), **options)
        self.relay.factory.access = Access(None, self.path)
        self.relay.factory.watch_access()

    def hangup(self, text: str) -> None:
        self.path.write_text(text)
        self.relay.factory.access.reload()
        self.relay.factory.check_access()
        self.relay.pump()

    def proved(self, seed: int, source: str = FAR) -> RawNode:
        node = self.relay.node(seed, source=source)
        node.prove()
        return node


def refused(node: RawNode, origin: str, code: int, **asked: Any) -> None:
    node.ask(origin, nonce=7, **asked)
    assert node.refused() == (code, 7)


# -------------------------------------------------------------------------------- the file


def test_an_entry_says_all_and_the_default_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f"""
        [default]
        leases = 2
        modes = ["messages"]
        [keys."{ONE}"]
        leases = 3
        port = 20005
        ports = ["20000-20001", "20003-20003"]
        modes = ["messages", "streams"]
        visitors = 10
        visitors_per_second = 2.5
        bytes_per_second = "1MiB"
        visitor_allow = ["10.0.0.0/8"]
        visitor_deny = ["10.1.0.0/16", "fd00::/8"]
        [tokens.alice]
        admit = false
        [certificates."node.example"]
        keys = ["{TWO}"]
    """)
    policy = Policy.read(path)
    one = policy.rules(ONE, "alice", ())
    assert (one.leases, one.port, one.visitors, one.bytes_per_second) == (3, 20005, 10, 1 << 20)
    assert one.ports == PortSet.of([20000, 20001, 20003])
    assert one.modes == {pb.MODE_MESSAGES, pb.MODE_STREAMS}
    alice = policy.rules(TWO, "alice", ("node.example",))
    assert (alice.admit, alice.leases, alice.modes) == (False, 2, {pb.MODE_MESSAGES})
    by_certificate = policy.rules(TWO, "bob", ("other", "node.example"))
    assert by_certificate.keys == {TWO}
    assert policy.rules(TWO, "", ()) == policy.default
    assert policy.own_ports == {20005}


BAD = {
    "unknown section": "[default]\n[nodes.a]",
    "unknown setting": "[default]\nleasse = 3",
    "unknown at the top": "leases = 3",
    "no table": "default = 3",
    "no table in a section": "keys = 3",
    "no TOML": "[default\n",
    "twice": "[default]\nleases = 1\nleases = 2",
    "not a number": '[default]\nleases = "3"',
    "a truth for a number": "[default]\nleases = true",
    "negative": "[default]\nleases = -1",
    "a number for a truth": "[default]\nadmit = 1",
    "a rate of 0": "[default]\nvisitors_per_second = 0",
    "not a size": '[default]\nbytes_per_second = "fast"',
    "not a network": '[default]\nvisitor_allow = ["10.0.0.1/8"]',
    "a text for a list": '[default]\nvisitor_deny = "10.0.0.0/8"',
    "unknown mode": '[default]\nmodes = ["datagrams"]',
    "not a range": '[default]\nports = "20000"',
    "a port for everybody": "[default]\nport = 20000",
    "keys for everybody": "[default]\nkeys = []",
    "no fingerprint": "[keys.alice]\nleases = 1",
    "no fingerprint in keys": '[tokens.alice]\nkeys = ["alice"]',
    "a port for two": f'[keys."{ONE}"]\nport = 7\n[keys."{TWO}"]\nport = 7',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(StartError, match=r"policy\.toml: ") as error:
        Policy.read(path)
    assert "\n" not in str(error.value)


def test_an_unknown_setting_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"tokens\.'alice': there is no 'leasse'; there are .*leases"
    ):
        Policy.parse({"tokens": {"alice": {"leasse": 1}}})


def test_bytes_that_are_no_text_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe")
    for unreadable in (path, tmp_path, tmp_path / "missing"):
        with pytest.raises(StartError, match=str(tmp_path)):
            Policy.read(unreadable)


# --------------------------------------------------------------------------- who is let in


def test_t27_a_key_that_is_revoked_loses_its_session_within_5_s(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    node, other = operator.proved(1), operator.proved(2)
    visitor = operator.relay.visit(node.lease())
    assert visitor is not None
    node.heard()
    operator.hangup(f'[keys."{ONE}"]\nadmit = false')
    reset, refusal = node.heard()
    assert (reset.opcode, refusal.opcode) == (Opcode.STREAM_RESET, Opcode.REFUSAL)
    assert refusal.payload.code == pb.REFUSAL_DENIED
    operator.relay.pass_time(4.75)
    assert node.lost is not None
    assert visitor.lost is not None
    assert other.lost is None
    again = operator.relay.node(1)
    again.hello()
    again.say(Opcode.PROOF, again.proof(again.take(Opcode.CHALLENGE)))
    assert again.refused() == (pb.REFUSAL_DENIED, 0)


def test_t27_its_ports_are_closed_at_once_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """It is told why and has a second to hear that; its visitors have none, and none is held."""
    operator = Operator(tmp_path, "", times=LeaseTimes(hold=30.0))
    node = operator.proved(1)
    ports = [node.lease(str(mode), mode=mode) for mode in (pb.MODE_STREAMS, pb.MODE_MESSAGES)]
    assert all(operator.relay.visit(port) is not None for port in ports)
    assert operator.relay.run.sockets.bound == set(ports)
    node.heard()
    operator.hangup(f'[keys."{ONE}"]\nadmit = false')
    assert operator.relay.run.sockets.bound == set()
    assert operator.relay.run.registry.counts()["held"] == 0
    assert operator.relay.factory.visitors == 0
    assert [operator.relay.visit(port) for port in ports] == [None, None]
    operator.relay.pass_time(2)
    assert node.lost is not None
    assert operator.relay.run.registry.counts()["remembered"] == 0, "nothing is kept for it"


def test_t27_a_grant_that_is_on_its_way_when_its_key_is_revoked_is_not_held(
    tmp_path: Path,
) -> None:
    with store_thread() as thread:
        operator = Operator(tmp_path, "", times=LeaseTimes(hold=30.0))
        node = operator.proved(1)
        thread.waits = True
        node.ask("web")
        operator.hangup(f'[keys."{ONE}"]\nadmit = false')
        operator.relay.pass_time(2)
        assert node.lost is not None
        thread.all_turns()
        assert operator.relay.run.sockets.bound == set()
        counts = operator.relay.run.registry.counts()
        assert (counts["held"], counts["remembered"], counts["quarantined"]) == (0, 0, 1)


def test_a_node_that_only_goes_away_is_held(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "", times=LeaseTimes(hold=30.0))
    node = operator.proved(1)
    port = node.lease()
    node.transport.abortConnection()
    operator.relay.pump()
    assert operator.relay.visit(port) is not None


def test_a_policy_may_admit_only_whom_it_names(tmp_path: Path) -> None:
    operator = Operator(tmp_path, f'[default]\nadmit = false\n[keys."{ONE}"]\nadmit = true')
    assert operator.proved(1).lease()
    stranger = operator.relay.node(2)
    stranger.hello()
    stranger.say(Opcode.PROOF, stranger.proof(stranger.take(Opcode.CHALLENGE)))
    assert stranger.refused() == (pb.REFUSAL_DENIED, 0)
    claimer = operator.relay.node(3)
    claimer.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
    assert claimer.heard() == []
    operator.relay.pass_time(2)
    assert claimer.lost is not None


def test_claimed_nodes_go_when_the_default_is_no_longer_to_admit(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    claimer = operator.relay.node(3)
    claimer.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
    claimer.take(Opcode.PROXY_RESPONSE)
    operator.hangup("[default]\nadmit = false")
    operator.relay.pass_time(2)
    assert claimer.lost is not None


def test_keys_of_a_certificate_and_of_a_token_are_the_only_ones(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    for entry, caller in (
        ("tokens.alice", {"token": KnownToken(b"t", b"k", "alice")}),
        ('certificates."node.example"', {"certificates": ("x", "node.example")}),
    ):
        path.write_text(f'[{entry}]\nkeys = ["{ONE}"]')
        access = Access(None, path)
        access.check(Caller(ONE, **caller))
        access.check(Caller(TWO))
        with pytest.raises(Exception, match="not one of its token or certificate"):
            access.check(Caller(TWO, **caller))


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "[default]\nleases = 1")
    operator.hangup("rubbish")
    node = operator.proved(1)
    assert node.lease("a")
    refused(node, "b", pb.REFUSAL_QUOTA)


# ------------------------------------------------------------------------ leases, ports, modes


def test_leases_of_one_key_and_of_everybody_else(tmp_path: Path) -> None:
    text = f'[default]\nleases = 1\n[keys."{ONE}"]\nleases = 3'
    operator = Operator(tmp_path, text)
    node = operator.relay.node(1, source=FAR)
    assert node.prove().payload.max_leases == 3
    for origin in "abc":
        assert node.lease(origin)
    refused(node, "d", pb.REFUSAL_QUOTA)
    other = operator.proved(2)
    assert other.lease("a")
    refused(other, "b", pb.REFUSAL_QUOTA)


def test_a_change_holds_for_the_next_request_of_who_is_there(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "[default]\nleases = 1")
    node = operator.proved(1)
    assert node.lease("a")
    refused(node, "b", pb.REFUSAL_QUOTA)
    operator.hangup("[default]\nleases = 2")
    assert node.lease("b")


def test_who_has_a_token_or_an_entry_is_limited_by_that_alone(tmp_path: Path) -> None:
    usual = LeaseQuota()
    path = tmp_path / "policy.toml"
    path.write_text(f'[keys."{ONE}"]\nmodes = ["streams"]\n[tokens.alice]\nleases = 5')
    access = Access(None, path)
    alice, bob = (KnownToken(b"t", b"k", name) for name in ("alice", "bob"))
    assert access.quota(Caller(TWO), usual) == usual
    assert access.quota(Caller(ONE), usual) is None
    assert access.quota(Caller(TWO, bob), usual) is None
    limited = access.quota(Caller(TWO, alice), usual)
    assert limited is not None
    assert limited.per_source == 5
    assert access.charged_to(Caller(TWO, alice)) == "token alice"
    assert access.charged_to(Caller(TWO)) is None


def test_leases_of_a_token_count_together_whatever_the_key(tmp_path: Path) -> None:
    from proxyservice.node.tokens import make_token

    token, line = make_token("alice", None, 0.0)
    (tmp_path / "tokens").write_text(line)
    operator = Operator(tmp_path, "[tokens.alice]\nleases = 2")
    operator.relay.factory.access = Access(tmp_path / "tokens", operator.path)

    def with_token(seed: int) -> RawNode:
        node = operator.relay.node(seed, source=f"203.0.113.{seed}")
        node.hello()
        challenge = node.take(Opcode.CHALLENGE)
        proof = node.proof(challenge)
        proof.token_id, proof.token_signature = token.id, token.sign(node.signed(challenge))
        node.say(Opcode.PROOF, proof)
        assert node.take(Opcode.WELCOME).payload.max_leases == 2
        return node

    assert with_token(1).lease()
    assert with_token(2).lease()
    refused(with_token(3), "", pb.REFUSAL_QUOTA)


def test_modes(tmp_path: Path) -> None:
    operator = Operator(tmp_path, '[default]\nmodes = ["streams"]')
    node = operator.proved(1)
    assert node.lease("a", mode=pb.MODE_STREAMS)
    refused(node, "b", pb.REFUSAL_DENIED, mode=pb.MODE_MESSAGES)
    deployed = operator.relay.node(2)
    deployed.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
    operator.relay.pass_time(2)
    assert deployed.heard() == []
    assert deployed.lost is not None


def test_ports_are_those_of_the_entry(tmp_path: Path) -> None:
    operator = Operator(tmp_path, f'[keys."{ONE}"]\nports = ["20007-20008"]')
    node = operator.proved(1)
    refused(node, "x", pb.REFUSAL_DENIED, proxy_address=":20001")
    assert node.lease("a") == 20007
    assert node.lease("b") == 20008
    refused(node, "c", pb.REFUSAL_EXHAUSTED)
    assert operator.proved(2).lease(proxy_address=":20001") == 20001


def test_a_lease_on_a_port_that_is_not_allowed_any_more_moves_when_asked_for(
    tmp_path: Path,
) -> None:
    operator = Operator(tmp_path, "")
    node = operator.proved(1)
    assert node.lease("a") == 20000
    node.transport.abortConnection()
    operator.hangup(f'[keys."{ONE}"]\nports = ["20007-20008"]')
    assert operator.proved(1).lease("a") == 20007


def test_a_port_of_its_own_is_nobody_elses_and_never_lost(tmp_path: Path) -> None:
    text = f'[keys."{ONE}"]\nport = 20000'
    operator = Operator(tmp_path, text, quota=LeaseQuota(100, 100))
    other = operator.proved(2)
    given = [other.lease(str(number)) for number in range(9)]
    assert 20000 not in given
    refused(other, "wants it", pb.REFUSAL_ADDRESS_UNAVAILABLE, proxy_address=":20000")
    refused(other, "any", pb.REFUSAL_EXHAUSTED)
    owner = operator.proved(1)
    assert owner.lease("a") == 20000
    owner.transport.abortConnection()
    operator.relay.run.pass_time(400 * 86400, step=86400)
    assert operator.relay.run.registry.counts()["remembered"] == 1
    refused(other, "any", pb.REFUSAL_EXHAUSTED)
    owner = operator.proved(1)
    refused(owner, "b", pb.REFUSAL_EXHAUSTED)
    assert owner.lease("a") == 20000, "after years"


def test_whose_port_it_is_no_longer_has_its_lease_for_the_usual_time(tmp_path: Path) -> None:
    operator = Operator(tmp_path, f'[keys."{ONE}"]\nport = 20000')
    owner = operator.proved(1)
    assert owner.lease() == 20000
    owner.transport.abortConnection()
    operator.relay.run.pass_time(400 * 86400, step=86400)
    operator.hangup(f'[keys."{TWO}"]\nport = 20000')
    assert operator.proved(2).lease("a") != 20000
    operator.relay.run.pass_time(31 * 86400, step=86400)
    assert operator.proved(2).lease("b") == 20000


def test_a_second_origin_gets_another_port_than_its_own(tmp_path: Path) -> None:
    operator = Operator(tmp_path, f'[keys."{ONE}"]\nport = 20004')
    node = operator.proved(1)
    assert node.lease("a") == 20004
    assert node.lease("b") != 20004


def test_who_has_the_port_keeps_it_until_its_lease_ends(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    other = operator.proved(2)
    assert other.lease(proxy_address=":20004") == 20004
    operator.hangup(f'[keys."{ONE}"]\nport = 20004')
    owner = operator.proved(1)
    assert owner.lease("a") != 20004
    other.say(Opcode.RELEASE, pb.Release(origin_address=""), 9)
    other.take(Opcode.RELEASE)
    assert operator.proved(1).lease("a") == 20004


# ------------------------------------------------------------------------------- visitors


@pytest.mark.parametrize(
    ("allow", "deny", "host", "allowed"),
    [
        (None, None, "192.0.2.1", True),
        (["10.0.0.0/8"], None, "10.1.2.3", True),
        (["10.0.0.0/8"], None, "192.0.2.1", False),
        (None, ["10.0.0.0/8"], "10.1.2.3", False),
        (None, ["10.0.0.0/8"], "192.0.2.1", True),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.2.3", False),
        (["10.1.2.0/24"], ["10.1.0.0/16"], "10.1.2.3", True),
        (["10.0.0.0/8"], ["10.0.0.0/8"], "10.1.2.3", False),
        (["0.0.0.0/0"], None, "2001:db8::1", False),
        (["::/0"], None, "2001:db8::1", True),
        ([], None, "192.0.2.1", False),
    ],
)
def test_the_longest_network_decides(
    allow: list[str] | None, deny: list[str] | None, host: str, allowed: bool
) -> None:
    said = {"visitor_allow": allow, "visitor_deny": deny}
    given = {name: value for name, value in said.items() if value is not None}
    rules = Policy.parse({"default": given}).default
    assert rules.allows_visitor(host) == allowed
    assert Rules().allows_visitor(host)


def test_t26_visitors_are_checked_at_each_arrival(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    port = operator.proved(1).lease()
    assert operator.relay.visit(port, host="192.0.2.9") is not None
    operator.hangup('[default]\nvisitor_deny = ["192.0.2.0/24"]')
    assert operator.relay.visit(port, host="192.0.2.9") is None
    assert operator.relay.visit(port, host="198.51.100.9") is not None


def test_visitors_of_one_lease(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "[default]\nvisitors = 2\nvisitors_per_second = 5")
    node = operator.relay.node(1, source=FAR)
    assert node.prove().payload.max_visitors == 2
    port = node.lease()
    first, second = operator.relay.visit(port), operator.relay.visit(port)
    assert first is not None
    assert second is not None
    assert operator.relay.visit(port) is None
    for _ in range(3):  # of five a second two are used
        first.transport.abortConnection()
        operator.relay.pump()
        first = operator.relay.visit(port)
        assert first is not None
    first.transport.abortConnection()
    operator.relay.pump()
    assert operator.relay.visit(port) is None, "a sixth within a second"
    operator.relay.clock.advance(0.25)
    assert operator.relay.visit(port) is not None


# ------------------------------------------------ a changed policy, on connections that stand


def arrived(node: RawNode) -> int:
    return sum(len(said.payload) for said in node.heard() if said.opcode == Opcode.STREAM_DATA)


def test_a_new_rate_holds_for_visitors_who_are_there(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "", kernel_bytes=10_000, chunk_bytes=5_000)
    node = operator.proved(1)
    visitor = operator.relay.visit(node.lease())
    assert visitor is not None
    visitor.transport.write(bytes(100_000))
    operator.relay.pump()
    assert arrived(node) == 100_000, "nothing limits it"
    operator.hangup("[default]\nbytes_per_second = 20000")
    visitor.transport.write(bytes(150_000))
    operator.relay.pump()
    assert arrived(node) <= 25_000, "a second's worth, and the read that met the bound"
    operator.relay.pass_time(2)
    assert 30_000 <= arrived(node) <= 50_000
    operator.hangup("")
    operator.relay.pass_time(1)
    assert arrived(node) >= 60_000, "the rest, as fast as it can"


def test_a_new_rate_holds_for_frames_too(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "", kernel_bytes=10_000, chunk_bytes=5_000)
    node = operator.proved(1)
    visitor = operator.relay.visit(node.lease(mode=pb.MODE_MESSAGES))
    assert visitor is not None
    operator.hangup("[default]\nbytes_per_second = 20000")
    frame = application_frame(bytes(900), 5)
    visitor.transport.write(frame * 100)
    operator.relay.pump()
    assert len(node.heard()) * len(frame) <= 25_000
    operator.relay.pass_time(10)
    assert len(node.heard()) * len(frame) >= 60_000


def test_new_visitors_a_second_are_counted_by_the_file_as_it_is(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    port = operator.proved(1).lease()
    assert all(operator.relay.visit(port) is not None for _ in range(5))
    operator.hangup("[default]\nvisitors_per_second = 2")
    assert [operator.relay.visit(port) is not None for _ in range(4)] == [True, True, False, False]
    operator.hangup("[default]\nvisitors_per_second = 100")
    operator.relay.pass_time(0.25)
    assert operator.relay.visit(port) is not None


def test_visitors_whose_network_is_denied_now_are_cut(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    node = operator.proved(1)
    streams, messages = node.lease("a"), node.lease("b", mode=pb.MODE_MESSAGES)
    near, far = "192.0.2.9", "198.51.100.9"
    denied = [operator.relay.visit(port, host=near) for port in (streams, messages)]
    others = [operator.relay.visit(port, host=far) for port in (streams, messages)]
    operator.hangup('[default]\nvisitor_deny = ["192.0.2.0/24"]')
    assert all(visitor is not None and visitor.lost is not None for visitor in denied)
    assert all(visitor is not None and visitor.lost is None for visitor in others)
    assert operator.relay.factory.visitors == 2
    assert node.lost is None


# -------------------------------------------------------------------------- real programs


@pytest.mark.process
def test_with_real_programs(tmp_path: Path, free_port: int) -> None:
    low = 25000 + os.getpid() % 1000 * 4
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    options = ("--policy", str(policy), "--hold", "0")
    relay = Relay(tmp_path / "relay", free_port, range(low, low + 4), *options)
    key = tmp_path / "key"
    made = Program(tmp_path / "keygen", SCRIPTS / "proxyservice", "keygen", "--key", key)
    assert made.ended() == 0
    shown = made.stdout.split()[1]
    programs = [relay]

    def hangup(text: str, said: str) -> None:
        policy.write_text(text)
        relay.process.send_signal(signal.SIGHUP)
        wait_until(lambda: said in relay.stdout)

    def expose(name: str) -> Program:
        directory = tmp_path / name
        command = (SCRIPTS / "proxyservice", "expose", echo.port, "--via", relay.via, "--key", key)
        programs.append(Program(directory, *command, STATE_DIRECTORY=str(directory)))
        return programs[-1]

    try:
        with EchoServer() as echo:
            hangup(f'[keys."{shown}"]\nport = {low + 3}', "was read again")
            node = expose("first")
            address = node.wait_for(r"exposed \d+ at (\S+)")[1]
            assert address.endswith(f":{low + 3}")
            assert visit(address, b"hello") == b"hello"
            hangup("leases = 1", "what was read before stays in use")
            hangup('[default]\nvisitor_deny = ["127.0.0.0/8"]', "was read again")
            wait_until(lambda: relay.stdout.count("was read again") == 2)
            with pytest.raises(ConnectionResetError):
                visit(address, b"hello")
            hangup(f'[keys."{shown}"]\nadmit = false', "does not admit")
            node.wait_for(".*does not admit.*; trying again in 1m.*", stderr=True)
            assert node.end() == 0
    finally:
        for program in programs:
            program.kill()
            assert "Traceback" not in program.stdout + program.stderr


@pytest.mark.process
def test_a_bad_policy_ends_the_start_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[default]\nleasse = 1\n")
    words = ("--state-dir", "state", "--policy", "policy.toml")
    command = (SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", *words)
    program = Program(tmp_path, *command)
    assert program.ended() in (1, 2)
    assert len(program.stderr.splitlines()) == 1, program.stderr
    assert "leasse" in program.stderr
