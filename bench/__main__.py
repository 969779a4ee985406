"""`python -m bench [CASE…]`: runs the cases and prints one line per figure."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict

from bench.contestants import BELFRY, DESKS, QUEUES, Desk, Queue
from bench.figures import line, median
from bench.ground import Grounds

DATABASES = ("sqlite", "postgresql")
LOAD = {
    "sqlite": "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count}) "
    "INSERT INTO reservations (id, customer_id, start_time, duration_minutes, end_time, party_size, note, status, created_at, updated_at) "
    "SELECT i, (i - 1) % {customers} + 1, strftime('%Y-%m-%d %H:%M:%S', '2030-01-01', i || ' minutes') || '.000000', 60, strftime('%Y-%m-%d %H:%M:%S', '2030-01-01', (i + 60) || ' minutes') || '.000000', 2, '', 'pending', '2029-01-01 00:00:00.000000', '2029-01-01 00:00:00.000000' FROM numbers",
    "postgresql": "INSERT INTO reservations (id, customer_id, start_time, duration_minutes, end_time, party_size, note, status, created_at, updated_at) "
    "SELECT i, (i - 1) % {customers} + 1, timestamptz '2030-01-01 00:00Z' + i * interval '1 minute', 60, timestamptz '2030-01-01 01:00Z' + i * interval '1 minute', 2, '', 'pending', '2029-01-01 00:00Z', '2029-01-01 00:00Z' FROM generate_series(1, {count}) AS i",
}


def noop_belfry(grounds: Grounds, database: str) -> float:
    with grounds.fresh(database) as ground:
        BELFRY.step(ground, "prepare", 1)
        BELFRY.step(ground, "enqueue_noops", 10_000)
        BELFRY.start_workers(ground)
        live = "SELECT 1 FROM job_records WHERE state NOT IN ('completed', 'failed', 'cancelled') LIMIT 1"
        ground.wait(lambda: ground.query(live) is None, every=0.25)
        if database == "sqlite":
            span = "(julianday(max(finished_at)) - julianday(min(started_at))) * 86400"
        else:
            span = "EXTRACT(EPOCH FROM max(finished_at) - min(started_at))"
        count, seconds = ground.query(f"SELECT count(*), {span} FROM job_records WHERE state = 'completed'")
        return count / float(seconds)


def noop_queue(grounds: Grounds, queue: Queue) -> float:
    count = int(10_000 * queue.share)
    with grounds.fresh("sqlite") as ground:
        queue.run(ground, "-c", f"import tasks; tasks.send({count})")
        broker = ground.valkey.client()
        assert queue.left(broker) == count, queue.left(broker)
        queue.start_workers(ground)
        ground.wait(lambda: queue.left(broker) < count, every=0.005)
        begun = time.monotonic()
        ground.wait(lambda: queue.left(broker) == 0, every=0.01)
        return count / (time.monotonic() - begun)


def mails(grounds: Grounds, desk: Desk, database: str, count: int, delay: float) -> float:
    with grounds.fresh(database, delay) as ground:
        desk.step(ground, "prepare", 1_000)
        ground.execute(LOAD[database].format(count=count, customers=1_000))
        desk.step(ground, "confirm")
        desk.start_workers(ground)
        ground.wait(lambda: len(ground.accepted()) >= count)
        accepted = ground.accepted()
        return (len(accepted) - 1) / (accepted[-1] - accepted[0])


def case_noop(grounds, databases, rounds, scale):
    taken = defaultdict(list)
    for _ in range(rounds):
        for database in databases:
            taken[f"noop.{database}.belfry"].append(noop_belfry(grounds, database))
        for queue in QUEUES:
            taken[f"noop.{queue.name}"].append(noop_queue(grounds, queue))
            print(dict(taken), file=sys.stderr)
    for name, values in taken.items():
        print(line(name, median(values), "jobs/s"))
    for database in databases:
        for queue in QUEUES:
            print(
                line(
                    f"noop.{database}.ratio_to_{queue.name}",
                    median(taken[f"noop.{database}.belfry"]) / median(taken[f"noop.{queue.name}"]),
                    "x",
                )
            )


def _mails(name, counts, delay):
    def run(grounds, databases, rounds, scale):
        for database in databases:
            taken = defaultdict(list)
            for _ in range(rounds):
                for desk in DESKS:
                    taken[desk.name].append(mails(grounds, desk, database, counts[desk.name], delay))
                    print(dict(taken), file=sys.stderr)
            for desk, values in taken.items():
                print(line(f"{name}.{database}.{desk}", median(values), "mails/s"))
            print(
                line(f"{name}.{database}.ratio_to_celery", median(taken["belfry"]) / median(taken["celery"]), "x"),
                flush=True,
            )

    return run


CASES = {
    "noop": case_noop,
    "mails": _mails("mails", {"belfry": 5_000, "celery": 2_000}, 0.0),
    "mails_50ms": _mails("mails_50ms", {"belfry": 3_000, "celery": 300}, 0.05),
}


def main(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--database", choices=DATABASES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(words)
    with Grounds() as grounds:
        for name in options.cases or CASES:
            CASES[name](grounds, [options.database] if options.database else DATABASES, options.rounds, 1)


main(sys.argv[1:])
