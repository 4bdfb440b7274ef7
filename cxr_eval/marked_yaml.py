"""YAML as plain values that remember where they were written; nothing in a text can name a type or run code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxr_eval.errors import ProtocolError
from cxr_eval.types import Key as Key

_MOST_VALUES = 50_000  # anchors of anchors grow exponentially
_MOST_NESTED = 30  # a protocol needs six
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?)(\d+)")  # what Python calls a float and YAML 1.1 may not


@dataclass
class Node:
    """A value and where it was written; `value` holds nodes if it is a list or a dict."""

    value: Any
    at: str
    misread: bool = False
    """True if YAML reads it otherwise than it was meant, which has its own message."""


class _Loader(yaml.SafeLoader):
    """Composes nodes only; a tag, which could ask for any type, is refused even if it is a harmless one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed; a protocol holds values only",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def parse(text: str, at: Callable[[int], str]) -> tuple[Node, list[tuple[str, str]]]:
    """The values of one YAML document, and what YAML reads otherwise than it was meant, as (place, message).

    at: the place that messages name for a line, counted from 1.

    Raises:
        ProtocolError: the text is not YAML, or more than plain values.
    """
    builder = _Builder(at)
    try:
        root = _Loader(text).get_single_node()
        return (Node(None, at(1)) if root is None else builder.build(root, root.start_mark.line + 1)), builder.found
    except yaml.reader.ReaderError as error:
        line = text[: int(error.position)].count("\n") + 1
        raise builder.stop(line, f"the character {chr(int(error.character))!r} cannot stand in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise builder.stop(mark.line + 1 if mark else 1, _yaml_problem(error, text, mark)) from None
    except RecursionError:
        raise builder.stop(1, "is nested too deeply") from None


class _Builder:
    """Turns YAML's nodes into ours."""

    def __init__(self, at: Callable[[int], str]) -> None:
        self.at = at
        self.found: list[tuple[str, str]] = []
        self.open: set[int] = set()
        self.count = 0

    def stop(self, line: int, text: str) -> ProtocolError:
        return ProtocolError(f"{self.at(line)}: {text}")

    def build(self, node: yaml.Node, line: int) -> Node:
        self.count += 1
        if self.count > _MOST_VALUES:
            raise self.stop(line, f"holds more than {_MOST_VALUES} values, anchors counted each time they are used")
        if isinstance(node, yaml.ScalarNode):
            value, wrong = _scalar(node)
            if wrong:
                self.found.append((self.at(line), wrong))
            return Node(value, self.at(line), misread=wrong is not None)
        if id(node) in self.open:
            raise self.stop(line, "an anchor is used inside itself")
        if len(self.open) > _MOST_NESTED:
            raise self.stop(line, "is nested too deeply")
        self.open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            built = Node([self.build(item, item.start_mark.line + 1) for item in node.value], self.at(line))
        else:
            built = Node(self.mapping(node), self.at(line))
        self.open.discard(id(node))
        return built

    def mapping(self, node: yaml.Node) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag.endswith(":merge"):
                parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for part in parts:
                    built = self.build(part, line)
                    if not isinstance(built.value, dict):
                        raise self.stop(line, "'<<' takes an anchor of key: value pairs")
                    merged = {**built.value, **merged}
                continue
            name = self.name(key, line)
            if name is None:
                continue
            if name in own:
                self.found.append((self.at(line), f"'{name}' is written twice in the same place"))
                continue
            own[name] = self.build(value, line)
        return {**merged, **own}

    def name(self, key: yaml.Node, line: int) -> str | None:
        plain = isinstance(key, yaml.ScalarNode)
        kind = key.tag.rpartition(":")[2]
        if plain and kind not in ("bool", "int", "float", "null"):
            return str(key.value)
        if plain and kind == "bool" and key.value.lower() not in ("true", "false"):
            text = f"YAML reads {key.value} as {_as_bool(key.value)}; write it in quotes"
        elif plain and key.value:
            text = f"expected a name before the colon, got {key.value}; write it in quotes"
        else:
            text = "expected a name before the colon"
        self.found.append((self.at(line), text))
        return None


def _scalar(node: yaml.ScalarNode) -> tuple[Any, str | None]:
    """The value of one text, number or word, and what is wrong with it."""
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    digits = text.replace("_", "")
    wrong: str | None = None
    value: Any = text
    if kind == "null":
        value = None
    elif kind == "bool":
        value = _as_bool(text) == "true"
        if text.lower() not in ("true", "false"):
            wrong = f"YAML reads {text} as {_as_bool(text)}; write it in quotes, or write {_as_bool(text)}"
    elif kind == "int":
        if not re.fullmatch(r"[+-]?(0|[1-9]\d*)", digits):
            value, wrong = 0, f"YAML reads {text} as a number to another base; write it in plain digits, or in quotes"
        elif len(digits) > 18:
            value, wrong = 0, f"the number {_short(text)} is too large"
        else:
            value = int(digits)
    elif kind == "float":
        value = float(digits) if re.fullmatch(r"[+-]?[\d.]+([eE][+-]\d+)?", digits) else math.nan
        if not math.isfinite(value):
            value, wrong = 0.0, f"expected a finite decimal number, got {_short(text)}"
    elif node.style is None and (parts := _SCIENTIFIC.fullmatch(text)):
        mantissa, sign, exponent = parts.groups()
        value = float(text) if math.isfinite(float(text)) else 0.0
        meant = f"{mantissa}{'' if '.' in mantissa else '.0'}e{sign or '+'}{exponent}"
        wrong = f"YAML reads {_short(text)} as text; write {_short(meant)}, or in quotes if text is meant"
    return value, wrong


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _as_bool(word: str) -> str:
    return "true" if word.lower() in ("yes", "on", "true") else "false"


def _yaml_problem(error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark | None) -> str:
    problem = error.problem or error.context or "cannot be read"
    lines = text.splitlines()
    if mark and mark.line < len(lines) and lines[mark.line].lstrip(" ").startswith("\t"):
        return "is indented by a tab; YAML wants spaces"
    if "single document" in (error.context or ""):
        return "a second document starts here ('---'); a protocol is one"
    if problem.startswith("the tag"):
        return problem
    return f"cannot be read as YAML: {problem}"


def walk(node: Node, key: Key = ()) -> Iterator[tuple[Key, Node]]:
    """Every value in the tree with its place, from the outside in."""
    yield key, node
    if isinstance(node.value, dict):
        for name, child in node.value.items():
            yield from walk(child, (*key, name))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from walk(child, (*key, index))


def plain(node: Node) -> Any:
    """The values without their places: dicts, lists, text, numbers, booleans, None."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def written(settings: Any, called: str) -> str:
    """Plain values as YAML text, which `parse` reads back as they are. called: what messages call them.

    Raises:
        ProtocolError: something among them is no plain value, such as an array.
    """
    return yaml.safe_dump(_checked(settings, called, ""), sort_keys=False, allow_unicode=True, width=10_000)


def _checked(value: Any, called: str, at: str) -> Any:
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ProtocolError(f"{called}: {at + ': ' if at else ''}expected names as keys, got {odd[0]!r}")
        return {str(key): _checked(inner, called, f"{at}.{key}".lstrip(".")) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_checked(inner, called, f"{at}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise ProtocolError(
        f"{called}: {at + ': ' if at else ''}expected text, a number, a list or a dict, got {type(value).__name__}"
    )


def child(node: Node | None, *keys: str) -> Node | None:
    """The value under the keys, if there is one."""
    for key in keys:
        node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
    return node


def merge(below: Node, above: Node) -> Node:
    """`above` laid over `below`: groups of settings are joined, everything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    both = {name: merge(below.value[name], child) if name in below.value else child for name, child in above.value.items()}
    return Node({**below.value, **both}, below.at)
