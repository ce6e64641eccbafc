"""A certificate that ends: said in time and again, and renewed as the docs say it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from proxyservice.server.certificate_watch import DAY, CertificateWatch
from proxyservice.server.tls import ServerCertificate
from tests.node.processes import Program, wait_until
from tests.server.certificates import Authority, serve

SYSTEMD = Path(__file__).parents[2] / "examples" / "systemd"
HOUR = 3600.0


class Watched:
    """A certificate, and a wall clock that runs as the test says."""

    def __init__(
        self, directory: Path, authority: Authority, days: int, client_ca: Path | None = None
    ) -> None:
        self._authority = authority
        files = authority.issue("relay", days=days)
        self.certificate = ServerCertificate(files[0], files[1], client_ca)
        self.clock = Clock()
        self.now = time.time()
        self.clock.advance(self.now)
        self.watch = CertificateWatch(
            self.clock, lambda: self.certificate.validities, self.clock.seconds
        )

    def said(self, days: float) -> list[tuple[LogLevel, str]]:
        """What is said in so many days."""
        with capturedLogs() as logged:
            self.clock.pump([HOUR] * round(days * 24))
        return [(one["log_level"], one["log_format"].format(**one)) for one in logged]

    def reloaded(self, days: int | None = None) -> list[str]:
        if days is not None:
            self._authority.issue("relay", days=days)
        with capturedLogs() as logged:
            self.certificate.reload()
            self.watch.look()
        return [one["log_format"].format(**one) for one in logged]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_from_14_days_before_its_end_on_it_is_said_each_day(
    tmp_path: Path, authority: Authority
) -> None:
    watched = Watched(tmp_path, authority, days=20)
    with capturedLogs() as logged:
        watched.watch.start()
    assert not logged
    assert watched.said(5.9) == []
    said = watched.said(10)
    assert [level for level, _ in said] == [LogLevel.warn] * 10
    assert "ends in 13 days, at 20" in said[0][1]
    assert "ends in 4 days" in said[-1][1]
    assert "send SIGHUP" in said[0][1]
    said = watched.said(4.5)
    assert "hours" in said[-2][1]
    assert said[-1][0] is LogLevel.error
    assert "has ended at" in said[-1][1]
    said = watched.said(3)
    assert [level for level, _ in said] == [LogLevel.error] * 3


def test_at_the_start_and_after_each_reading_it_is_said_again(
    tmp_path: Path, authority: Authority
) -> None:
    watched = Watched(tmp_path, authority, days=9)
    with capturedLogs() as logged:
        watched.watch.start()
    assert len(logged) == 1
    read, warned = watched.reloaded()
    assert read.endswith("was read again; it is the one from before")
    assert "ends in 8 days" in warned
    (read,) = watched.reloaded(days=60)
    assert read.endswith("was read again")
    assert watched.said(40) == []
    assert len(watched.said(9.5)) == 4


def test_what_has_ended_or_not_begun_is_an_error(tmp_path: Path, authority: Authority) -> None:
    watched = Watched(tmp_path, authority, days=-1)
    assert "has ended at" in watched.reloaded()[1]
    watched = Watched(tmp_path, authority, days=60)
    watched.clock.rightNow -= 20 * DAY  # not before ten days ago
    assert "is good from" in watched.reloaded()[1]
    watched.clock.rightNow = 0.0
    watched.watch.look()


def test_a_file_that_is_no_good_leaves_the_old_one_which_still_ends(
    tmp_path: Path, authority: Authority
) -> None:
    watched = Watched(tmp_path, authority, days=9)
    (tmp_path / "relay.key").write_text("no key")
    refused, warned = watched.reloaded()
    assert refused.startswith("the old certificate stays in use")
    assert "ends in 8 days" in warned


def test_a_chain_ends_with_its_first_and_authorities_with_their_last(
    tmp_path: Path, authority: Authority
) -> None:
    middle = authority.issue("middle", days=3)[0].read_bytes()
    old = authority.issue("old", days=-2)[0].read_bytes()
    both = tmp_path / "both.pem"
    both.write_bytes(old + authority.issue("new", days=99)[0].read_bytes())
    certificate, key, _ = authority.issue("relay", days=99)
    certificate.write_bytes(certificate.read_bytes() + middle)
    found = ServerCertificate(certificate, key, both).validities
    left = [round((one.ends - time.time()) / DAY) for one in found]
    assert (left, [one.path for one in found]) == ([3, 99], [certificate, both])


@pytest.mark.process
def test_the_service_says_it(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    files = authority.issue("relay", days=9)
    relay = serve(started, tmp_path, free_port, files)
    relay.wait_for(f"certificate {files[0]} ends in 8 days, at .* UTC; renew it, and send SIGHUP")
    relay.process.send_signal(signal.SIGHUP)
    wait_until(lambda: relay.stdout.count("ends in 8 days") == 2)
    assert "was read again; it is the one from before" in relay.stdout
    authority.issue("relay", days=60)
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for(f"certificate {files[0]} was read again")
    assert relay.stdout.count("ends in 8 days") == 2


# ----------------------------------------------------------------------- what is shipped


def test_the_deploy_hook_gives_the_group_a_copy_and_has_it_read(tmp_path: Path) -> None:
    lineage, target, programs = (tmp_path / name for name in ("live", "tls", "bin"))
    (tmp_path / "archive").mkdir()
    lineage.mkdir()
    programs.mkdir()
    for name in ("fullchain", "privkey"):
        (tmp_path / "archive" / f"{name}1.pem").write_text(f"{name} one")
        (lineage / f"{name}.pem").symlink_to(f"../archive/{name}1.pem")
    called = tmp_path / "called"
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    (programs / "systemctl").chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RENEWED_LINEAGE": str(lineage),
        "PROXYSERVICE_TLS_DIRECTORY": str(target),
        "PROXYSERVICE_TLS_GROUP": str(os.getgid()),
    }
    for text in ("one", "two"):
        for name in ("fullchain", "privkey"):
            (lineage / f"{name}.pem").write_text(f"{name} {text}")
        subprocess.run([SYSTEMD / "deploy-hook"], env=environment, check=True, timeout=30)
        for name in ("fullchain", "privkey"):
            path = target / f"{name}.pem"
            assert path.read_text() == f"{name} {text}"
            assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(target)) == ["fullchain.pem", "privkey.pem"]
    assert target.stat().st_mode & 0o777 == 0o750
    assert called.read_text() == "try-reload-or-restart proxyservice\n" * 2


def test_the_unit_can_be_reloaded_and_its_certificate_changed() -> None:
    unit = (SYSTEMD / "proxyservice.service").read_text()
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in unit
    docs = Path(__file__).parents[2] / "docs"
    for text in (unit, *(path.read_text() for path in docs.glob("*.md"))):
        lines = [line.strip() for line in text.splitlines()]
        assert not [line for line in lines if line.startswith("LoadCredential=")]
    drop_in = (SYSTEMD / "tls.conf").read_text()
    assert "--tls-key /etc/proxyservice/tls/privkey.pem" in drop_in
    assert "/etc/proxyservice/tls}" in (SYSTEMD / "deploy-hook").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_understands_the_unit_with_its_drop_in(tmp_path: Path) -> None:
    python = tmp_path / "twistd"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    for name in ("proxyservice.service", "proxyservice.socket"):
        text = (SYSTEMD / name).read_text().replace("/opt/proxyservice/bin/twistd", str(python))
        (tmp_path / name).write_text(text)
    (tmp_path / "proxyservice.service.d").mkdir()
    text = (SYSTEMD / "tls.conf").read_text().replace("/opt/proxyservice/bin/twistd", str(python))
    (tmp_path / "proxyservice.service.d" / "tls.conf").write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "proxyservice.service"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    ours = [line for line in verified.stderr.splitlines() if "proxyservice" in line]
    assert not ours, verified.stderr
