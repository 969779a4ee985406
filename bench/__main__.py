"""`python -m bench [CASE…]`: runs the cases, on SQLite and on PostgreSQL, and prints one line per figure."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from app.extensions import db
from app.mail import EmailMessage, MailRequest, send_mail, send_mails
from app.outbox import JobRequest, enqueue_many
from bench.stack import Stack, stack, wait

DATABASES = ("sqlite", "postgresql")
WORKERS = 2
NOOPS = 20_000
MAILS = 5_000
SLOW_MAILS = 1_000
LATENCIES = 100
KIND = "test-message"
CONTEXT = {"server": "bench"}


def noop_jobs(database: str) -> None:
    """Jobs that do nothing, one record each with its history, by two processes."""
    with stack(database) as running:
        enqueue_many("bench.noop", [JobRequest({"n": n}) for n in range(NOOPS)])
        db.session.commit()
        running.start_workers(WORKERS)
        running.wait_until_done("bench.noop")
        figure(f"noop_jobs.{database}", running.rate("bench.noop"), "jobs/s")


def mails(database: str) -> None:
    """Mails with one job each, by two processes, to a server that answers at once."""
    _mails(database, MAILS, 0.0, "mails")


def slow_mails(database: str) -> None:
    """The same to a server that takes 50 ms for each."""
    _mails(database, SLOW_MAILS, 0.05, "mails_50ms")


def mail_latency(database: str) -> None:
    """From the commit that asks for a mail to its acceptance by the server, on an idle system."""
    with stack(database) as running:
        running.start_workers(WORKERS)
        times = sorted(_latency(running, n) for n in range(LATENCIES))
        figure(f"mail_latency_p50.{database}", statistics.median(times) * 1_000, "ms")
        figure(f"mail_latency_p99.{database}", times[int(len(times) * 0.99) - 1] * 1_000, "ms")


CASES: dict[str, Callable[[str], None]] = {case.__name__: case for case in (noop_jobs, mails, slow_mails, mail_latency)}


def figure(name: str, value: float, unit: str) -> None:
    """Prints one figure."""
    print(f"{name} {value:.1f} {unit}", flush=True)


def _mails(database: str, count: int, delay_seconds: float, name: str) -> None:
    with stack(database, delay_seconds) as running:
        send_mails(KIND, [MailRequest([f"p{n}@example.org"], f"bench/{n}", CONTEXT) for n in range(count)])
        db.session.commit()
        running.start_workers(WORKERS)
        running.wait_until_done("mail.deliver")
        figure(f"{name}.{database}", running.rate("mail.deliver"), "mails/s")


def _latency(running: Stack, n: int) -> float:
    mail_id = send_mail(KIND, "latency@example.org", f"latency/{n}", context=CONTEXT)
    mail = db.session.get(EmailMessage, mail_id)
    message_id = mail.message_id if mail else ""
    db.session.commit()
    asked_at = time.time()
    db.session.remove()
    wait(lambda: message_id in running.smtp_log.read_text(), seconds=30)
    lines = dict(line.split() for line in running.smtp_log.read_text().splitlines())
    return float(lines[message_id]) - asked_at


def main(names: list[str]) -> None:
    """Runs the named cases, or all."""
    for name in names or CASES:
        if name not in CASES:
            sys.exit(f"bench: no case is named {name!r}: there are {', '.join(CASES)}")
        for database in DATABASES:
            CASES[name](database)


if __name__ == "__main__":
    main(sys.argv[1:])
