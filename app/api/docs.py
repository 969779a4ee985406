"""The API documentation at /api/docs: the OpenAPI document as a page without third-party scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, current_app, render_template
from flask.typing import ResponseReturnValue
from flask_login import current_user

from app.api.paths import DOCS_PATH
from flask_belfry.core.access import public

pages = Blueprint("api_docs", __name__)

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of a schema."""

    name: str
    place: str
    value: str
    is_required: bool
    text: str


@dataclass(frozen=True)
class Response:
    """A possible response of an operation; `schema` is the name of its body's schema."""

    status: str
    text: str
    schema: str | None


@dataclass(frozen=True)
class Operation:
    """One method of one path. `scope` is the scope that a personal token needs; None: no personal token is accepted."""

    anchor: str
    method: str
    path: str
    summary: str
    is_public: bool
    scope: str | None
    parameters: list[Field]
    body: str | None
    responses: list[Response]
    example: str


@dataclass(frozen=True)
class Part:
    """The operations of one slice."""

    name: str
    text: str
    operations: list[Operation]


@pages.get(DOCS_PATH)
@public
def show() -> ResponseReturnValue:
    """Show the page, which is public like the document; logged-in users see it with the navigation."""
    document = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"].document()
    reader = Reader(document, current_app.config["PUBLIC_URL"])
    template = "api/docs.html" if current_user.is_authenticated else "api/docs_bare.html"
    return render_template(template, parts=reader.parts(), schemas=reader.schemas())


class Reader:
    """Reads an OpenAPI document for its page.

    Args:
        document: the document.
        url: the URL of the server, for the examples.
    """

    def __init__(self, document: Json, url: str) -> None:
        self.document, self.url = document, url

    def parts(self) -> list[Part]:
        """Return the operations by slice, in the order of the document."""
        operations = [
            (entry["tags"], self._operation(path, method, entry))
            for path, methods in self.document["paths"].items()
            for method, entry in methods.items()
            if method != "parameters"
        ]
        return [
            Part(
                tag["name"].removeprefix("api_").capitalize(),
                tag["description"],
                [operation for tags, operation in operations if tag["name"] in tags],
            )
            for tag in self.document["tags"]
        ]

    def schemas(self) -> dict[str, list[Field]]:
        """Return the fields of each schema that an operation refers to, by the name of the schema."""
        named = {name for part in self.parts() for operation in part.operations for name in _names(operation)}
        return {name: list(self._fields(name)) for name in sorted(named)}

    def _operation(self, path: str, method: str, entry: Json) -> Operation:
        needed = [scope for scheme in entry["security"] for scope in scheme["bearer"]]
        shared = self.document["paths"][path].get("parameters", [])
        return Operation(
            anchor=f"{method}-{path.strip('/').replace('/', '-').translate({123: None, 125: None})}",
            method=method.upper(),
            path=path,
            summary=entry.get("summary", ""),
            is_public=not entry["security"],
            scope=needed[0] if needed else None,
            parameters=[_parameter(each) for each in [*shared, *entry.get("parameters", [])]],
            body=_schema_name(entry.get("requestBody", {})),
            responses=[self._response(*each) for each in sorted(entry["responses"].items())],
            example=self._example(path, method.upper(), entry),
        )

    def _response(self, status: str, response: Json) -> Response:
        described = self._resolved(response)
        return Response(status, described["description"], _schema_name(described))

    def _fields(self, name: str) -> Iterator[Field]:
        schema = self.document["components"]["schemas"][name]
        for field, of_field in schema.get("properties", {}).items():
            is_required = field in schema.get("required", ())
            yield Field(field, "body", in_words(of_field), is_required, of_field.get("description", ""))

    def _resolved(self, value: Json) -> Json:
        found: Any = value
        while "$ref" in found:
            where = found["$ref"].removeprefix("#/").split("/")
            found = self.document
            for step in where:
                found = found[step]
        return found

    def _example(self, path: str, method: str, entry: Json) -> str:
        lines = [f"curl {'' if method == 'GET' else f'-X {method} '}{self.url}{path}"]
        if entry["security"]:
            lines.append("-H 'Authorization: Bearer TOKEN'")
        if name := _schema_name(entry.get("requestBody", {})):
            body = json.dumps(self._sample_object(self.document["components"]["schemas"][name]))
            lines += ["-H 'Content-Type: application/json'", f"-d '{body}'"]
        return " \\\n  ".join(lines)

    def _sample_object(self, schema: Json) -> dict[str, Any]:
        properties = schema["properties"]
        shown = schema.get("required") or list(properties)[:1]
        return {name: _sample(name, self._resolved(properties[name])) for name in shown}


def in_words(schema: Json) -> str:
    """Describe the values of a schema, for example `integer, 15 to 1440, 60 by default`."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return "one of " + ", ".join(str(choice) for choice in schema["enum"] if choice is not None)
    kinds = schema.get("type", "any")
    kind = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "items" in schema:
        kind = f"{kind} of {in_words(schema['items'])}"
    parts = [kind, schema.get("format"), _span(schema, "minimum", "maximum"), _length(schema)]
    default = schema.get("default")
    return ", ".join([part for part in parts if part] + ([f"{default} by default"] if default is not None else []))


def _length(schema: Json) -> str:
    span = _span(schema, "minLength", "maxLength")
    return f"{span} characters" if span else ""


def _span(schema: Json, least: str, most: str) -> str:
    if least in schema and most in schema:
        return f"{schema[least]} to {schema[most]}"
    if most in schema:
        return f"at most {schema[most]}"
    return f"at least {schema[least]}" if least in schema else ""


def _parameter(given: Json) -> Field:
    is_required = given.get("required", False)
    return Field(given["name"], given["in"], in_words(given["schema"]), is_required, given.get("description", ""))


def _schema_name(holder: Json) -> str | None:
    for of_type in holder.get("content", {}).values():
        return of_type["schema"]["$ref"].rpartition("/")[2]
    return None


def _names(operation: Operation) -> Iterator[str]:
    for name in (operation.body, *(response.schema for response in operation.responses)):
        if name:
            yield name


def _sample(name: str, schema: Json) -> Any:
    if schema.get("format") == "date-time":
        return "2030-01-15T09:00:00Z"
    if "items" in schema:
        return [_sample(name, schema["items"])]
    if "enum" in schema:
        return schema["enum"][0]
    kinds = schema.get("type", "string")
    return schema.get("minimum", 1) if "integer" in kinds else name.upper()
