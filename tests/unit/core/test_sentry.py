"""What is left of an event of Sentry."""

from __future__ import annotations

import json

from flask_belfry.core.sentry import scrub


def test_only_known_fields_are_sent_also_when_a_later_version_of_the_package_adds_some():
    frame = {"function": "act", "vars": {"email": "anna"}, "new": "anna"}
    exception = {
        "type": "ValueError",
        "value": "anna",
        "new": "anna",
        "mechanism": {"type": "generic", "data": {"email": "anna"}},
        "stacktrace": {"frames": [frame]},
    }
    event = {"event_id": "1", "request": {"url": "anna"}, "new": "anna", "exception": {"values": [exception]}}
    scrubbed = scrub(event, None)
    assert "anna" not in json.dumps(scrubbed)
    assert scrubbed["event_id"] == "1"
    assert scrubbed["exception"]["values"][0]["stacktrace"] == {"frames": [{"function": "act"}]}
