"""What only the images and the networks can show to be wrong with a protocol, found before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import torch

from cxr_eval.anatomy import audited_kinds
from cxr_eval.attacks.suite import aimed
from cxr_eval.cells import CellWork
from cxr_eval.classifier import Classifier
from cxr_eval.complaints import Complaint, dotted
from cxr_eval.data.datasets import Datasets
from cxr_eval.errors import CxrEvalError, PluginError, ProtocolError, nearest, raised_at
from cxr_eval.explained_images import region_kinds
from cxr_eval.plan import Plan
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.stats.clinical import no_finding_class
from cxr_eval.types import Key
from cxr_eval.validation import OF_FINDINGS

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

_OF_CLASSES = "is for one class an image; these images have several findings:"
_OF_SEVERAL = "is for several findings an image; these images have one class each:"


def check(loaded: LoadedProtocol, planned: Plan, datasets: Datasets, works: Sequence[CellWork]) -> None:
    """Refuse what only the images and the networks can show to be wrong, before anything is trained.

    Raises:
        ProtocolError: settings that do not fit the classes or the regions of the images, a network that cannot take them, a
            trainer, an attack, an explainer or a metric that cannot work on it. All faults are listed, by line.
    """
    found = [*_of_the_task(planned, datasets)]
    mended = _mended(planned, found)
    found += _of_the_classes(planned, datasets)
    found += _of_the_regions(planned, datasets)
    found += _of_the_networks(planned, datasets, [replace(work, plan=mended) for work in works])
    if found:
        raise loaded.refuse(found)


def _of_the_task(planned: Plan, datasets: Datasets) -> Iterator[Complaint]:
    """Settings for one class an image where there are several findings, and the other way round."""
    train, explain = planned.protocol.train, planned.protocol.explain
    wrong: list[tuple[Key, Any, str]] = []
    if datasets.task == "multilabel":
        if train.select.metric not in OF_FINDINGS:
            wrong.append((("train", "select", "metric"), train.select.metric, "use loss, weighted_loss, auroc or last"))
        if train.class_weights != "none":
            wrong.append((("train", "class_weights"), train.class_weights, "take it out"))
        if train.label_smoothing:
            wrong.append((("train", "label_smoothing"), train.label_smoothing, "take it out"))
        if explain is not None and explain.target == "label":
            wrong.append((("explain", "target"), "'label'", "use finding or predicted"))
        for trainer in planned.trainers:
            models = planned.needs[trainer.label].models
            if models is not None and models.best is not None and models.by != "auroc":
                wrong.append(((*trainer.at, "models", "by"), models.by, "use auroc"))
    else:
        if train.finding_weights != "none":
            wrong.append((("train", "finding_weights"), train.finding_weights, "take it out"))
        if train.finding_loss != "mean":
            wrong.append((("train", "finding_loss"), train.finding_loss, "take it out"))
    why = _OF_CLASSES if datasets.task == "multilabel" else _OF_SEVERAL
    for key, value, instead in wrong:
        yield key, f"{dotted(key)}: {value} {why} {instead}"


def _mended(planned: Plan, found: Sequence[Complaint]) -> Plan:
    """The plan with defaults for the settings of training that are refused, so that no trainer has to refuse them again."""
    train = planned.protocol.train
    refused = {str(key[1]) for key, _ in found if key[0] == "train"}
    defaults = {name: field.default for name, field in type(train).model_fields.items() if name in refused}
    changed = planned.protocol.model_copy(update={"train": train.model_copy(update=defaults)})
    return replace(planned, protocol=changed)


def _of_the_classes(planned: Plan, datasets: Datasets) -> Iterator[Complaint]:
    """Classes and findings that the images do not have."""
    try:
        no_finding_class(datasets.classes, planned.protocol.evaluate.no_finding)
    except ValueError as error:
        yield ("evaluate", "no_finding"), f"evaluate.{error}"
    for attack in _attacks(planned):
        try:
            aimed(datasets.splits["test"], [], attack.settings["goal"])
        except PluginError as error:
            yield (*attack.at, "goal"), f"{dotted(attack.at)}: {error}"


def _of_the_regions(planned: Plan, datasets: Datasets) -> Iterator[Complaint]:
    """Kinds of region that the images do not have."""
    anatomy, explain = planned.protocol.evaluate.anatomy, planned.protocol.explain
    if anatomy is not None and anatomy.regions is not None:
        everything = anatomy.model_copy(update={"regions": None})
        tests = [datasets.splits[name] for name in ("test", *planned.outside)]
        there = sorted({kind for images in tests for kind in audited_kinds(images, everything)})
        for number, kind in enumerate(anatomy.regions):
            key: Key = ("evaluate", "anatomy", "regions", number)
            if kind in there:
                continue
            why = "is a class, whose regions are not audited" if kind in datasets.classes else "is in no test image"
            hint = nearest(kind, there) or f"; they have: {', '.join(there) or 'none'}"
            yield key, f"{dotted(key[:-1])}: the kind of region '{kind}' {why}{hint}"
    if explain is not None:
        try:
            kinds = region_kinds(datasets.splits[explain.split], explain)
        except ProtocolError as error:
            yield ("explain", "target"), str(error)
            return
        found = list[Complaint]()
        for metric in planned.explanation_metrics:
            _tried(found, metric, _check, metric, kinds)
        yield from found


def _of_the_networks(planned: Plan, datasets: Datasets, works: Sequence[CellWork]) -> Iterator[Complaint]:
    """Networks that cannot be built for the images, and plugins that cannot work on those that can."""
    refused: dict[Complaint, list[str]] = {}
    built = list[str]()
    for model in planned.models:
        ours = {work.cell.trainer.label: work for work in works if work.cell.model.label == model.label}
        if not ours:
            continue  # none of its cells is run
        unbuilt, found = list[Complaint](), list[Complaint]()
        classifier = _tried(unbuilt, model, next(iter(ours.values())).untrained)
        yield from unbuilt
        if classifier is None:
            continue
        built.append(model.label)
        for work in ours.values():
            _tried(found, work.cell.trainer, work.trainer, classifier)
            if not work.cell.trainer.cls.trains:
                _tried(found, model, _all_given, work, classifier)
        for attack in _attacks(planned):
            _tried(found, attack, _check, attack, classifier)
        x = datasets.splits["test"].take([0]).to(classifier.device)
        for explainer in planned.explainers:
            _tried(found, explainer, _check, explainer, classifier.model, x)
        for complaint in dict.fromkeys(found):
            refused.setdefault(complaint, []).append(model.label)
    for (key, text), labels in refused.items():
        yield key, text if labels == built else f"{text} (on {' and '.join(labels)})"


def _all_given(work: CellWork, classifier: Classifier) -> None:
    """Refuse a network that is not to be trained although some of its weights are drawn by lot.

    classifier: the cell's, untrained. It is built again from another seed: what differs was not given.
    """
    again = replace(work, cell=replace(work.cell, seed=work.cell.seed + 1)).untrained().model.state_dict()
    own = classifier.model.state_dict()
    drawn = [name.removeprefix("net.") for name in own if not torch.equal(own[name].nan_to_num(), again[name].nan_to_num())]
    if drawn:
        what = f"{drawn[0]} is" if len(drawn) == 1 else f"{drawn[0]} and {len(drawn) - 1} more of {len(own)} tensors are"
        raise PluginError(
            f"{work.cell.model.label}: {what} drawn by lot, and '{work.cell.trainer.label}' trains nothing; give 'weights', a"
            f" file of this network with a head for these {classifier.nb_classes} classes"
        )


def _attacks(planned: Plan) -> list[PlannedPlugin]:
    """All attacks, those of explained images too."""
    return [*planned.attacks, *(condition.attack for condition in planned.conditions if condition.attack is not None)]


def _check(planned: PlannedPlugin, *given: Any) -> None:
    planned.cls(planned.params).check(*given)


def _tried(
    found: list[Complaint],
    planned: PlannedPlugin,
    attempt: Callable[_Given, _Made],
    *args: _Given.args,
    **kwargs: _Given.kwargs,
) -> _Made | None:
    """What comes out of an attempt with a plugin, or a complaint where the protocol names the plugin."""
    try:
        return attempt(*args, **kwargs)
    except PluginError as error:
        said = str(error)
    except CxrEvalError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        said = f"{planned.label}: {raised_at(error)}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    found.append((planned.at, f"{dotted(planned.at)}: {said}"))
    return None
