"""A protocol file: its text with overrides and environment variables, as a `Protocol` that knows its lines."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from cxr_eval import params, protocol
from cxr_eval.complaints import Complaint, complaints, dotted
from cxr_eval.errors import ProtocolError
from cxr_eval.events import printable
from cxr_eval.included import FOLDER, include, repointed
from cxr_eval.marked_yaml import Key, Node, child, merge, parse, plain, walk, written
from cxr_eval.protocol import Protocol
from cxr_eval.registry import Kind, names

DICT = "protocol"
"""What messages call a protocol that was given as a dict."""
_MOST_SHOWN = 10
_MOST_BYTES = 1_000_000  # a methods section has a few thousand; a data file given by mistake has millions
_VARIABLE = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")

Placed = tuple[str, str]
"""The place where something is wrong, `file:line` or `--set KEY=VALUE`, and what is."""


@dataclass(frozen=True)
class LoadedProtocol:
    """A protocol as it will run, and where each of its values was written."""

    protocol: Protocol
    path: Path
    text: str
    """The file as read, before overrides and variables."""
    portable: str
    """The same, looking for the files that it includes in the folder `included` beside it."""
    included: Mapping[str, str]
    """The texts of those files by their names there."""
    sets: tuple[str, ...]
    """The overrides, `KEY=VALUE`, as given, and then those of a smoke run."""
    only: tuple[str, ...]
    """The cells that the command line asked for, `trainer=LABEL`; all for none."""
    smoke: bool
    """True for a smoke run: everything once and tiny."""
    demonstration: bool
    """True if `data.train.when_missing` stepped in for images that are not there."""
    unset: tuple[str, ...]
    """The environment variables that are not set, for which it stepped in."""
    sources: Mapping[Key, str]
    """`file:line` or `--set KEY=VALUE` of every value."""
    resolved: dict[str, Any]
    """The protocol with its defaults as plain JSON data, without the `demonstration` block; with `only` if cells were named."""

    def refuse(self, found: Iterable[Complaint]) -> ProtocolError:
        """One error that lists complaints about this protocol by line, each with the place where it was written."""
        return _refusal(self.path, [(_place(self.sources, key, self.path), text) for key, text in found])


def load(
    path: Path | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    only: Sequence[str] = (),
    smoke: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> LoadedProtocol:
    """The protocol that a file describes.

    path: the YAML file; or the same as a dict, which is taken as if it stood in a file of the working folder, and of which
    messages name no line. sets: overrides, `train.epochs=3` or `trainers.0.eps=8/255`, later ones winning. only: cells that a
    run is to keep to, `trainer=LABEL`. smoke: the overrides of a smoke run, laid over what is in force and nothing else, as the
    demonstration may have other plugins. environ: what `${NAME}` and `${NAME:-default}` in texts stand for; empty is as good as
    unset.

    Where a setting of `data.train` names a variable that is not set and `when_missing` names a reader, that reader steps in and
    the `demonstration` block is laid over the protocol. Both the protocol and its demonstration are checked in either case.

    Raises:
        ProtocolError: the file cannot be read, or says what no protocol may say; one line a fault, at most 10.
    """
    if isinstance(path, Mapping):
        path, text = Path(DICT), written(path, DICT)
        tree, found = parse(text, lambda line: DICT)
    else:
        text = _read(path)
        tree, found = parse(text, lambda line: f"{path}:{line}")
    if tree.value is None and not found:
        raise ProtocolError(f"{path}:1: is empty; a protocol needs name, data, models and trainers")
    if not isinstance(tree.value, dict):
        raise _refusal(path, found or [(tree.at, "expected 'key: value' settings at the start of a line")])
    whole = include(tree, path, _read)
    tree = whole.tree
    found += whole.found
    overrides = [_Override.parse(raw) for raw in sets]
    for override in overrides:
        override.apply(tree)

    train = child(tree, "data", "train")
    reader = child(train, "when_missing")
    reader = reader if reader and isinstance(reader.value, str) else None
    unset = _unset(train, environ) if reader else ()
    stands_in = _demonstrated(tree, reader, overrides if unset else ()) if reader else None
    if stands_in is None and (block := child(tree, "demonstration")) and block.value is not None:
        found.append((block.at, "demonstration: holds only where data.train.when_missing steps in, which is not given"))

    in_force, other = (stands_in, tree) if stands_in and unset else (tree, stands_in)
    for override in map(_Override.parse, smoke or ()):
        override.apply(in_force)
    result, wrong = _validated(in_force, path, _expand(in_force, environ))
    found += wrong
    if other:
        _expand(other, environ)  # a variable may be unset where it is not needed
        found += _validated(other, path, [])[1]
    if found or result is None:
        raise _refusal(path, found)
    return LoadedProtocol(
        protocol=result,
        path=path,
        text=text,
        portable=repointed(text, whole.kept, f"{FOLDER}/"),
        included=whole.files,
        sets=(*sets, *(smoke or ())),
        only=tuple(only),
        smoke=smoke is not None,
        demonstration=bool(unset),
        unset=unset,
        sources={key: node.at for key, node in walk(in_force)},
        resolved=result.model_dump(mode="json", exclude={"demonstration"}) | ({"only": sorted(only)} if only else {}),
    )


def read(path: Path) -> dict[str, Any]:
    """The settings of a YAML file with those that it includes, not checked further.

    Raises:
        ProtocolError: it cannot be read, or holds no settings.
    """
    tree, found = parse(_read(path), lambda line: f"{path}:{line}")
    if not isinstance(tree.value, dict):
        raise _refusal(path, found or [(tree.at, "expected 'key: value' settings at the start of a line")])
    whole = include(tree, path, _read)
    if found + whole.found:
        raise _refusal(path, found + whole.found)
    settings: dict[str, Any] = plain(whole.tree)
    return settings


def _validated(tree: Node, path: Path, found: list[Placed]) -> tuple[Protocol | None, list[Placed]]:
    try:
        return Protocol.model_validate(plain(tree)), found
    except pydantic.ValidationError as error:
        nodes = dict(walk(tree))
        sources = {key: node.at for key, node in nodes.items()}
        wrong = [(key, text) for key, text in complaints(error, Protocol) if key not in nodes or not nodes[key].misread]
        return None, found + [(_place(sources, key, path), text) for key, text in wrong]


def _place(sources: Mapping[Key, str], key: Key, path: Path) -> str:
    near = (key[:length] for length in range(len(key), -1, -1))
    return next((sources[part] for part in near if part in sources), f"{path}:1")


def _refusal(path: Path, found: Iterable[Placed]) -> ProtocolError:
    def order(item: Placed) -> tuple[bool, int]:
        line = item[0].removeprefix(f"{path}:")
        return (False, int(line)) if line.isdecimal() else (True, 0)

    lines = [printable(f"{place}: {text}") for place, text in sorted(dict.fromkeys(found), key=order)]
    more = len(lines) - _MOST_SHOWN
    return ProtocolError("\n".join(lines[:_MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])))


def _read(path: Path) -> str:
    if path.is_dir():
        raise ProtocolError(f"{path}: expected a protocol file, found a folder")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ProtocolError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise ProtocolError(f"{path}: is larger than a megabyte; is it a protocol?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ProtocolError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8") from None


@dataclass(frozen=True)
class _Override:
    """One `--set`."""

    keys: tuple[str, ...]
    node: Node

    @classmethod
    def parse(cls, raw: str) -> _Override:
        path, equals, value = raw.partition("=")
        keys = tuple(path.strip().split("."))
        if not equals or not all(keys):
            raise ProtocolError(f"--set {raw}: expected KEY=VALUE, such as train.epochs=3 or trainers.0.eps=8/255")
        node, found = parse(value, lambda _: f"--set {raw}")
        if found:
            raise ProtocolError("\n".join(printable(f"{place}: {text}") for place, text in found))
        return cls(keys, node)

    def apply(self, tree: Node) -> None:
        """Put the value into the tree, with the groups of settings above it that are not there yet."""
        node = tree
        for depth, key in enumerate(self.keys):
            last = depth == len(self.keys) - 1
            above = ".".join(self.keys[:depth])
            new = copy.deepcopy(self.node) if last else Node({}, self.node.at)
            if isinstance(node.value, list):
                if not (key.isascii() and key.isdecimal()) or int(key) >= len(node.value):
                    count = f"{len(node.value)} entries, counted from 0" if len(node.value) != 1 else "one entry, 0"
                    raise ProtocolError(f"{self.node.at}: {above} has {count}; there is no '{key}'")
                entry = node.value[int(key)]
                if last:
                    node.value[int(key)] = entry = new
                elif isinstance(entry.value, str):  # `- fgsm` is short for `- {name: fgsm}`
                    entry.value = {"name": Node(entry.value, entry.at)}
                node = entry
            elif isinstance(node.value, dict):
                if last or key not in node.value or node.value[key].value is None:
                    node.value[key] = new
                node = node.value[key]
            else:
                raise ProtocolError(f"{self.node.at}: {above} is one value and has no settings")


def _unset(tree: Node | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables without a default that the texts of the tree name and the environment does not."""
    texts = [node.value for _, node in walk(tree) if isinstance(node.value, str)] if tree else []
    used = [match.groups() for text in texts for match in _VARIABLE.finditer(text)]
    return tuple(dict.fromkeys(name for name, default in used if name and default is None and not environ.get(name)))


