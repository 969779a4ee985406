"""Answers that show a mail inside a frame: nothing in it runs, loads or reaches the page around it."""

from __future__ import annotations

from flask import Response

FRAME_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",  # inlined styles are what mail is made of
        "img-src 'self' data:",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "sandbox allow-popups allow-popups-to-escape-sandbox",
    )
)


def html_frame(html: str) -> Response:
    """A mail's HTML; its links open beside the page."""
    shown = html.replace("<head>", '<head><base target="_blank">', 1)
    return Response(shown, mimetype="text/html", headers={"Content-Security-Policy": FRAME_POLICY})


def text_frame(text: str) -> Response:
    """Plain text."""
    return Response(text, mimetype="text/plain", headers={"Content-Security-Policy": FRAME_POLICY})
