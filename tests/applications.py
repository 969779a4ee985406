"""Applications for tests. Each test has one of its own: what does not depend on its settings is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule

import jobs
from app import create_app

if TYPE_CHECKING:
    from app.admin.view import PanelView


class CompiledTemplates(BytecodeCache):
    """Keeps compiled templates for the next test's application."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Called before a template is compiled."""
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Called after a template was compiled."""
        self._code[bucket.key, bucket.checksum] = bucket.code


TEMPLATES = CompiledTemplates()


def make_app(environ: dict[str, Any], folder: Path) -> Flask:
    """Return an application over `environ` with the jobs of the project and of the test's domain."""
    with _described_panel():
        app = create_app(environ=environ, instance_path=folder)
    jobs.init_app(app)
    app.jinja_env.bytecode_cache = TEMPLATES
    return app


@contextmanager
def compiled_rules() -> Iterator[None]:
    """Compile each URL rule once. An application has 470, and to parse them and to compile their URL builders takes
    longer than all the rest; both depend on the rule and the converters alone."""
    compile_rule, compiled = Rule.compile, {}

    def compile_once(rule: Rule) -> None:
        url_map: Any = rule.map
        place = (rule.rule, rule.subdomain, rule.host, rule.merge_slashes, url_map.host_matching)
        defaults = tuple(sorted((rule.defaults or {}).items()))
        key = (*place, defaults, *url_map.converters.values())
        if key not in compiled:
            compile_rule(rule)
            compiled[key] = (
                (rule._parts, rule._trace, rule._converters, rule.arguments),
                (rule._build.__func__, rule._build_unknown.__func__),
            )
        (parts, trace, converters, arguments), builders = compiled[key]
        rule._parts, rule._trace, rule._converters = [*parts], [*trace], {**converters}
        rule.arguments = {*arguments}
        rule._build, rule._build_unknown = (builder.__get__(rule) for builder in builders)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "compile", compile_once)
        yield


@contextmanager
def _described_panel() -> Iterator[None]:
    """Describe the models for the admin panel once: each application gets copies of the views."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("app.admin"), "views", lambda: [_copied(view) for view in _views()])
        yield


@cache
def _views() -> Sequence[PanelView]:
    views: Callable[[], Sequence[PanelView]] = import_module("app.admin.views").views
    return views()


def _copied(view: Any) -> Any:
    copied = copy.copy(view)
    # The bulk actions are methods of the view.
    copied._actions_data = {
        name: (_of_view(copied, action), *texts) for name, (action, *texts) in view._actions_data.items()
    }
    return copied


def _of_view(view: Any, action: Any) -> Any:
    if isinstance(action, partial):
        return partial(getattr(view, action.func.__name__), **action.keywords)
    return getattr(view, action.__name__)
