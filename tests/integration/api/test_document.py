"""The OpenAPI document is true: schemathesis sends what it allows and what it forbids, and compares the answers."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from app.accounts import Role
from tests.reservation_factories import bearer, make_reservation, make_resource, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# A document cannot say that a time lies in the future or that a customer exists: such a request is valid, and refused.
CONFIG = {
    "checks": {
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", "3xx", "401", "403", "404", "409", "412", "422"],
        },
        # A body that is too long for its schema may be too long for any.
        "negative_data_rejection": {
            "expected-statuses": ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"],
        },
    }
}


def test_every_operation_answers_as_documented(app):
    app.config["RATE_LIMITS_ENABLED"] = False  # it sends more in a second than they let through in an hour
    make_resource()
    make_reservation()
    config = SchemathesisConfig.from_dict(CONFIG)
    document = schemathesis.openapi.from_wsgi("/api/openapi.json", app, config=config)
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        for mode in GenerationMode:
            exercise(operation.as_strategy(generation_mode=mode), bearer(make_user(Role.ADMIN)))


def exercise(cases, headers: dict[str, str]) -> None:
    """Sends some of the operation's cases, and runs every check on each answer."""

    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def answer(case) -> None:
        case.call_and_validate(headers=headers)

    answer()
