"""Finds plugins by entry point: names from metadata alone, classes only when asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args

from cxr_eval.errors import PluginError

Kind = Literal["trainers", "readers", "models", "attacks", "corruptions", "explainers", "explanation_metrics"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SINGULAR: dict[Kind, str] = {
    "trainers": "trainer",
    "readers": "reader",
    "models": "model",
    "attacks": "attack",
    "corruptions": "corruption",
    "explainers": "explainer",
    "explanation_metrics": "explanation metric",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar known name, or nothing."""
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in known}
    # written out (`epsilon` for `eps`) is more than similar (`eps_min`)
    short = [candidate for candidate in folded if len(candidate) >= 3 and name.casefold().startswith(candidate)]
    close = [max(short, key=len)] if short else difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def package_of(point: EntryPoint) -> str:
    """The distribution that an entry point comes from, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


@cache
def installed(kind: Kind) -> dict[str, EntryPoint]:
    """Entry points of one kind by name; nothing is imported.

    Raises:
        PluginError: two packages register the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=f"cxr_eval.{kind}"), key=lambda point: point.name):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise PluginError(
                f"two packages register the {SINGULAR[kind]} '{point.name}': {package_of(other)} and {package_of(point)};"
                " uninstall one of them"
            )
        found[point.name] = point
    return found


def _load(kind: Kind, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # a plugin may fail in any way while it is imported
        raise PluginError(
            f"{SINGULAR[kind]} '{point.name}' of {package_of(point)} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def find(kind: Kind, name: str) -> type[Any]:
    """The plugin class that a protocol means by `name`.

    A name with a slash is a member of a family (`art/SquareAttack`); a bare name is a plugin, or else a member of the one
    family of its kind that needs no prefix (`resnet18`).

    Raises:
        PluginError: unknown, in doubt, or not importable; the message names the nearest known name.
    """
    points = installed(kind)
    family_name, slash, member = name.partition("/")
    if slash:
        if family_name not in points:
            raise PluginError(f"no {SINGULAR[kind]} family '{family_name}'{nearest(family_name, points)}")
        return _member(kind, points[family_name], member)
    if name in points:
        plugin = _load(kind, points[name])
        if hasattr(plugin, "member"):
            raise PluginError(f"'{name}' is a family of {kind}; name one of its members: {name}/NAME")
        found: type[Any] = plugin
        return found
    for point in points.values():
        family = _load(kind, point)
        if getattr(family, "bare", False) and name in family.names():
            return _member(kind, point, name)
    raise PluginError(f"no {SINGULAR[kind]} '{name}'{nearest(name, names(kind))}")


def _member(kind: Kind, point: EntryPoint, member: str) -> type[Any]:
    family = _load(kind, point)
    if not hasattr(family, "member"):
        raise PluginError(f"{SINGULAR[kind]} '{point.name}' has no members; write '{point.name}' alone")
    try:
        found: type[Any] = family.member(member)
    except KeyError:
        raise PluginError(f"no {SINGULAR[kind]} '{point.name}/{member}'{nearest(member, family.names())}") from None
    return found


def names(kind: Kind) -> tuple[str, ...]:
    """Every name a protocol may write for one kind: plugins, and members of families (these are imported for it)."""
    found: list[str] = []
    for point in installed(kind).values():
        plugin = _load(kind, point)
        if hasattr(plugin, "member"):
            found += [name if plugin.bare else f"{point.name}/{name}" for name in plugin.names()]
        else:
            found.append(point.name)
    return tuple(found)


def origin(kind: Kind, name: str) -> str:
    """Distribution and version that a plugin comes from; part of what identifies a cell."""
    points = installed(kind)
    point = points.get(name.partition("/")[0])
    if point is None:  # a bare member: find its family
        point = next(p for p in points.values() if getattr(_load(kind, p), "bare", False))
    return package_of(point)
