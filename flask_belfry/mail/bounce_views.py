"""The endpoint to which a mail server, or a mail service, sends the messages to the bounce address."""

from __future__ import annotations

import hmac

from flask import Blueprint, current_app, jsonify, request
from flask.typing import ResponseReturnValue

from flask_belfry.core.access import accept_body, public
from flask_belfry.core.errors import AppError, NotFoundError
from flask_belfry.core.text import query_text
from flask_belfry.db import db
from flask_belfry.mail.bounces import MAX_MESSAGE_BYTES, EarlyBounceError, record_bounce

pages = Blueprint("bounces", __name__, url_prefix="/mail")


@pages.post("/bounces")
@accept_body(MAX_MESSAGE_BYTES)
@public
def receive() -> ResponseReturnValue:
    """Record the bounce in the body (message/rfc822); `recipient` in the query is the recipient of its envelope.

    The bearer token MAIL_BOUNCE_TOKEN is required; there is no session, so the check of forms (CSRF) does not apply.
    """
    token: str | None = current_app.config["MAIL_BOUNCE_TOKEN"]
    if token is None:
        raise NotFoundError("MAIL_BOUNCE_TOKEN is not set.")
    given = request.authorization
    presented = (given.token if given is not None and given.type == "bearer" else None) or ""
    if not hmac.compare_digest(presented.encode(errors="replace"), token.encode()):
        return jsonify(error="The token is missing or wrong."), 401, {"WWW-Authenticate": "Bearer"}
    try:
        bounce = record_bounce(request.get_data(), query_text("recipient"))
    except EarlyBounceError as error:
        db.session.rollback()
        return jsonify(error=error.message), error.status, {"Retry-After": "60"}
    except AppError as error:
        db.session.rollback()
        return jsonify(error=error.message), error.status
    db.session.commit()
    return jsonify(result=bounce.result.value, mail_id=bounce.mail_id, code=bounce.code), 202
