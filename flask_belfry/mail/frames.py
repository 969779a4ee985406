"""Responses that show a mail in a frame, with a policy that allows no scripts, external resources or forms."""

from __future__ import annotations

from flask import Response

FRAME_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",  # the CSS of mails is inlined
        "img-src 'self' data:",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "sandbox allow-popups allow-popups-to-escape-sandbox",
    )
)


def html_frame(html: str) -> Response:
    """Return the HTML of a mail; its links open in a new tab."""
    shown = html.replace("<head>", '<head><base target="_blank">', 1)
    return Response(shown, mimetype="text/html", headers={"Content-Security-Policy": FRAME_POLICY})


def text_frame(text: str) -> Response:
    """Return plain text."""
    return Response(text, mimetype="text/plain", headers={"Content-Security-Policy": FRAME_POLICY})
