"""What identifies a run: data, plugins with their settings, versions, device, machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from cxr_eval.cascade import AttackNeeds
from cxr_eval.choice import Choice
from cxr_eval.data.datasets import Datasets
from cxr_eval.plan import Plan
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol_file import LoadedProtocol

PACKAGES = (
    "cxr-eval",
    "torch",
    "torchvision",
    "adversarial-robustness-toolbox",
    "quantus",
    "monai",
    "captum",
    "numpy",
    "pandas",
)

OF_METRICS = ("better", "unit", "family", "chance", "chosen")
"""What the manifest says of explanation metrics beside what it says of every plugin."""


def provenance(datasets: Datasets, split: str = "test") -> str:
    """On which images numbers of a split were measured: reader and hash; drawn images say so."""
    readers = [reader for reader in datasets.readers if reader.dataset == split] or [datasets.readers[0]]
    name = "+".join(dict.fromkeys(reader.name for reader in readers))
    drawn = any(reader.drawn for reader in readers)
    return f"{name}:{datasets.hashes[split][:8]}" + (" DRAWN IMAGES, NO PATIENTS" if drawn else "")


def identify(
    loaded: LoadedProtocol,
    key: str,
    planned: Plan,
    datasets: Datasets,
    device: torch.device,
    choices: Mapping[str, Choice],
) -> dict[str, Any]:
    """The manifest of a run, but for its cells and times.

    key: hash of the protocol as it is in force. choices: by trainer, the models that a second stage was fitted to.
    """
    protocol = planned.protocol
    return {
        "name": protocol.name,
        "title": protocol.title or protocol.name,
        "cite": protocol.cite,
        "demonstration": planned.demonstration,
        "drawn": datasets.drawn,
        "provenance": provenance(datasets),
        "task": datasets.task,
        "protocol": {
            "path": str(loaded.path),
            "hash": key,
            "sets": list(loaded.sets),
            "only": list(loaded.only),
            "smoke": loaded.smoke,
            "demonstration": planned.demonstration,
        },
        "data": about_data(planned, datasets),
        **about_plugins(planned, choices),
        "conditions": [condition.label for condition in planned.conditions],
        "seeds": list(protocol.train.seeds),
        "train": protocol.train.model_dump(mode="json"),
        "evaluate": protocol.evaluate.model_dump(mode="json"),
        "about": protocol.report.about.model_dump(mode="json", exclude_none=True),
        "published": [published.model_dump(mode="json") for published in protocol.report.published],
        "explain": None if protocol.explain is None else protocol.explain.model_dump(mode="json"),
        "versions": {package: version(package) for package in PACKAGES},
        "device": about_device(device),
        "machine": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
        },
    }


def about_data(planned: Plan, datasets: Datasets) -> dict[str, Any]:
    """Readers, classes, size, and for each split how many images and patients, and its hash."""
    return {
        "hash": datasets.hash,
        "reader": {"name": planned.reader.name, "settings": planned.reader.settings},
        "outside": {
            name: [{"name": reader.name, "settings": reader.settings} for reader in readers]
            for name, readers in planned.outside.items()
        },
        "left_out": [asdict(left) for left in datasets.left_out],
        "classes": list(datasets.classes),
        "size": planned.protocol.data.size,
        "channels": planned.protocol.data.channels,
        "augment": planned.protocol.data.augment.model_dump(mode="json"),
        "splits": {
            name: {
                "images": len(images),
                "patients": int(images.table["patient"].nunique()),
                "hash": datasets.hashes[name],
                "provenance": provenance(datasets, name),
            }
            for name, images in datasets.splits.items()
        },
    }


def about_plugins(planned: Plan, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Every plugin with all settings, its source and its package; trainers with what they needed and the models they fit."""

    def about(plugin: PlannedPlugin, *more: str) -> dict[str, Any]:
        known = {"label": plugin.label, "name": plugin.name, "settings": plugin.settings, "origin": plugin.origin}
        return known | {name: getattr(plugin.cls, name) for name in ("source", *more)}

    return {
        "models": [about(plugin) for plugin in planned.models],
        "trainers": [about(plugin, "adversarial") | _needed(plugin.label, planned, choices) for plugin in planned.trainers],
        "attacks": [about(plugin) | _built_on(planned.attack_needs[plugin.label]) for plugin in planned.attacks],
        "corruptions": [about(plugin) for plugin in planned.corruptions],
        "explainers": [about(plugin) | {"sign": plugin.cls(plugin.params).sign} for plugin in planned.explainers],
        "explanation_metrics": [about(plugin, *OF_METRICS) for plugin in planned.explanation_metrics],
    }


def _needed(label: str, planned: Plan, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """The trainers that one trainer needed, and the models that it fitted; null for all."""
    needs = planned.needs[label]
    models: Any = None
    if needs.models is not None and needs.models.only is not None:
        models = list(needs.models.only)
    elif needs.models is not None:
        models = needs.models.model_dump(mode="json", exclude={"only"})
        if label in choices:
            models |= {"chosen": list(choices[label].models), "scores": dict(choices[label].scores)}
    return {"warm_start": needs.warm_start, "reference": needs.reference, "models": models}


def _built_on(needs: AttackNeeds) -> dict[str, Any]:
    """The attack that one comes after, and the network that makes its images; null for none."""
    source = None if needs.trainer is None else {"trainer": needs.trainer, "model": needs.model}
    return {"after": needs.after, "transfer_from": source}


def about_device(device: torch.device) -> dict[str, Any]:
    """Name and kind of the device, and threads of the CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"name": name, "kind": device.type, "threads": torch.get_num_threads()}
