"""Which plugins are families, one entry point that stands for many, told from their source: importing them takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from importlib.metadata import EntryPoint
from pathlib import Path


def is_family(point: EntryPoint) -> bool:
    """True if the class that an entry point names has members (`art/SquareAttack`); False where its source is not found."""
    path = _source(point.module)
    try:
        text = "" if path is None else path.read_text(encoding="utf-8")
        tree = ast.parse(text) if "member" in text else ast.Module([], [])  # most files need no second look
    except (OSError, ValueError, SyntaxError):
        return False
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return point.attr in classes and _has_members(classes[point.attr], classes)


def _has_members(cls: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    if any(isinstance(node, ast.FunctionDef) and node.name == "member" for node in cls.body):
        return True
    bases = {base.id for base in cls.bases if isinstance(base, ast.Name)} - {cls.name}
    return any(_has_members(classes[base], classes) for base in bases & classes.keys())


def _source(module: str) -> Path | None:
    """The file of a module that is not imported; finding one inside of a package by its full name would import the package."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin else None
    bases = [Path(folder).joinpath(*inner) for folder in spec.submodule_search_locations or ()]
    files = [file for base in bases for file in (base.with_name(f"{base.name}.py"), base / "__init__.py")]
    return next((file for file in files if file.is_file()), None)
