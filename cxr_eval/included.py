"""`{file: other.yaml}` in a protocol: the content of another file, which keeps its own lines in messages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxr_eval.errors import ProtocolError
from cxr_eval.marked_yaml import Node, parse

FILE = "file"
FOLDER = "included"
"""Where a run keeps the files that its protocol includes, beside the protocol."""


@dataclass
class Included:
    """What reading a tree's files gave.

    tree: with the files' values in their places. found: what YAML reads otherwise than it was meant, as (place, message).
    files: texts by the name under which a run keeps them. kept: that name, by the name as it is written in the tree's own file.
    """

    tree: Node
    found: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def include(tree: Node, path: Path, read: Callable[[Path], str], above: tuple[Path, ...] = ()) -> Included:
    """The tree with every `{file: NAME}` replaced by that file's values.

    path: the file that the tree was read from; names are relative to its folder. read: the text of a file. above: the files
    that include it.

    Raises:
        ProtocolError: a file is not there, cannot be read, or includes itself.
    """
    name = _named_file(tree)
    if name is not None:
        return _from_file(name, path, read, above)
    whole = Included(tree)
    for key, child in _children(tree):
        part = include(child, path, read, above)
        tree.value[key] = part.tree
        whole.found += part.found
        whole.files |= part.files
        whole.kept |= part.kept
    return whole


def _from_file(name: Node, path: Path, read: Callable[[Path], str], above: tuple[Path, ...]) -> Included:
    other = path.parent / Path(name.value).expanduser()
    if other.resolve() in (each.resolve() for each in (*above, path)):
        raise ProtocolError(f"{name.at}: {other} includes itself; take one of the two out")
    try:
        text = read(other)
    except ProtocolError as error:
        raise ProtocolError(f"{name.at}: file: {error}") from None
    inner, found = parse(text, lambda line: f"{other}:{line}")
    part = include(inner, other, read, (*above, path))
    text = repointed(text, part.kept)
    kept = f"{hashlib.sha256(text.encode()).hexdigest()[:8]}-{other.name}"  # two folders may have files of one name
    return Included(part.tree, found + part.found, part.files | {kept: text}, {name.value: kept})


def repointed(text: str, names: Mapping[str, str], folder: str = "") -> str:
    """A protocol's text with other names in `{file: NAME}`, those in `names` in `folder`."""
    for old, new in names.items():
        text = re.sub(rf"(\bfile\s*:\s*)(['\"]?){re.escape(old)}\2(?=\s*[,}}\n]|\s*$)", rf"\g<1>{folder}{new}", text)
    return text


def _children(tree: Node) -> Iterator[tuple[str | int, Node]]:
    if isinstance(tree.value, dict):
        yield from list(tree.value.items())
    elif isinstance(tree.value, list):
        yield from list(enumerate(tree.value))


def _named_file(node: Node) -> Node | None:
    """The name in `{file: NAME}`, if the node is one."""
    if not isinstance(node.value, dict) or set(node.value) != {FILE}:
        return None
    named: Node = node.value[FILE]
    if not isinstance(named.value, str):
        raise ProtocolError(f"{named.at}: file: expected the name of a YAML file")
    return named
