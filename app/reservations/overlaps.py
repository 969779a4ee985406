"""The database constraint against double booking: open reservations of a resource never overlap, whatever writes.

The statements are constants because the migration runs the same text. On SQLite a batch migration of the table
drops its triggers and must create them again.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from app.reservations.models import OPEN, Reservation

OVERLAP_NAME = "reservation_overlaps"

_OPEN_STATUSES = ", ".join(f"'{status.value}'" for status in OPEN)
_HOLDS_RESOURCE = f"resource_id IS NOT NULL AND status IN ({_OPEN_STATUSES})"

# int8range replaces "=": without the btree_gist extension, GiST has no equality of integers.
POSTGRESQL_OVERLAP_DDL = (
    f"ALTER TABLE reservations ADD CONSTRAINT {OVERLAP_NAME} EXCLUDE USING gist ("
    "int8range(resource_id, resource_id, '[]') WITH &&, tstzrange(start_time, end_time) WITH &&"
    f") WHERE ({_HOLDS_RESOURCE})",
)
POSTGRESQL_OVERLAP_DROP_DDL = (f"ALTER TABLE reservations DROP CONSTRAINT {OVERLAP_NAME}",)


_SQLITE_OVERLAP_TEST = (
    f"WHEN NEW.resource_id IS NOT NULL AND NEW.status IN ({_OPEN_STATUSES}) "  # noqa: S608 - constants
    f"BEGIN SELECT RAISE(ABORT, '{OVERLAP_NAME}') WHERE EXISTS (SELECT 1 FROM reservations "
    f"WHERE resource_id = NEW.resource_id AND status IN ({_OPEN_STATUSES}) "
    "AND start_time < NEW.end_time AND end_time > NEW.start_time AND id IS NOT {own_id}); END"
)


SQLITE_OVERLAP_DDL = (
    "CREATE TRIGGER reservations_no_overlap_insert BEFORE INSERT ON reservations "
    + _SQLITE_OVERLAP_TEST.format(own_id="NULL"),
    "CREATE TRIGGER reservations_no_overlap_update "
    "BEFORE UPDATE OF resource_id, start_time, end_time, status ON reservations "
    + _SQLITE_OVERLAP_TEST.format(own_id="OLD.id"),
)
SQLITE_OVERLAP_DROP_DDL = (
    "DROP TRIGGER reservations_no_overlap_insert",
    "DROP TRIGGER reservations_no_overlap_update",
)

OVERLAP_DDL = {"postgresql": POSTGRESQL_OVERLAP_DDL, "sqlite": SQLITE_OVERLAP_DDL}
OVERLAP_DROP_DDL = {"postgresql": POSTGRESQL_OVERLAP_DROP_DDL, "sqlite": SQLITE_OVERLAP_DROP_DDL}

for _dialect, _statements in OVERLAP_DDL.items():
    for _statement in _statements:
        event.listen(
            Reservation.metadata.tables["reservations"], "after_create", sa.DDL(_statement).execute_if(dialect=_dialect)
        )


def is_overlap(error: IntegrityError) -> bool:
    """Return whether an integrity error is a double booking."""
    return OVERLAP_NAME in str(error.orig)