def _expand(tree: Node, environ: Mapping[str, str]) -> list[Placed]:
    """Put the environment into the texts of the tree; what cannot be put in is returned."""
    found: list[Placed] = []
    for key, node in walk(tree):
        if not isinstance(node.value, str) or "${" not in node.value or key[0] == "demonstration":
            continue
        parts, end = [], 0
        for match in _VARIABLE.finditer(node.value):
            name, default = match.groups()
            if name is None:
                found.append((node.at, f"{dotted(key)}: '${{' starts a variable; write ${{NAME}} or ${{NAME:-default}}"))
            elif default is None and not environ.get(name):
                hint = f"set it, or write ${{{name}:-default}}"
                found.append((node.at, f"{dotted(key)}: the environment variable {name} is not set; {hint}"))
            value = (environ.get(name) if name else None) or (match[0] if default is None else default)
            parts += [node.value[end : match.start()], value]
            end = match.end()
        node.value = "".join([*parts, node.value[end:]])
    return found


def _demonstrated(tree: Node, reader: Node, overrides: Sequence[_Override]) -> Node:
    """The protocol where `when_missing` steps in: its reader alone, the demonstration block on top, then `--set` again."""
    tree = copy.deepcopy(tree)
    block = tree.value.pop("demonstration", None)
    data = tree.value["data"]
    data.value["train"] = Node({"reader": copy.deepcopy(reader)}, data.value["train"].at)
    if block is not None and isinstance(block.value, dict):
        if inner := child(block, "demonstration"):
            raise ProtocolError(f"{inner.at}: demonstration: cannot hold a demonstration of its own")
        if child(block, "data", "outside"):
            data.value.pop("outside", None)
        tree = merge(tree, block)
    for override in overrides:
        if override.keys[0] != "demonstration":
            override.apply(tree)
    return tree


