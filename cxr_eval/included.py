"""`{file: other.yaml}` in a protocol: the content of another file, which keeps its own lines in messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxr_eval.errors import ProtocolError
from cxr_eval.marked_yaml import Node, parse

FILE = "file"


def include(
    tree: Node, path: Path, read: Callable[[Path], str], above: tuple[Path, ...] = ()
) -> tuple[Node, list[tuple[str, str]]]:
    """The tree with every `{file: NAME}` replaced by that file's values, and what YAML reads otherwise than it was meant.

    path: the file that the tree was read from; names are relative to its folder. read: the text of a file. above: the files
    that include it.

    Raises:
        ProtocolError: a file is not there, cannot be read, or includes itself.
    """
    name = _named_file(tree)
    if name is not None:
        other = path.parent / Path(name.value).expanduser()
        if other.resolve() in (each.resolve() for each in (*above, path)):
            raise ProtocolError(f"{name.at}: {other} includes itself; take one of the two out")
        try:
            text = read(other)
        except ProtocolError as error:
            raise ProtocolError(f"{name.at}: file: {error}") from None
        inner, found = parse(text, lambda line: f"{other}:{line}")
        whole, more = include(inner, other, read, (*above, path))
        return whole, found + more
    found = []
    children = (
        tree.value.items() if isinstance(tree.value, dict) else enumerate(tree.value if isinstance(tree.value, list) else ())
    )
    for key, child in list(children):
        tree.value[key], more = include(child, path, read, above)
        found += more
    return tree, found


def _named_file(node: Node) -> Node | None:
    """The name in `{file: NAME}`, if the node is one."""
    if isinstance(node.value, dict) and set(node.value) == {FILE} and isinstance(node.value[FILE].value, str):
        named: Node = node.value[FILE]
        return named
    return None
