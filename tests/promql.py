"""A parser of PromQL for tests: enough of its grammar to find errors in dashboards and alerts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<duration>(?:\d+(?:ms|[smhdwy]))+)|(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-zA-Z_:][\w:]*)|(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^=<>(){}\[\],])
    )""",
    re.VERBOSE,
)
AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk", "bottomk"}
# With the number of their arguments.
FUNCTIONS = {"rate": 1, "increase": 1, "time": 0, "histogram_quantile": 2, "absent": 1}
_OPERATORS = {"or", "and", "unless", "==", "!=", ">", "<", ">=", "<=", "+", "-", "*", "/", "%", "^"}
_OF_RANGES = {"rate", "increase"}


@dataclass
class Parsed:
    """The selectors of an expression: the names of metrics, with the labels that they match; and the labels by which
    results are grouped."""

    selectors: list[tuple[str, set[str]]] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)


def parse(expression: str) -> Parsed:
    """Parse an expression. Raises ValueError."""
    parser = _Parser(expression)
    parser.expression()
    if parser.tokens:
        raise ValueError(f"unexpected {parser.tokens[0][1]!r} in {expression!r}")
    return parser.parsed


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.parsed = Parsed()
        position, text = 0, text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise ValueError(f"not PromQL from {text[position:]!r}")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def next(self, *expected: str) -> tuple[str, str]:
        kind, value = self.tokens.pop(0) if self.tokens else ("end", "")
        if expected and kind not in expected and value not in expected:
            raise ValueError(f"expected {' or '.join(expected)}, not {value!r}")
        return kind, value

    def has(self, *values: str) -> bool:
        return bool(self.tokens) and self.tokens[0][1] in values

    def expression(self) -> bool:
        """Parse an expression; return whether it is a range."""
        is_range = self.operand()
        while self.has(*_OPERATORS):
            self.next()
            if self.has("on", "ignoring"):
                self.next()
                self.parsed.grouped_by |= self.labels()
            if self.operand() or is_range:
                raise ValueError("a range has no operators")
        return is_range

    def operand(self) -> bool:
        kind, value = self.next("number", "name", "(")
        if value == "(":
            self.expression()
            self.next(")")
        elif kind == "name" and value in AGGREGATIONS:
            self.aggregation()
        elif kind == "name" and self.has("("):
            self.call(value)
        elif kind == "name":
            return self.selector(value)
        return False

    def aggregation(self) -> None:
        if self.has("by", "without"):
            is_by = self.next()[1] == "by"
            labels = self.labels()
            self.parsed.grouped_by |= labels if is_by else set()
        self.next("(")
        if self.expression():
            raise ValueError("an aggregation needs no range")
        self.next(")")

    def call(self, name: str) -> None:
        if name not in FUNCTIONS:
            raise ValueError(f"{name} is not a function")
        self.next("(")
        ranges = []
        while not self.has(")"):
            ranges.append(self.expression())
            if not self.has(")"):
                self.next(",")
        self.next(")")
        if len(ranges) != FUNCTIONS[name] or any(ranges) is not (name in _OF_RANGES):
            raise ValueError(f"the arguments of {name} are wrong")

    def selector(self, name: str) -> bool:
        labels: set[str] = set()
        if self.has("{"):
            self.next()
            while not self.has("}"):
                labels.add(self.next("name")[1])
                self.next("=", "!=", "=~", "!~")
                self.next("text")
                if not self.has("}"):
                    self.next(",")
            self.next("}")
        self.parsed.selectors.append((name, labels))
        if not self.has("["):
            return False
        self.next()
        self.next("duration")
        self.next("]")
        return True

    def labels(self) -> set[str]:
        labels: set[str] = set()
        self.next("(")
        while not self.has(")"):
            labels.add(self.next("name")[1])
            if not self.has(")"):
                self.next(",")
        self.next(")")
        return labels
