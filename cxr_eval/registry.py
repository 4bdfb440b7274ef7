"""Finds plugins, by entry point or in a single file: names from metadata alone, classes only when asked for."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from cxr_eval.errors import PluginError, nearest

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
_BASES: dict[str, tuple[Kind, str]] = {
    "Trainer": ("trainers", "Trainer"),
    "Reader": ("readers", "Reader"),
    "ModelBuilder": ("models", "ModelBuilder|Builder|Model"),
    "Attack": ("attacks", "Attack"),
    "Corruption": ("corruptions", "Corruption"),
    "Explainer": ("explainers", "Explainer"),
    "ExplanationMetric": ("explanation_metrics", "ExplanationMetric|Metric"),
}
"""Kind of the classes that extend a class of `cxr_eval.api`, and the ends of their names that say so."""

_files: dict[Path, _PluginFile] = {}


def package_of(point: EntryPoint) -> str:
    """The distribution that an entry point comes from, with its version; of a single file its name and hash."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _edited(point: EntryPoint) -> str:
    """Hash of a plugin's package that is installed editable, so that its code may change under one version; else nothing."""
    told = (point.dist.read_text("direct_url.json") if point.dist and point.dist.name != "cxr-eval" else None) or "{}"
    spec = importlib.util.find_spec(point.module.partition(".")[0]) if '"editable": true' in told else None
    if spec is None or spec.origin is None:
        return ""
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return f" edited sha256:{hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:12]}"


@cache
def installed(kind: Kind) -> dict[str, EntryPoint]:
    """Entry points of one kind by name, those of registered files among them; nothing is imported.

    Raises:
        PluginError: two packages register the same name.
    """
    group = f"cxr_eval.{kind}"
    from_files = [point for file in _files.values() for point in file.entry_points if point.group == group]
    found: dict[str, EntryPoint] = {}
    for point in sorted([*entry_points(group=group), *from_files], key=lambda point: point.name):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise PluginError(
                f"two packages register the {SINGULAR[kind]} '{point.name}': {package_of(other)} and {package_of(point)};"
                " uninstall one of them"
            )
        found[point.name] = point
    return found


def load(kind: Kind, point: EntryPoint) -> Any:
    """The class, plugin or family, that an entry point names.

    Raises:
        PluginError: it cannot be imported; the message names its package and the reason.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # a plugin may fail in any way while it is imported
        raise PluginError(
            f"{SINGULAR[kind]} '{point.name}' of {package_of(point)} cannot be imported: {_why(error)}"
        ) from error


def find(kind: Kind, name: str) -> type[Any]:
    """The plugin class that a protocol means by `name`.

    A name with a slash is a member of a family (`art/SquareAttack`); a bare name is a plugin, or else a member of the one
    family of its kind that needs no prefix (`resnet18`). A plugin that cannot be imported stands in no other's way.

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
        plugin = load(kind, points[name])
        if hasattr(plugin, "member"):
            raise PluginError(f"'{name}' is a family of {kind}; name one of its members: {name}/NAME")
        return _sound(kind, points[name], plugin)
    point = _bare_family(kind, name)
    if point is not None:
        return _member(kind, point, name)
    raise PluginError(
        f"no {SINGULAR[kind]} '{name}'{nearest(name, names(kind)) or _unseen(kind) or f'; see: cxr-eval plugins list {kind}'}"
    )


def _sound(kind: Kind, point: EntryPoint, cls: Any) -> type[Any]:
    """A class that is what its kind must be.

    Raises:
        PluginError: it extends another class, or its settings or tasks are none.
    """
    from cxr_eval import api  # not before: it imports torch

    base = next(name for name, (of, _) in _BASES.items() if of == kind)
    whose = f"{SINGULAR[kind]} '{point.name}' of {package_of(point)}: {getattr(cls, '__name__', cls)}"
    if not (inspect.isclass(cls) and issubclass(cls, getattr(api, base))):
        raise PluginError(f"{whose} is not a subclass of cxr_eval.api.{base}")
    params = getattr(cls, "Params", None)
    if not (inspect.isclass(params) and issubclass(params, api.Params)):
        raise PluginError(f"{whose}.Params is not a subclass of cxr_eval.api.Params; write class Params(cxr.Params)")
    tasks = getattr(cls, "tasks", ("multiclass",))
    if not isinstance(tasks, tuple) or not tasks or not set(tasks) <= {"multiclass", "multilabel"}:
        raise PluginError(f"{whose}.tasks: expected a tuple of 'multiclass' and 'multilabel', got {tasks!r}")
    found: type[Any] = cls
    return found


