"""Checks of the class itself: what it is, what it says of itself, what it refuses, what it imports."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

import numpy as np
import torch

from cxr_eval.api import Classifier, Trainer
from cxr_eval.classifier import PyTorchClassifier
from cxr_eval.testing import toys
from cxr_eval.testing.subject import Subject, blamed, checks, expect, one_line

from art.defences.trainer import Trainer as ArtTrainer  # isort: skip  # after classifier, which keeps ART off our logging

ART_KEYWORDS = ("x", "y", "validation_data", "batch_size", "nb_epochs")
PUBLIC = ("cxr_eval.api", "cxr_eval.testing")


@checks("is an ART trainer")
def check_is_an_art_trainer(subject: Subject) -> None:
    """It is a subclass of ART's Trainer and trains a stock ART classifier by ART's keyword names."""
    cls = subject.cls
    expect(
        issubclass(cls, ArtTrainer) and issubclass(cls, Trainer),
        f"expected a subclass of cxr_eval.api.Trainer, got one of {cls.__mro__[1].__name__}; write"
        f" class {cls.__name__}(cxr.Trainer)",
    )
    takes = inspect.signature(cls.fit).parameters
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
    missing = [name for name in ART_KEYWORDS if name not in takes]
    expect(
        anything or not missing, f"fit has no {' and no '.join(missing)}; keep ART's keyword names: {', '.join(ART_KEYWORDS)}"
    )
    network = toys.plain_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    shape = (1, toys.SIZE, toys.SIZE)
    classifier = (
        PyTorchClassifier(
            network,
            torch.nn.CrossEntropyLoss(),
            shape,
            toys.CLASSES,
            optimizer=optimizer,
            clip_values=(0.0, 1.0),
            device_type="cpu" if subject.device == "cpu" else "gpu",
        )
        if subject.task == "multiclass"  # ART's own classifier knows no findings
        else Classifier(network, None, shape, toys.CLASSES, optimizer, task=subject.task, device=subject.device)
    )
    trainer = subject.around(classifier, subject.task)
    expect(
        trainer.get_classifier() is classifier,
        "get_classifier() gives another classifier than the one that was handed over; pass that one to super().__init__",
    )
    x, y = subject.images()
    with blamed("fit(x=, y=, validation_data=, batch_size=, nb_epochs=) fails on a stock ART classifier"):
        trainer.fit(x=x, y=y, validation_data=None, batch_size=6, nb_epochs=1)
    with torch.random.fork_rng(devices=[]):  # ART's own classifier draws a number for its data loader
        shape_of_logits = np.shape(trainer.predict(x))
    expect(
        shape_of_logits == (len(x), toys.CLASSES),
        f"expected predict to give logits {(len(x), toys.CLASSES)}, got {shape_of_logits}",
    )


@checks("describes itself and its settings")
def check_describes_itself_and_its_settings(subject: Subject) -> None:
    """Docstring, source, a description of every setting, and defaults that are valid by themselves."""
    cls = subject.cls
    expect(bool((cls.__doc__ or "").strip()), "the class has no docstring; say in one sentence what the loss is")
    expect(
        isinstance(cls.source, str) and bool(cls.source.strip()),
        "the class has no source; name paper and equation, or say that the method is your own: source = '...'",
    )
    for name, field in cls.Params.model_fields.items():
        expect(
            bool((field.description or "").strip()),
            f"the setting '{name}' has no description; give it one with its unit and where its default comes from:"
            f" {name}: ... = cxr.Field(..., description='...')",
        )
    needed = {name for name, field in cls.Params.model_fields.items() if field.is_required()}
    try:
        cls.Params.model_validate({name: value for name, value in subject.settings.items() if name in needed})
    except ValueError as error:
        raise AssertionError(
            f"the default settings are not valid by themselves: {one_line(error)}; choose defaults that pass"
            " the class's own bounds"
        ) from error


@checks("refuses unknown settings")
def check_refuses_unknown_settings(subject: Subject) -> None:
    """A setting that does not exist is a ValueError, so that a typing error never trains something else in silence."""
    try:
        subject.trainer(toys.plain_network(), settings={**subject.settings, "no_such_setting": 1})
    except ValueError:
        return
    except (Exception, SystemExit) as error:
        raise AssertionError(
            f"expected a ValueError for the invented setting 'no_such_setting', got {one_line(error)}; hand settings to"
            " super().__init__(classifier, **settings)"
        ) from error
    raise AssertionError(
        "the invented setting 'no_such_setting' was taken in silence; let Params be a subclass of cxr.Params, and hand all"
        " settings to super().__init__(classifier, **settings)"
    )


@checks("imports the public API only")
def check_imports_the_public_api_only(subject: Subject) -> None:
    """Of cxr-eval, the files of the class and of its package import cxr_eval.api and nothing else."""
    queue, seen = [subject.cls.__module__], set[str]()
    path = _source(subject.cls.__module__)
    if path is None:
        raise SkipTest(f"{subject.cls.__name__} was defined without a source file, so its imports cannot be read")
    while queue:
        name = queue.pop()
        path = _source(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        own = sys.modules[name].__package__ or name
        for line, imported in _imports(path, own):
            if imported == own or imported.startswith(f"{own}."):
                queue.append(imported)
            elif imported.partition(".")[0] == "cxr_eval":
                expect(
                    any(imported == public or imported.startswith(f"{public}.") for public in PUBLIC),
                    f"{path.name}:{line} imports {imported}, which may change without notice; import cxr_eval.api instead, and"
                    " ask for what it lacks",
                )


def _source(module: str) -> Path | None:
    found = sys.modules.get(module)
    path = getattr(found, "__file__", None)
    return Path(path) if path is not None and path.endswith(".py") and Path(path).is_file() else None


def _imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, by statement or by importlib with a name written out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            whole = module in ("cxr_eval", package)  # `from cxr_eval import trainer` imports a module
            yield from ((node.lineno, f"{module}.{alias.name}" if whole else module) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value
