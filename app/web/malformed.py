"""Malformed requests that the libraries do not handle; each gets a 4xx response."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from flask import Flask, Request
from werkzeug.datastructures import Authorization
from werkzeug.exceptions import BadRequest
from werkzeug.formparser import FormDataParser

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?:{LABEL}(?:\.{LABEL})*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{0,5}})?")
MAX_HOST_CHARACTERS = 260


class NamedPartsParser(FormDataParser):
    """A form parser that rejects parts without a name, which fail where fields are read."""

    def parse(self, stream: IO[bytes], mimetype: str, content_length: int | None, options: Any = None) -> Any:
        """Parse the form at its first access. Raises BadRequest."""
        stream, form, files = super().parse(stream, mimetype, content_length, options)
        if None in form or None in files:
            raise BadRequest("A part of the form has no name.")
        return stream, form, files


class WellFormedRequest(Request):
    """A request whose form and credentials can be read."""

    form_data_parser_class = NamedPartsParser

    @property
    def authorization(self) -> Authorization | None:
        """The credentials, or None if they cannot be parsed."""
        try:
            return super().authorization
        except ValueError:  # not ASCII instead of Base64
            return None

    @property
    def is_json(self) -> bool:
        """Always False: forms would accept JSON with values that are not text. The API parses its own bodies."""
        return False


class HostCheck:
    """A middleware that rejects an invalid Host header, from which no routes and URLs can be built."""

    def __init__(self, application: WSGIApplication) -> None:
        self.application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle a request."""
        host = environ.get("HTTP_HOST", "")
        if not host or is_host(host):
            return self.application(environ, start_response)
        return BadRequest("The Host header is not a host name.").get_response(environ)(environ, start_response)


def init_app(app: Flask) -> None:
    """Reject malformed requests of `app`. Must come before everything else that wraps `wsgi_app`."""
    app.request_class = WellFormedRequest
    app.wsgi_app = HostCheck(app.wsgi_app)


def is_host(text: str) -> bool:
    """Return whether a Host header is a valid host, with or without a port."""
    if len(text) > MAX_HOST_CHARACTERS or not HOST.fullmatch(text):
        return False
    try:
        text.encode("idna").decode("idna")
    except UnicodeError:
        return False
    return True