def _member(kind: Kind, point: EntryPoint, member: str) -> type[Any]:
    family = load(kind, point)
    if not hasattr(family, "member"):
        raise PluginError(f"{SINGULAR[kind]} '{point.name}' has no members; write '{point.name}' alone")
    try:
        found: type[Any] = family.member(member)
    except KeyError:
        raise PluginError(f"no {SINGULAR[kind]} '{point.name}/{member}'{nearest(member, family.names())}") from None
    return found


def _bare_family(kind: Kind, name: str) -> EntryPoint | None:
    """The family that has a member of this name and needs no prefix; other packages are imported only if ours have none."""
    points = installed(kind).values()
    for point in sorted(points, key=lambda point: point.dist is None or point.dist.name != "cxr-eval"):
        family = _importable(kind, point)
        if getattr(family, "bare", False) and name in family.names():
            return point
    return None


def _importable(kind: Kind, point: EntryPoint) -> Any:
    """The class that an entry point names, None if it cannot be imported."""
    try:
        return load(kind, point)
    except PluginError:
        return None


def _unseen(kind: Kind) -> str:
    """Says which plugins could not be asked for their members."""
    broken = [point for point in installed(kind).values() if _importable(kind, point) is None]
    told = " and ".join(f"'{point.name}' of {package_of(point)}" for point in broken)
    return f"; {told} cannot be imported, so what may be in there is not known" if broken else ""


def names(kind: Kind) -> tuple[str, ...]:
    """Every name a protocol may write for one kind: plugins, and members of families (these are imported for it).

    A plugin that cannot be imported is there by the name that it is registered by.
    """
    found: list[str] = []
    for point in installed(kind).values():
        plugin = _importable(kind, point)
        if hasattr(plugin, "member"):
            found += [name if plugin.bare else f"{point.name}/{name}" for name in plugin.names()]
        else:
            found.append(point.name)
    return tuple(found)


def origin(kind: Kind, name: str) -> str:
    """Distribution and version that a plugin comes from; part of what identifies a cell."""
    point = installed(kind).get(name.partition("/")[0]) or _bare_family(kind, name)
    if point is None:
        raise PluginError(f"no {SINGULAR[kind]} '{name}'{nearest(name, names(kind))}")
    library = getattr(load(kind, point), "library", "")
    return package_of(point) + _edited(point) + (f", {library} {version(library)}" if library else "")


def register_file(path: Path) -> None:
    """Make the plugins of one Python file known without installing it, until `forget_files`.

    Every class that extends one of `cxr_eval.api` and is defined in the file is a plugin, named by its class without the word
    for its kind: `MyNoiseTrainer` is the trainer `my_noise`. Its origin is the file's name and the hash of its content. A name
    that starts with an underscore is a base and no plugin.

    Raises:
        PluginError: the file is not there, not Python, cannot be imported, has no plugin, one that lacks a method, or one whose
            name is taken.
    """
    path = path.resolve()
    if path in _files:
        return
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()[:12]
    module = f"cxr_eval_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{digest}"
    try:
        plugins = _plugins_in(_imported(path, content, module), path)
        for kind, classes in plugins.items():
            for name in classes.keys() & installed(kind).keys():
                raise PluginError(
                    f"{path}: the {SINGULAR[kind]} '{name}' is registered by {package_of(installed(kind)[name])} already;"
                    f" rename the class {classes[name]}"
                )
    except PluginError:
        sys.modules.pop(module, None)
        raise
    _files[path] = _PluginFile(path, digest, module, plugins)
    installed.cache_clear()


