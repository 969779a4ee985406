"""Requests that are malformed in places which the libraries take for granted: each gets the 4xx that belongs to it."""

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
    """A parser of forms. A part without a name is no field, and what reads fields fails at it."""

    def parse(self, stream: IO[bytes], mimetype: str, content_length: int | None, options: Any = None) -> Any:
        """Called with the first look at a form. Raises BadRequest."""
        stream, form, files = super().parse(stream, mimetype, content_length, options)
        if None in form or None in files:
            raise BadRequest("A part of the form has no name.")
        return stream, form, files


class WellFormedRequest(Request):
    """A request whose form and credentials can be read."""

    form_data_parser_class = NamedPartsParser

    @property
    def authorization(self) -> Authorization | None:
        """The credentials; None when they cannot be read."""
        try:
            return super().authorization
        except ValueError:  # not ASCII where it is to be Base64
            return None

    @property
    def is_json(self) -> bool:
        """False: a form would accept JSON, with values that are not text. The API reads its bodies itself."""
        return False


class HostCheck:
    """A middleware that refuses a Host header which is not a host: routes and links cannot be built from it."""

    def __init__(self, application: WSGIApplication) -> None:
        self.application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Called with every request."""
        host = environ.get("HTTP_HOST", "")
        if not host or is_host(host):
            return self.application(environ, start_response)
        return BadRequest("The Host header is not a host name.").get_response(environ)(environ, start_response)


def init_app(app: Flask) -> None:
    """Has `app` refuse malformed requests. Must come before what else wraps `wsgi_app`."""
    app.request_class = WellFormedRequest
    app.wsgi_app = HostCheck(app.wsgi_app)


def is_host(text: str) -> bool:
    """Whether a Host header names a host, with or without a port."""
    if len(text) > MAX_HOST_CHARACTERS or not HOST.fullmatch(text):
        return False
    try:
        text.encode("idna").decode("idna")
    except UnicodeError:
        return False
    return True
