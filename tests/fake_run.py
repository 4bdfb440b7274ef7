"""A run folder made up for tests of the report: numbers follow from names and radii, images are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_eval.store import SCHEMA, Gallery, Run
from cxr_eval.types import Row, RowWarning, SkippedFile

CLASSES = ("covid", "normal", "pneumonia")
HOSTILE = (
    "<script>alert('x')</script>",
    "a \"quoted\" & 'named' | `piped` \\ [link](javascript:alert(1)) $x^2$ *b* {{ 7*7 }}",
    "line\nbreak\ttab \x00\x1b[31m \u202emirrored \ud800",
    "Größe – Ελληνικά – 漢字 – العربية – 🫁",  # noqa: RUF001
    "n" * 300,
)


@dataclass
class Fake:
    """What the made-up run has; every list may be empty."""

    models: tuple[str, ...] = ("resnet18", "densenet121")
    trainers: tuple[str, ...] = ("standard", "fgsm", "pgd")
    seeds: tuple[int, ...] = (0, 1)
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    radii: tuple[str, ...] = ("0.005", "0.01", "0.02", "8/255")
    corruptions: tuple[str, ...] = ("gaussian_noise",)
    outside: tuple[str, ...] = ("kermany",)
    explainers: tuple[str, ...] = ("gradcam", "saliency")
    metrics: tuple[str, ...] = ("relevance_mass[lesion]", "relevance_mass[lung]", "pixel_flipping", "complexity")
    conditions: tuple[str, ...] = ("clean", "pgd:0.02")
    classes: tuple[str, ...] = CLASSES
    images: int = 3
    side: int = 64
    drawn: bool = True
    warnings: tuple[RowWarning, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    failed: tuple[tuple[str, str, int], ...] = ()
    title: str | None = "Which training keeps a chest X-ray classifier right under attack?"
    undefined: tuple[str, ...] = ("precision[covid]",)
    every: bool = True
    """Attacks attack every image, so that all predictions under attack have scores."""
    thresholds: tuple[str, ...] = ()
    """T(IoU) of localisation accuracy by class."""
    settings: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Name and settings of trainers whose label is not their name."""
    fitted: dict[str, Any] = field(default_factory=dict)
    """Models of the trainers that do not fit all, as the manifest says it."""
    more_rows: tuple[Row, ...] = ()
    """Numbers beside those that follow from names and radii."""
    attack_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of attacks beside those that all share, such as their norm."""
    later: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Tables that older versions did not write, such as `checks`."""
    changes: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Run:
        """The run folder."""
        run = Run(folder)
        run.write(
            manifest=self.manifest(),
            protocol="name: fake\nmodels: [resnet18]  # </pre><script>``` \n",
            included={},
            rows=self.rows(),
            warnings=self.warnings,
            skipped=self.skipped,
            counts=self.counts(),
            history=self.history(),
            gallery=self.gallery(),
            later=self.later,
        )
        return run

    def manifest(self) -> dict[str, Any]:
        """As the runner writes it."""

        def uses(labels: tuple[str, ...], **more: Any) -> list[dict[str, Any]]:
            about = {
                "settings": {"eps": [0.005, 0.02], "steps": 10},
                "source": "Madry et al., ICLR 2018",
                "origin": "cxr-eval 0.1.0",
            }
            return [{"label": label, "name": label} | about | more for label in labels]

        names = ("test", *self.outside)
        return {
            "schema": SCHEMA,
            "name": "fake",
            "title": self.title,
            "cite": "arXiv:2311.14227",
            "demonstration": self.drawn,
            "drawn": self.drawn,
            "provenance": "drawn X-rays (phantom), no patient" if self.drawn else "covid_qu_ex",
            "task": "multiclass",
            "protocol": {
                "path": "protocols/fake.yaml",
                "hash": "0123456789abcdef",
                "sets": ["data.limit=100"],
                "demonstration": self.drawn,
            },
            "data": {
                "hash": "fedcba9876543210",
                "reader": {"name": "phantom", "settings": {"images": 300}},
                "outside": {name: [{"name": "table", "settings": {}}] for name in self.outside},
                "classes": list(self.classes),
                "size": self.side,
                "channels": 1,
                "splits": {name: {"images": 120, "patients": 98} for name in ("train", "val", *names)},
            },
            "models": uses(self.models),
            "trainers": [
                use
                | dict(zip(("name", "settings"), self.settings.get(use["label"], (use["label"], use["settings"])), strict=True))
                | {"models": self.fitted.get(use["label"])}
                for use in uses(self.trainers, adversarial=True)
            ],
            "attacks": [
                use | {"settings": use["settings"] | self.attack_settings.get(use["label"], {})} for use in uses(self.attacks)
            ],
            "corruptions": uses(self.corruptions),
            "explainers": uses(self.explainers),
            "explanation_metrics": uses(
                tuple(dict.fromkeys(name.partition("[")[0] for name in self.metrics)),
                better="higher",
                unit="fraction",
                family="localisation",
            ),
            "conditions": list(self.conditions) if self.explainers else [],
            "cells": [
                {
                    "model": model,
                    "trainer": trainer,
                    "seed": seed,
                    "key": f"{len(model):02x}{len(trainer):02x}{seed:02x}aabbccdd",
                    "status": "failed" if failed else "done",
                    "error": "the loss is not finite at epoch 3, batch 12 of 40" if failed else None,
                    "seconds": None if failed else 754.2,
                    "parameters": None if failed else 11_170_243,
                    "epochs": None if failed else 8,
                    "best_epoch": None if failed else 5,
                }
                for model in self.models
                for trainer in self.trainers
                for seed in self.seeds
                if self.fits(model, trainer)
                for failed in [(model, trainer, seed) in self.failed]
            ],
            "versions": {
                "cxr-eval": "0.1.0",
                "python": "3.11.2",
                "torch": "2.14.1",
                "adversarial-robustness-toolbox": "1.20.1",
            },
            "device": {"name": "cpu", "kind": "cpu", "threads": 2},
            "machine": {"python": "3.11.2", "platform": "Linux x86_64", "processor": "x86_64"},
            "seeds": list(self.seeds),
            "started": "2026-01-02T03:04:05+00:00",
            "finished": "2026-01-02T04:34:05+00:00",
            "seconds": 5400.0,
            "train": {"epochs": 8, "batch_size": 64},
            "evaluate": {"batch_size": 64, "resamples": 1000},
        } | self.changes

    def fits(self, model: str, trainer: str) -> bool:
        """True if the trainer fits the model."""
        among = self.fitted.get(trainer)
        return among is None or model in (among if isinstance(among, list) else among.get("chosen", ()))

    def rows(self) -> list[Row]:
        """Numbers that fall with the radius, for every cell that did not fail."""
        rows: list[Row] = []
        for i, model in enumerate(self.models):
            for j, trainer in enumerate(self.trainers):
                for seed in self.seeds:
                    if self.fits(model, trainer) and (model, trainer, seed) not in self.failed:
                        rows += self._cell(model, trainer, seed, i + 1.7 * j + 0.31 * seed, j)
        return [*rows, *self.more_rows]

    def _cell(self, model: str, trainer: str, seed: int, shift: float, hardness: int) -> list[Row]:
        rows: list[Row] = []

        def add(
            split: str,
            condition: str,
            metric: str,
            value: float,
            explainer: str = "",
            better: str = "higher",
            unit: str = "fraction",
        ) -> None:
            if metric in self.undefined:
                value = math.nan
            half = math.nan if math.isnan(value) else 0.043 + 0.002 * hardness
            n = 44 if explainer else 100 if split == "test" else 80
            lowest = -1.0 if metric.startswith("change[") else 0.0
            ends = (max(lowest, value - half), min(1.0, value + half)) if half == half else (math.nan, math.nan)
            rows.append(Row(model, trainer, seed, split, condition, explainer, metric, value, *ends, n, unit, better, "drawn"))  # type: ignore[arg-type]

        def predictions(split: str, condition: str, base: float) -> None:
            whole = ("accuracy", "balanced_accuracy", "precision", "f1", "auroc", "mean_average_precision")
            for k, metric in enumerate(whole):
                add(split, condition, metric, min(0.99, base + 0.013 * k))
            for k, name in enumerate(self.classes):
                for m, metric in enumerate(("recall", "precision", "f1", "auroc", "average_precision")):
                    add(split, condition, f"{metric}[{name}]", min(0.99, max(0.01, base - 0.021 * k + 0.017 * m)))

        for s, split in enumerate(("test", *self.outside)):
            clean = 0.91 - 0.021 * shift - 0.11 * s
            predictions(split, "clean", clean)
            for metric in ("accuracy", "auroc") if s else ():
                add(split, "clean", f"change[{metric}]", -0.11)
                add(split, "clean", f"mean[{metric}]", clean + 0.055)
            for said in self.classes:
                for true in self.classes:
                    if said != true:
                        add(split, "clean", f"called[{said}|{true}]", 0.04, better="lower")
            for a, attack in enumerate((*self.attacks, "worst") if self.attacks and s == 0 else ()):
                add(split, f"{attack}:0", "robust_accuracy", clean)
                for written in self.radii:
                    above, _, below = written.partition("/")
                    radius = float(above) / float(below or 1)
                    left = clean * math.exp(-radius * (90 + 30 * a) / (1 + 1.6 * hardness))
                    add(split, f"{attack}:{written}", "robust_accuracy", left)
                    for k, name in enumerate(self.classes) if attack != "worst" else ():
                        add(split, f"{attack}:{written}", f"robust_recall[{name}]", max(0.01, left - 0.021 * k))
                    if self.every and attack != "worst":
                        predictions(split, f"{attack}:{written}", left)
            if self.every and self.attacks and s == 0:
                add(split, "attacked", "mean_average_robust_precision", 0.4 + 0.1 * hardness)
            for corruption in self.corruptions if s == 0 else ():
                for severity in range(1, 6):
                    predictions(split, f"{corruption}:{severity}", clean - 0.05 * severity)
        for e, explainer in enumerate(self.explainers):
            for c, condition in enumerate(self.conditions):
                for m, metric in enumerate(self.metrics):
                    better, unit = ("lower", "nats") if metric == "complexity" else ("higher", "fraction")
                    value = 0.17 + 0.06 * hardness + 0.05 * e - 0.03 * c + 0.011 * m + 0.004 * shift
                    add("test", condition, metric, value, explainer, better, unit)
            for k, name in enumerate(self.classes if self.thresholds else ()):
                for t in self.thresholds:
                    value = (1 - float(t)) * (0.9 - 0.2 * k) * (0.8 + 0.1 * hardness) - 0.1 * e
                    add("test", "clean", f"localisation_accuracy[{name}@{t}]", min(1.0, max(0.0, value)), explainer)
                add("test", "clean", f"localisation_accuracy[threshold of {name}]", 0.4 + 0.1 * k, explainer, "neither")
        return rows

    def counts(self) -> pd.DataFrame:
        """As the runner writes them."""
        return pd.DataFrame(
            [("phantom", split, name, 40, 33) for split in ("train", "val", "test") for name in self.classes],
            columns=["dataset", "split", "class", "images", "patients"],
        )

    def history(self) -> pd.DataFrame:
        """Eight epochs a cell."""
        lines = [
            {
                "model": model,
                "trainer": trainer,
                "seed": seed,
                "epoch": float(epoch),
                "lr": 1e-3,
                "train_loss": 1.1 * 0.8**epoch + 0.1 * j + 0.03 * seed,
                "val_loss": 1.0 * 0.86**epoch + 0.08 * j + 0.02 * seed,
                "val_balanced_accuracy": 0.9 - 0.5 * 0.7**epoch - 0.03 * j - 0.01 * seed,
            }
            for model in self.models
            for j, trainer in enumerate(self.trainers)
            for seed in self.seeds
            if self.fits(model, trainer) and (model, trainer, seed) not in self.failed
            for epoch in range(8)
        ]
        columns = ["model", "trainer", "seed", "epoch", "lr", "train_loss", "val_loss", "val_balanced_accuracy"]
        return pd.DataFrame(lines, columns=columns)

    def gallery(self) -> Gallery:
        """Blobs with a lesion, attacked by sign noise, with a smooth and a rough map."""
        rng = np.random.default_rng(0)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        entries = []
        v, u = np.mgrid[: self.side, : self.side] / self.side
        for k in range(self.images):
            lungs = np.exp(-(((u - 0.3) / 0.13) ** 2 + ((v - 0.5) / 0.27) ** 2)) + np.exp(
                -(((u - 0.7) / 0.13) ** 2 + ((v - 0.5) / 0.27) ** 2)
            )
            spot = ((u - 0.3 - 0.1 * k) / 0.09) ** 2 + ((v - 0.6) / 0.12) ** 2
            shade = 0.72 - 0.5 * lungs + 0.3 * np.exp(-spot) + 0.02 * rng.standard_normal(u.shape)
            arrays[f"{k}-clean"] = np.rint(np.clip(shade, 0, 1) * 255).astype(np.uint8)
            arrays[f"{k}-lesion"], arrays[f"{k}-lung"] = spot < 1, lungs > 0.45
            panels = []
            for model in self.models:
                for j, trainer in enumerate(name for name in self.trainers if self.fits(model, name)):
                    for condition in ("clean", "pgd:0.02") if self.attacks else ("clean",):
                        name = f"{k}-{len(arrays)}"
                        attacked = condition != "clean"
                        if attacked:
                            arrays[f"{name}-p"] = (0.02 * rng.choice([-1, 1], u.shape)).astype(np.float16)
                        maps = {}
                        for e, explainer in enumerate(self.explainers):
                            near = np.exp(-spot / (1 + 2 * e)) * (0.4 + 0.3 * j) + 0.25 * rng.random(u.shape) ** (
                                3 if e else 60
                            )
                            near = near - 0.12 if e else near
                            arrays[f"{name}-m{e}"] = (np.zeros_like(near) if e and k == 2 else near).astype(np.float16)
                            maps[explainer] = f"{name}-m{e}"
                        panels.append(
                            {
                                "model": model,
                                "trainer": trainer,
                                "seed": self.seeds[0],
                                "condition": condition,
                                "predicted": self.classes[(k + (attacked and j == 0)) % len(self.classes)],
                                "probability": 0.91 - 0.1 * j,
                                "probability_label": 0.91 - 0.1 * j if not (attacked and j == 0) else 0.055,
                                "perturbation": f"{name}-p" if attacked else None,
                                "maps": maps,
                            }
                        )
            entries.append(
                {
                    "image_id": f"images/{k:04d}.png",
                    "split": "test",
                    "label": self.classes[k % len(self.classes)],
                    "clean": f"{k}-clean",
                    "regions": {"lesion": f"{k}-lesion", "lung": f"{k}-lung"},
                    "panels": panels,
                }
            )
        return Gallery(entries, arrays)