@contextmanager
def lent(kind: Kind, name: str, cls: type[Any], digest: str) -> Iterator[None]:
    """A class that is a plugin inside the block without being installed; `digest` stands for its version.

    Raises:
        PluginError: the name is taken.
    """
    if name in installed(kind):
        raise PluginError(f"the {SINGULAR[kind]} '{name}' is registered by {package_of(installed(kind)[name])} already")
    path = Path(f"{name}, handed over")
    module = ModuleType(f"cxr_eval_lent_{digest}")
    vars(module)[cls.__name__] = cls
    sys.modules[module.__name__] = module
    _files[path] = _PluginFile(path, digest, module.__name__, {kind: {name: cls.__name__}})
    installed.cache_clear()
    try:
        yield
    finally:
        del sys.modules[module.__name__], _files[path]
        installed.cache_clear()


def forget_files() -> None:
    """Undo every `register_file`."""
    for file in _files.values():
        sys.modules.pop(file.module, None)
    _files.clear()
    installed.cache_clear()


class _PluginFile(Distribution):
    """A Python file as if it were an installed package: its name, the hash of its content as version, its entry points."""

    def __init__(self, path: Path, digest: str, module: str, plugins: dict[Kind, dict[str, str]]) -> None:
        self.path, self.module = path, module
        groups = [
            [f"[cxr_eval.{kind}]", *(f"{name} = {module}:{cls}" for name, cls in plugins[kind].items())] for kind in plugins
        ]
        self._texts = {
            "METADATA": f"Metadata-Version: 2.1\nName: {path.name}\nVersion: sha256:{digest}\n",
            "entry_points.txt": "\n".join(line for group in groups for line in group),
        }

    def read_text(self, filename: str) -> str | None:
        return self._texts.get(filename)

    def locate_file(self, path: Any) -> Path:
        return self.path.with_name(str(path))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PluginError(f"{path}: there is no such file; --plugin takes a Python file") from None
    except OSError as error:
        raise PluginError(f"{path}: cannot be read: {error.strerror}; --plugin takes a Python file") from None


def _imported(path: Path, content: bytes, name: str) -> ModuleType:
    """The file's module; what runs is what was hashed, and no compiled file is left beside it."""
    try:
        code = compile(content, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = getattr(error, "lineno", None)
        raise PluginError(f"{path}{f':{line}' if line else ''}: is not Python: {getattr(error, 'msg', error)}") from None
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # pydantic looks up the names in annotations there
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{path}: cannot be imported: {_why(error)}") from error
    return module


def _plugins_in(module: ModuleType, path: Path) -> dict[Kind, dict[str, str]]:
    """Class names of the plugins that a module defines, by kind and by the name that a protocol writes."""
    from cxr_eval import api  # not before: it imports torch

    found: dict[Kind, dict[str, str]] = {}
    for title, cls in vars(module).items():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__ or title != cls.__name__ or title.startswith("_"):
            continue
        base = next((base for base in _BASES if issubclass(cls, getattr(api, base))), None)
        if base is None:
            continue
        plugin: Any = cls
        if inspect.isabstract(plugin):
            lacks = ", ".join(sorted(plugin.__abstractmethods__))
            raise PluginError(f"{path}: {title} lacks {lacks}; write it, or start the name with _ if the class is only a base")
        kind, ends = _BASES[base]
        name = _snake_case(re.sub(f"(?<=.)({ends})$", "", title))
        other = found.setdefault(kind, {}).get(name)
        if other is not None:
            raise PluginError(f"{path}: {other} and {title} would both be the {SINGULAR[kind]} '{name}'; rename one of them")
        found[kind][name] = title
    if not found:
        raise PluginError(f"{path}: there is no plugin in it; expected a class such as MyTrainer(cxr_eval.api.Trainer)")
    return found


def _snake_case(title: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", title).lower()


def _why(error: BaseException) -> str:
    """Type and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