_FRACTION = {"type": "string", "pattern": r"^ *\d+ */ *\d+ *$", "examples": ["8/255"]}


_RADIUS = {"type": "number", "minimum": 0, "maximum": 1}
_DISTANCE = {"type": "number", "minimum": 0}


class SettingsSchema(GenerateJsonSchema):
    """JSON Schema of what a person may write, which is more than what the frozen records hold."""

    def generate(self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        """The schema, with bounds that pydantic leaves in words of its own where a validator stands before them."""
        generated = super().generate(schema, mode)
        _put_bounds_right(generated)
        return generated

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """`eps` may be a fraction, a list of one may be its value alone, a plugin may be its name alone."""
        held, change = self.generate_inner(schema["schema"]), schema["function"]["function"]
        if change is params._pixel_radius:
            return {"anyOf": [_RADIUS, _FRACTION]}
        if change is params.parse_radius:
            return {"anyOf": [_DISTANCE, _FRACTION]}
        if change is params._one_or_more:
            return {"anyOf": [held["items"], held]}
        if change is protocol._named:
            return {"anyOf": [{"type": "string", "minLength": 1}, held]}
        if change is protocol._one_source:
            return {"anyOf": [held["items"], held]}
        if change is protocol._only:
            return {"anyOf": [{"type": "array", "items": {"type": "string"}}, held]}
        return held


def _put_bounds_right(part: Any) -> None:
    if isinstance(part, dict):
        for word, meant in (("ge", "minimum"), ("le", "maximum"), ("minLength", "minItems"), ("maxLength", "maxItems")):
            alternatives = part.get("anyOf", [part])
            wanted = ("number", "integer") if meant in ("minimum", "maximum") else ("array",)
            if isinstance(part.get(word), (int, float)) and part.get("type") != "string":
                bound = part.pop(word)
                for alternative in alternatives:
                    if alternative.get("type") in wanted:
                        alternative.setdefault(meant, bound)
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _put_bounds_right(inner)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a protocol, for editors that complete and check YAML; installed plugins are its examples."""
    schema = Protocol.model_json_schema(schema_generator=SettingsSchema)
    within, explain = schema["properties"], schema["$defs"]["Explain"]["properties"]
    uses: list[tuple[Kind, dict[str, Any]]] = [
        ("models", within["models"]),
        ("trainers", within["trainers"]),
        ("attacks", within["attacks"]),
        ("corruptions", within["corruptions"]),
        ("explainers", explain["methods"]),
        ("explanation_metrics", explain["metrics"]),
    ]
    for kind, listed in uses:
        listed["items"]["anyOf"][0]["examples"] = list(names(kind))
    explain["conditions"]["items"]["anyOf"][0]["examples"] = ["clean", *names("attacks")]
    schema["$defs"]["Source"]["properties"]["reader"]["examples"] = list(names("readers"))
    for use, radius in (("PluginUse", _RADIUS), ("TrainerUse", _DISTANCE), ("Condition", _RADIUS)):
        entries = {"type": "array", "items": {"anyOf": [radius, _FRACTION]}}
        eps = {"anyOf": [radius, _FRACTION, entries], "description": "radius in pixel units of [0, 1], or a list of them"}
        schema["$defs"][use]["properties"]["eps"] = eps
    published = schema["$defs"]["Report"]["properties"]["published"]
    for place in (*(listed for _, listed in uses), published["items"]):  # a file may hold them
        held = {key: place.pop(key) for key in list(place) if key not in ("default", "description", "title")}
        place["anyOf"] = [held, {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "cxr-eval protocol"}
