"""The SMTP server of the development inbox, in a separate process."""

from __future__ import annotations

import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_belfry.mail.inbox_store import prune

SERVE = "import sys; from pathlib import Path; from flask_belfry.mail.catcher import serve; serve(Path(sys.argv[1]))"


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    folder = tmp_path / "inbox"
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (folder / "port").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    yield folder, process
    process.kill()
    process.wait()


def test_a_mail_is_stored_unchanged_below_its_envelope(
    inbox: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    folder, _ = inbox

    with smtplib.SMTP("127.0.0.1", int((folder / "port").read_text()), timeout=10) as server:
        server.sendmail("desk@example.org", ["a@example.org", "b@example.org"], b"Subject: Hello\r\n\r\nText\r\n")

    (mail,) = folder.glob("*.eml")
    assert mail.read_bytes() == (
        b"X-Envelope-From: desk@example.org\r\nX-Envelope-To: a@example.org, b@example.org\r\n"
        b"Subject: Hello\r\n\r\nText\r\n"
    )
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_cleanly_and_removes_the_port_file(
    inbox: tuple[Path, subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    folder, process = inbox

    process.send_signal(number)

    assert process.wait(timeout=10) == 0
    assert not (folder / "port").exists()


def test_only_the_newest_mails_are_kept(tmp_path: Path) -> None:
    for minute in range(10):
        (tmp_path / f"20260101T10{minute:02}00.000000Z-ab.eml").touch()

    prune(tmp_path, keep=3)

    assert sorted(path.name[11:13] for path in tmp_path.iterdir()) == ["07", "08", "09"]
