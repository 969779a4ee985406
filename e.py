from pathlib import Path
def edit(path, *pairs):
    p = Path(path); t = p.read_text()
    for a, b in pairs:
        assert t.count(a) == 1, (path, a, t.count(a))
        t = t.replace(a, b)
    p.write_text(t)
edit("tests/chaos/logs.py", ('''    """Return the transactions of each deadlock in the log of a PostgreSQL: it is resolved by an error of one of them."""
''','''    """Return the transactions of each deadlock in the log of a PostgreSQL, which resolves it by an error of one."""
'''))
edit("tests/chaos/notices.py", ('''    # `finish` when the notification is opened again, `fall_back` when it is cancelled, and `send_scheduled` by a change.
''','''    # When the notification is opened again, when it is cancelled, and when it is scheduled for another time.
'''))
edit("tests/unit/test_chaos.py", ('''    assert "Process 7 waits for" in deadlock and deadlock.endswith("Process 8: SELECT 1")
''','''    assert "Process 7 waits for" in deadlock
    assert deadlock.endswith("Process 8: SELECT 1")
'''))
edit("tests/chaos/facts.py", ('''        cancelled_jobs=frozenset(db.session.scalars(sa.select(CancelledJob.job_id))),
''','''        cancelled_jobs=_cancelled_jobs(),
'''),
('''        cancelled_jobs: the ids of jobs of notifications that were cancelled alone.
''','''        cancelled_jobs: the ids of jobs that users have cancelled, alone or by bulk operations.
'''),
('''def _operations() ->''','''def _cancelled_jobs() -> frozenset[str]:
    by_operations = sa.select(BulkOperationJob.job_id).join(
        BulkOperation, BulkOperation.id == BulkOperationJob.operation_id
    )
    of_cancels = by_operations.where(BulkOperation.kind == BulkKind.CANCEL)
    return frozenset([*db.session.scalars(sa.select(CancelledJob.job_id)), *db.session.scalars(of_cancels)])


def _operations() ->'''))
edit("tests/chaos/comparison.py",
('''        is_explained = not facts.poisoned.isdisjoint([job.id, job.after_id]) or job.name == BROKEN or job.id in explained
''','''        is_explained = not (facts.poisoned | explained).isdisjoint([job.id, job.after_id]) or job.name == BROKEN
'''))
