"""What is explained of one cell, pair by pair of an image and a class, on images of 8 x 8 pixels."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cxr_eval.api as cxr
from cxr_eval import runner
from cxr_eval.attacks.corruptions import GaussianNoise
from cxr_eval.attacks.gradient import FGSM
from cxr_eval.errors import PluginError, ProtocolError
from cxr_eval.explain.iou import LocalisationAccuracy
from cxr_eval.explain.localisation import RelevanceMass
from cxr_eval.explain.methods import Saliency
from cxr_eval.explain.randomisation import ModelRandomisation, randomised
from cxr_eval.explain.similarity import SIMILARITIES, map_ssim
from cxr_eval.explain.stability import MaxSensitivity
from cxr_eval.explained_images import region_kinds
from cxr_eval.explanations import Explanations, Reference, random_pairs
from cxr_eval.images import ImageSet, Regions
from cxr_eval.panels import collect, shown
from cxr_eval.plan import PlannedCondition
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol import Explain
from cxr_eval.protocol_file import load
from cxr_eval.seeds import stream
from cxr_eval.store import Run, content_key
from cxr_eval.tables import CellTables

CLASSES = ("effusion", "mass", "nodule")
CLEAN = PlannedCondition("clean")
SIZE = 8


class Watching(cxr.ExplanationMetric):
    """The target, which is also shared out among all images, and a record of what it was shown."""

    family = "axiomatic"
    seen: list[cxr.Explained]
    settled: list[dict[str, Any]]

    def measure(self, explained: cxr.Explained) -> dict[str, np.ndarray]:
        type(self).seen.append(explained)
        return {"watching": explained.target.astype(float), "watching[bright]": explained.x.mean(axis=(1, 2, 3)).astype(float)}

    def settle(self, values: dict[str, np.ndarray], **about: Any) -> dict[str, np.ndarray]:
        type(self).settled.append(about)
        return values | {"watching[share]": values["watching"] / values["watching"].sum()}


class Wrong(cxr.ExplanationMetric):
    family = "axiomatic"

    def measure(self, explained: cxr.Explained) -> dict[str, np.ndarray]:
        return {"wrong": np.zeros(1)}


class Shrinking(Wrong):
    def measure(self, explained: cxr.Explained) -> dict[str, np.ndarray]:
        return {"wrong": np.zeros(len(explained.x))}

    def settle(self, values: dict[str, np.ndarray], **about: Any) -> dict[str, np.ndarray]:
        return {name: array[:1] for name, array in values.items()}


@pytest.fixture(autouse=True)
def _forget() -> None:
    Watching.seen, Watching.settled = [], []


def planned(kind: Any, name: str, cls: type[Any], **settings: Any) -> PlannedPlugin:
    params = cls.Params(**settings)
    return PlannedPlugin(kind, name, name, cls, params, params.model_dump(mode="json"), "p 1")


def regions(count: int, **masks: dict[int, tuple[int, int]]) -> dict[str, Regions]:
    """Masks by kind and row: the upper left corner of 3 x 3 pixels; an empty mask where it lies outside."""
    found = {}
    for kind, places in masks.items():
        array = np.zeros((len(places), SIZE, SIZE), dtype=bool)
        row = np.full(count, -1)
        for number, (image, (top, left)) in enumerate(places.items()):
            array[number, top : top + 3, left : left + 3] = True
            row[image] = number
        found[kind] = Regions(array, row)
    return found


def findings(count: int = 8, **masks: dict[int, tuple[int, int]]) -> ImageSet:
    """Images of several findings each, two a patient. By default: 1 and 4 with one region, 2 with two, 6 with an empty one."""
    masks = masks or {
        "effusion": {2: (0, 0), 6: (SIZE, SIZE)},
        "nodule": {1: (5, 5), 2: (4, 1), 4: (2, 2)},
        "lung": dict.fromkeys(range(7), (1, 1)),
    }
    rng = np.random.default_rng(0)
    x = rng.random((count, 1, SIZE, SIZE)).astype(np.float32)
    y = rng.integers(0, 2, (count, 3)).astype(np.float32)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(count)], "patient": [f"p{k // 2}" for k in range(count)]})
    return ImageSet(x, np.arange(count), y, table, CLASSES, "test", regions(count, **masks))


def single(count: int = 6) -> ImageSet:
    """Images of one class each, some with a region that is called like a class."""
    images = findings(count, lesion={0: (0, 0), 3: (2, 2)}, mass={1: (3, 3)})
    return ImageSet(images.pixels, images.rows, np.arange(count) % 3, images.table, CLASSES, "test", images.regions)


class Work:
    """As much of a cell as explanations ask for: a network that was never trained, and a folder for what is computed."""

    def __init__(self, toys: ModuleType, folder: Path, drawn: ImageSet, *metrics: PlannedPlugin, **explain: Any) -> None:
        settings = {"methods": ["saliency"], "images": 8, "target": "finding"} | explain
        size = settings.pop("batch_size", 3)
        protocol = SimpleNamespace(explain=Explain.model_validate(settings), evaluate=SimpleNamespace(batch_size=size))
        explainers = (planned("explainers", "saliency", Saliency),)
        attack = planned("attacks", "fgsm", FGSM, eps=0.1)
        self.attacked = PlannedCondition("fgsm:0.1", attack, 0.1)
        noise = planned("corruptions", "gaussian_noise", GaussianNoise)
        self.noisy = PlannedCondition("gaussian_noise:5", corruption=noise, severity=5)
        self.plan = SimpleNamespace(
            protocol=protocol, explanation_metrics=metrics, explainers=explainers, conditions=(CLEAN, self.attacked)
        )
        task = "multilabel" if drawn.y.ndim == 2 else "multiclass"
        self.datasets = SimpleNamespace(splits={"test": drawn}, hashes={"test": "h"}, task=task)
        named = {"model": SimpleNamespace(label="m"), "trainer": SimpleNamespace(label="t")}
        self.cell = SimpleNamespace(seed=0, **named)
        self.classifier = toys.ours(toys.build(toys.plain), task=task)
        self.run = Run(folder)
        self.tables = CellTables(self.run.cell("cell").folder)
        self.computed: list[str] = []

    def progress(self, *told: object) -> None:
        pass

    @contextmanager
    def evaluation(self, content: dict[str, Any], what: str, *, say: bool = True) -> Iterator[Any]:
        work = self.run.evaluation("cell", content_key(content))
        there = work.done
        yield work
        if not there:
            work.finish(what=what)
            self.computed.append(what)


def names(images: ImageSet, explanations: Explanations, condition: PlannedCondition = CLEAN) -> list[tuple[str, str]]:
    places, target = explanations.pairs(condition)
    index = explanations.images[1]
    return [(f"i{index[place]}", CLASSES[k]) for place, k in zip(places, target, strict=True)]


def test_a_finding_is_every_image_with_every_class_that_it_has_a_region_of(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    found = names(images, Explanations(Work(toys, tmp_path, images)))
    assert sorted(found) == [("i1", "nodule"), ("i2", "effusion"), ("i2", "nodule"), ("i4", "nodule")]
    assert found.index(("i2", "nodule")) == found.index(("i2", "effusion")) + 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_at_most_as_many_images_as_asked_are_explained_those_with_findings_first(
    toys: ModuleType, tmp_path: Path, count: int
) -> None:
    images = findings(40)  # three of them with findings
    every = Explanations(Work(toys, tmp_path, images, images=40))
    fewer = Explanations(Work(toys, tmp_path, images, images=count))
    assert len(fewer.images[1]) == count
    assert fewer.images[1].tolist() == every.images[1][:count].tolist()
    assert names(images, fewer) == names(images, every)[: len(names(images, fewer))]


def test_each_pair_has_the_map_of_its_own_class(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    work = Work(toys, tmp_path, images)
    explanations = Explanations(work)
    maps = explanations.maps(work.plan.explainers[0], CLEAN)
    for (image, name), found in zip(names(images, explanations), maps, strict=True):
        x, target = images.take([int(image[1:])]), torch.tensor([CLASSES.index(name)])
        alone = Saliency().explain(work.classifier.model, x, target)[0].numpy()
        np.testing.assert_allclose(found, alone, atol=np.abs(alone).max() * 2**-10)  # kept as float16


def tried(work: Work) -> Explanations:
    """Explanations whose self-tests are done, and forgotten by the metric that watches."""
    explanations = Explanations(work)  # type: ignore[arg-type]
    assert explanations.failed == frozenset()
    Watching.seen, Watching.settled = [], []
    return explanations


def test_metrics_see_the_region_of_the_class_and_no_other_class(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    work = Work(toys, tmp_path, images, planned("explanation_metrics", "watching", Watching))
    explanations = tried(work)
    explanations.values(work.plan.explainers[0], CLEAN)
    found = names(images, explanations)
    assert [len(seen.x) for seen in Watching.seen] == [3, 1]
    assert all(seen.kinds == ("finding", "lung") for seen in Watching.seen)
    for kind in ("finding", "lung"):
        masks = np.concatenate([seen.region(kind) for seen in Watching.seen])
        for (image, name), mask in zip(found, masks, strict=True):
            row = [int(image[1:])]
            assert np.array_equal(mask, images.region(name if kind == "finding" else "lung", row)[0])
            assert mask.any()
    x = np.concatenate([seen.x for seen in Watching.seen])
    assert np.array_equal(x, images.take([int(image[1:]) for image, _ in found]).numpy())
    assert [CLASSES[k] for seen in Watching.seen for k in seen.target] == [name for _, name in found]


def test_values_say_which_class_was_explained_and_settle_sees_all_pairs_at_once(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    work = Work(toys, tmp_path, images, planned("explanation_metrics", "watching", Watching))
    explanations = tried(work)
    table = explanations.values(work.plan.explainers[0], CLEAN)
    found = names(images, explanations)
    assert set(table["metric"]) == {"watching", "watching[bright]", "watching[share]"}
    for _, part in table.groupby("metric"):
        assert list(zip(part["image_id"], part["target"], strict=True)) == found
        assert part["patient"].tolist() == [f"p{int(image[1:]) // 2}" for image, _ in found]
    # targets: nodule is 2, three times; effusion is 0, once; their sum is 6
    share = table[table["metric"] == "watching[share]"]
    assert share["value"].tolist() == [2 / 6 if name == "nodule" else 0.0 for _, name in found]
    (about,) = Watching.settled
    assert about["classes"] == CLASSES
    assert [CLASSES[k] for k in about["targets"]] == [name for _, name in found]
    assert about["patients"] == [f"p{int(image[1:]) // 2}" for image, _ in found]


def test_an_image_is_attacked_once_and_its_pairs_share_the_attacked_image(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    work = Work(toys, tmp_path, images, planned("explanation_metrics", "watching", Watching))
    explanations = tried(work)
    explanations.values(work.plan.explainers[0], work.attacked)
    table, perturbation = explanations.condition(work.attacked)
    assert perturbation is not None
    assert len(perturbation) == len(table) == len(explanations.images[1]) == 3
    places, _ = explanations.pairs(work.attacked)
    x = np.concatenate([seen.x for seen in Watching.seen])
    np.testing.assert_allclose(x, images.take(explanations.images[1]).numpy()[places] + perturbation[places], atol=1e-6)
    assert np.abs(perturbation).max() == pytest.approx(0.1, abs=1e-6)
    assert [what for what in work.computed if what.startswith("images to explain")] == ["images to explain, fgsm:0.1"]


def test_the_batch_size_changes_no_value(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    metrics = [planned("explanation_metrics", cls.name, cls) for cls in (RelevanceMass, LocalisationAccuracy)]
    tables = []
    for size in (1, 3, 64):
        work = Work(toys, tmp_path / str(size), images, *metrics, batch_size=size)
        tables.append(Explanations(work).values(work.plan.explainers[0], CLEAN))
    for table in tables[1:]:
        assert table["metric"].tolist() == tables[0]["metric"].tolist()
        np.testing.assert_allclose(table["value"], tables[0]["value"], rtol=1e-4)


def test_region_shares_are_those_of_the_pairs(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    explanations = Explanations(Work(toys, tmp_path, images))
    shares = explanations.region_shares()
    assert shares["image_id"].tolist() == [image for image, _ in names(images, explanations)]
    assert list(shares.columns) == ["image_id", "patient", "finding", "lung"]
    assert shares["finding"].tolist() == [9 / 64] * 4


def test_findings_without_a_region_called_like_a_class_are_refused(toys: ModuleType, tmp_path: Path) -> None:
    message = (
        r"explain.target: 'finding' needs boxes or masks that are named like a class \(effusion, mass, nodule\); the images of"
        " test have: lung; use label or predicted"
    )
    images = findings(lung={0: (1, 1)})
    with pytest.raises(ProtocolError, match=message):
        region_kinds(images, Explain(methods=["saliency"], target="finding"))
    with pytest.raises(ProtocolError, match="have: mass; use label"):  # a mask that is empty everywhere says nothing
        region_kinds(findings(mass={0: (SIZE, SIZE)}), Explain(methods=["saliency"], target="finding"))
    assert region_kinds(images, Explain(methods=["saliency"], target="predicted")) == ("lung",)


def test_labels_and_predictions_are_one_pair_an_image_with_all_kinds_of_region(toys: ModuleType, tmp_path: Path) -> None:
    images = single()
    for target in ("label", "predicted"):
        watching = planned("explanation_metrics", "watching", Watching)
        work = Work(toys, tmp_path / target, images, watching, target=target)
        explanations = Explanations(work)
        index = explanations.images[1]
        assert explanations.kinds == ("lesion", "mass")
        for condition in work.plan.conditions:
            places, classes = explanations.pairs(condition)
            table, _ = explanations.condition(condition)
            said = [CLASSES[k] for k in classes]
            assert places.tolist() == list(range(6))
            assert said == table["label" if target == "label" else "predicted"].tolist()
            values = explanations.values(work.plan.explainers[0], condition)
            assert values["target"].tolist() == said * 3
        shares = explanations.region_shares()
        assert shares["image_id"].tolist() == [f"i{k}" for k in index]
        assert shares["lesion"].notna().sum() == 2
        assert np.array_equal(explanations.region("mass", index, index), images.region("mass", index))


@pytest.mark.parametrize("metric", [Wrong, Shrinking])
def test_a_metric_that_does_not_give_one_value_an_image_is_refused(
    toys: ModuleType, tmp_path: Path, metric: type[cxr.ExplanationMetric]
) -> None:
    work = Work(toys, tmp_path, findings(), planned("explanation_metrics", "wrong", metric))
    explanations = Explanations(work)
    explanations.failed = frozenset()  # as if its self-tests had let it through
    with pytest.raises(PluginError, match=r"wrong: measured 'wrong' of shape \(1,\) for [34] images; expected \([34],\)"):
        explanations.values(work.plan.explainers[0], CLEAN)


def test_the_gallery_has_an_entry_for_each_finding(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    work = Work(toys, tmp_path, images)
    explanations = Explanations(work)
    gallery = collect([work], 3)
    found = names(images, explanations)[:3]
    assert [(entry["image_id"], entry["label"]) for entry in gallery.entries] == found
    for place, (image, name) in enumerate(found):
        entry, row = gallery.entries[place], int(image[1:])
        assert set(entry["regions"]) == {"finding", "lung"}
        assert np.array_equal(gallery.arrays[entry["regions"]["finding"]], images.region(name, [row])[0])
        for panel, condition in zip(entry["panels"], work.plan.conditions, strict=True):
            table, perturbation = explanations.condition(condition)
            line = table.set_index("image_id").loc[image]
            maps = explanations.maps(work.plan.explainers[0], condition)
            assert panel["predicted"] is None
            assert panel["probability_label"] == line[f"p_{name}"]
            shape = maps[place] / np.abs(maps[place]).max()
            stored = gallery.arrays[panel["maps"]["saliency"]]
            np.testing.assert_allclose(stored, shape, atol=0.5 / 127 + 1e-3)  # kept in steps of 1/127, as float16
            if perturbation is not None:
                number = explanations.images[1].tolist().index(row)
                stored = gallery.arrays[panel["perturbation"]]
                np.testing.assert_allclose(stored, perturbation[number, 0], atol=1e-4)  # kept as float16
                assert panel["largest"] == np.abs(perturbation[number]).max()


def test_the_gallery_keeps_one_seed_a_model_the_first_that_most_of_its_trainers_have() -> None:
    def cell(model: str, trainer: str, seed: int) -> SimpleNamespace:
        work = SimpleNamespace(model=SimpleNamespace(label=model), trainer=SimpleNamespace(label=trainer), seed=seed)
        return SimpleNamespace(cell=work)

    works = [cell("a", "x", 0), cell("a", "x", 1), cell("a", "y", 1), cell("b", "x", 0), cell("b", "x", 1)]
    kept = [(work.cell.model.label, work.cell.trainer.label, work.cell.seed) for work in shown(works)]
    assert kept == [("a", "x", 1), ("a", "y", 1), ("b", "x", 0)]  # of a, seed 1 has two trainers; of b, both have one


@pytest.fixture
def there(toys: ModuleType, tmp_path: Path) -> Explanations:
    """Six explained images of one class each: two with a lesion, one of these with lungs too."""
    images = findings(6, lesion={0: (0, 0), 3: (2, 2)}, lung={0: (1, 1)})
    images = ImageSet(images.pixels, images.rows, np.arange(6) % 3, images.table, CLASSES, "test", images.regions)
    metrics = [
        planned("explanation_metrics", "relevance_mass", RelevanceMass),
        planned("explanation_metrics", "max_sensitivity", MaxSensitivity, samples=2),
        planned("explanation_metrics", "model_randomisation", ModelRandomisation),
    ]
    return Explanations(Work(toys, tmp_path, images, *metrics, target="label"))


def test_each_explainer_has_a_random_network_of_its_own_beside_the_other_references(there: Explanations) -> None:
    every = ["oracle", "random", "centre", "edges", "lungs", "constant", "randomised(saliency)"]
    assert [reference.label for reference in there.references] == every


def test_the_oracle_is_the_region_and_undefined_where_there_is_none(there: Explanations) -> None:
    images, index = there.images
    maps, lungs = there.maps(Reference("oracle"), CLEAN), there.maps(Reference("lungs"), CLEAN)
    for place, row in enumerate(index):
        if row in (0, 3):
            assert np.array_equal(maps[place], images.region("lesion", [row])[0])
        else:
            assert np.isnan(maps[place]).all()
    assert [row for place, row in enumerate(index) if np.isfinite(lungs[place]).all()] == [0]


def test_where_findings_are_explained_the_oracle_is_the_region_of_each(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    explanations = Explanations(Work(toys, tmp_path, images))
    maps = explanations.maps(Reference("oracle"), CLEAN)
    for (image, name), found in zip(names(images, explanations), maps, strict=True):
        assert np.array_equal(found, images.region(name, [int(image[1:])])[0])


def test_metrics_say_of_references_what_follows_from_their_maps(there: Explanations) -> None:
    def means(reference: Reference) -> dict[str, float]:
        table = there.values(reference, CLEAN)
        assert set(table["explainer"]) == {reference.label}
        found: dict[str, float] = table.groupby("metric")["value"].mean().to_dict()
        return found

    oracle, constant, edges, centre = (means(Reference(name)) for name in ("oracle", "constant", "edges", "centre"))
    assert oracle["relevance_mass[lesion]"] == 1
    # a mask is a function of neither the image nor the network
    assert np.isnan(oracle["max_sensitivity"])
    assert np.isnan(oracle["model_randomisation"])
    assert np.isnan(list(constant.values())).all()
    assert 0 < edges["relevance_mass[lesion]"] < 1
    assert edges["max_sensitivity"] > 0
    assert edges["model_randomisation"] == pytest.approx(1)  # whatever the network
    assert centre["max_sensitivity"] == 0


def test_a_randomised_explainer_explains_the_one_random_network_of_the_cell(there: Explanations) -> None:
    images, index = there.images
    reference = there.references[-1]
    assert reference.of is not None
    network = randomised(there.work.classifier.model, stream(0, "references"))
    expected = Saliency().explain(network, images.take(index), images.targets(index)).numpy()
    np.testing.assert_allclose(there.maps(reference, CLEAN), expected, atol=np.abs(expected).max() * 2**-10)  # float16
    assert not np.allclose(there.maps(reference.of, CLEAN), expected)


def test_what_was_computed_of_a_reference_is_not_computed_again(there: Explanations) -> None:
    computed: list[str] = there.work.computed  # type: ignore[attr-defined]
    tables = [there.values(reference, CLEAN) for reference in there.references]
    once = list(computed)
    assert "random, clean, relevance_mass" in once
    for reference, table in zip(there.references, tables, strict=True):
        pd.testing.assert_frame_equal(there.values(reference, CLEAN), table)
    assert computed == once


def test_plugins_that_failed_are_not_used(there: Explanations) -> None:
    fewer = Explanations(there.work)
    fewer.failed = frozenset({("explanation_metrics", "max_sensitivity"), ("explainers", "relevance_mass")})
    assert [metric.label for metric in fewer.metrics] == ["relevance_mass", "model_randomisation"]
    assert set(fewer.values(Reference("edges"), CLEAN)["metric"]) == {"relevance_mass[lesion]", "relevance_mass[lung]",
                                                                     "model_randomisation"}  # fmt: skip
    without = Explanations(there.work)
    without.failed = frozenset({("explainers", "saliency")})
    assert without.explainers == ()
    assert "randomised(saliency)" not in [reference.label for reference in without.references]


def test_explainers_and_metrics_are_tried_on_the_network_before_they_are_used(there: Explanations) -> None:
    tried = {(test.plugin, test.label) for test in there.tried}
    planned = there.work.plan
    assert tried == {("explainers", each.label) for each in planned.explainers} | {
        ("explanation_metrics", each.label) for each in planned.explanation_metrics
    }
    assert there.failed == frozenset()
    assert Explanations(there.work).tried == there.tried  # stored, and read again


def test_corrupted_images_are_explained_as_the_corruption_leaves_them(there: Explanations) -> None:
    noisy = there.work.noisy  # type: ignore[attr-defined]
    images, index = there.images
    expected = GaussianNoise().corrupt(images.take(index), severity=5, seed=0)
    table, change = there.condition(noisy)
    assert change is not None
    np.testing.assert_allclose(images.take(index) + torch.from_numpy(change), expected, atol=1e-6)
    logits = there.work.classifier.logits(expected)
    assert table["predicted"].tolist() == [CLASSES[k] for k in logits.argmax(dim=1)]
    milder = PlannedCondition("gaussian_noise:1", corruption=noisy.corruption, severity=1)
    assert np.abs(there.condition(milder)[1]).mean() < np.abs(change).mean()  # type: ignore[arg-type]


class Staged(cxr.Attack):
    """Two stages: the first moves nothing, the second paints white what the first left."""

    class Params(cxr.AttackParams):
        moves: bool = False

    def stages(self, classifier: cxr.Classifier) -> tuple[tuple[str, cxr.Attack], ...]:
        return tuple((str(moves), Staged(self.params.model_copy(update={"moves": moves}))) for moves in (False, True))

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        return torch.ones_like(x) if self.params.moves else x


def test_an_attack_in_stages_leaves_what_a_stage_broke_and_goes_on_with_the_rest(there: Explanations) -> None:
    images, index = there.images
    condition = PlannedCondition("staged:1", planned("attacks", "staged", Staged, eps=1.0), 1.0)
    right = there.work.classifier.logits(images.take(index)).argmax(dim=1) == images.targets(index)
    assert 0 < right.sum() < len(right)
    change = there.condition(condition)[1]
    assert change is not None
    assert (np.abs(change).max(axis=(1, 2, 3)) > 0).tolist() == right.tolist()


def test_an_attack_with_a_goal_leaves_the_other_images_alone(toys: ModuleType, tmp_path: Path) -> None:
    images = findings()
    explanations = Explanations(Work(toys, tmp_path, images))
    attack = planned("attacks", "fgsm", FGSM, eps=0.1, goal="hide nodule")
    _, change = explanations.condition(PlannedCondition("fgsm:0.1", attack, 0.1))
    assert change is not None
    has = images.y[explanations.images[1], CLASSES.index("nodule")] == 1
    assert 0 < has.sum() < len(has)
    assert (np.abs(change).max(axis=(1, 2, 3)) > 0).tolist() == has.tolist()


def test_maps_of_changed_images_are_compared_with_those_of_the_same_pairs(there: Explanations) -> None:
    explainer = there.work.plan.explainers[0]
    attacked = PlannedCondition("fgsm:1", planned("attacks", "fgsm", FGSM, eps=1.0), 1.0)
    table = there.similarities(explainer, attacked)
    assert set(table["explainer"]) == {"saliency"}
    expected = map_ssim(there.maps(explainer, CLEAN), there.maps(explainer, attacked))
    values = {name: part["value"].to_numpy() for name, part in table.groupby("metric", sort=False)}
    assert set(values) == {name + group for name in SIMILARITIES for group in ("", "[kept]", "[flipped]")}
    np.testing.assert_array_equal(values["map_ssim"], expected)
    before, after = (there.condition(each)[0]["predicted"] for each in (CLEAN, attacked))
    assert 0 < (before == after).sum() < len(before)
    np.testing.assert_array_equal(values["map_ssim[kept]"], np.where(before == after, expected, np.nan))
    np.testing.assert_array_equal(values["map_ssim[flipped]"], np.where(before == after, np.nan, expected))


def test_a_condition_that_changes_nothing_leaves_every_map_as_it_is(there: Explanations) -> None:
    still = PlannedCondition("fgsm:0", planned("attacks", "fgsm", FGSM, eps=0.0), 0.0)
    table = there.similarities(there.work.plan.explainers[0], still)
    assert table[table["metric"].str.endswith("[flipped]")]["value"].isna().all()
    np.testing.assert_allclose(table[~table["metric"].str.endswith("[flipped]")]["value"], 1.0)


def test_of_findings_the_explained_one_says_whether_the_prediction_is_kept(toys: ModuleType, tmp_path: Path) -> None:
    explanations = Explanations(Work(toys, tmp_path, findings()))
    attacked = explanations.work.attacked  # type: ignore[attr-defined]
    places, target = explanations.pairs(CLEAN)
    sides = [explanations.condition(each)[0] for each in (CLEAN, attacked)]
    expected = []
    for place, k in zip(places, target, strict=True):
        before, after = (float(table[f"p_{CLASSES[k]}"].iloc[place]) for table in sides)
        expected.append((before > 0.5) == (after > 0.5))
    assert explanations.kept(attacked, CLEAN).tolist() == expected


def test_random_pairs_of_clean_maps_say_how_alike_unrelated_maps_are(there: Explanations) -> None:
    explainer = there.work.plan.explainers[0]
    table = there.similarities(explainer, CLEAN)
    assert set(table["metric"]) == {f"{name}[random pairs]" for name in SIMILARITIES}
    part = table[table["metric"] == "map_ssim[random pairs]"]
    assert len(part) == 6 * 5 / 2  # all pairs of six images
    maps = there.maps(explainer, CLEAN)
    every = [map_ssim(maps[[a]], maps[[b]])[0] for a in range(6) for b in range(a)]
    assert part["value"].mean() == pytest.approx(np.mean(every))


def test_random_pairs_are_of_different_images_and_none_comes_twice() -> None:
    images = np.repeat(np.arange(40), 2)
    first, second = random_pairs(images)
    assert len(first) == 50
    assert (images[first] != images[second]).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 50
    assert len(random_pairs(np.array([3, 3]))[0]) == 0
    assert len(random_pairs(np.empty(0, dtype=np.int64))[0]) == 0


class Tuned(cxr.ExplanationMetric):
    """The largest pixel of all validation maps, and what was tuned on."""

    family = "axiomatic"
    scale_free = False
    tuned_on = "val"
    asked: ClassVar[list[cxr.Explained]] = []

    def tune(self, batches: Any) -> dict[str, float]:
        type(self).asked += (seen := list(batches))
        return {"largest": max((float(each.maps.max()) for each in seen), default=-1.0)}

    def measure(self, explained: cxr.Explained) -> dict[str, np.ndarray]:
        return {"tuned": np.full(len(explained.x), self.tuned["largest"])}


def test_a_metric_is_tuned_once_on_clean_maps_of_its_own_split(toys: ModuleType, tmp_path: Path) -> None:
    images, others = findings(), findings(12, nodule={3: (1, 1), 7: (2, 3)})
    work = Work(toys, tmp_path, images, planned("explanation_metrics", "tuned", Tuned))
    work.datasets.splits["val"], work.datasets.hashes["val"] = dataclasses.replace(others, name="val"), "v"
    explanations, explainer = Explanations(work), work.plan.explainers[0]
    assert [test.sentence for test in explanations.tried if test.verdict == "FAIL"] == []  # tried on a toy first
    Tuned.asked = []
    tables = [explanations.values(explainer, condition) for condition in (CLEAN, work.attacked)]
    assert sum(len(each.x) for each in Tuned.asked) == 2  # the two validation images that have a region, once
    maps = Saliency().explain(work.classifier.model, others.take([3, 7]), torch.tensor([2, 2]))
    for table in tables:
        assert table["value"].tolist() == [pytest.approx(float(maps.max()))] * 4


def test_where_no_validation_image_has_a_region_there_is_nothing_to_tune_on(toys: ModuleType, tmp_path: Path) -> None:
    work = Work(toys, tmp_path, findings(), planned("explanation_metrics", "tuned", Tuned))
    without = dataclasses.replace(findings(4, lung={0: (1, 1)}), name="val")
    work.datasets.splits["val"], work.datasets.hashes["val"] = without, "v"
    Tuned.asked = []
    explanations = Explanations(work)
    assert explanations.failed == frozenset()
    Tuned.asked = []
    assert set(explanations.values(work.plan.explainers[0], CLEAN)["value"]) == {-1.0}
    assert Tuned.asked == []


PROTOCOL = """
name: findings
data:
  train:
    reader: table
    root: ROOT
    labels: [effusion, mass]
    masks: {effusion: effusion_mask, mass: mass_mask}
  size: 32
models: [small_cnn]
train: {epochs: 1, batch_size: 16}
trainers: [standard]
explain:
  methods: [saliency]
  metrics: [relevance_mass, {name: localisation_accuracy, folds: 2, thresholds: [0.0, 0.2]}]
  conditions: [clean, {name: pgd, eps: 0.02, steps: 2}]
  target: finding
evaluate: {resamples: 100}
report: {gallery: 3}
"""


def test_a_run_explains_findings_and_says_how_many_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EVAL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = ["image,patient,split,effusion,mass,effusion_mask,mass_mask"]
    for number in range(60):
        picture = rng.integers(60, 120, (32, 32))
        has, cells = {"effusion": number % 2 == 0, "mass": number % 3 == 0}, []
        for name, top in (("effusion", 2), ("mass", 18)):
            mask = np.zeros((32, 32), dtype=np.uint8)
            mask[top : top + 10, 4:14] = 255
            picture[mask > 0] += 90 * has[name]
            if has[name]:
                Image.fromarray(mask).save(tmp_path / f"{number}-{name}.png")
            cells.append(f"{number}-{name}.png" if has[name] else "")
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{number}.png")
        split = ("train", "val", "test")[number // 20]
        lines.append(f"{number}.png,p{number},{split},{int(has['effusion'])},{int(has['mass'])},{cells[0]},{cells[1]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = tmp_path / "protocol.yaml"
    path.write_text(PROTOCOL.replace("ROOT", str(tmp_path)), encoding="utf-8")
    outcome = runner.run(load(path), out=tmp_path / "run", device="cpu")
    assert outcome.failed == ()
    run = Run.open(outcome.folder)
    rows = run.rows()
    clean = rows[(rows["explainer"] == "saliency") & (rows["condition"] == "clean")].set_index("metric")
    # test images are 40 to 59: ten are even, six (42, 45, ..., 57) are multiples of 3
    assert clean.loc["relevance_mass[finding]", "n"] == 10 + 6
    assert clean.loc["localisation_accuracy[effusion@0.2]", "n"] == 10
    assert clean.loc["localisation_accuracy[mass@0.2]", "n"] == 6
    for name in ("effusion", "mass"):
        low, high = (clean.loc[f"localisation_accuracy[{name}@{limit}]", "value"] for limit in ("0", "0.2"))
        assert 0 <= high <= low <= 1
        assert clean.loc[f"localisation_accuracy[{name}@0.2]", "better"] == "higher"
        assert clean.loc[f"localisation_accuracy[threshold of {name}]", "better"] == "neither"
    chance = rows[(rows["explainer"] == "chance") & (rows["condition"] == "clean")].set_index("metric")
    assert list(chance.index) == ["relevance_mass[finding]"]
    assert chance.loc["relevance_mass[finding]", "value"] == pytest.approx(100 / 1024)
    assert set(rows["condition"]) >= {"clean", "pgd:0.02"}
    assert {entry["label"] for entry in run.gallery().entries} == {"effusion", "mass"}


@pytest.mark.parametrize("other", [{"target": "predicted"}, {"images": 4}, {"batch_size": 2}])
def test_maps_and_values_of_another_question_are_computed_anew(toys: ModuleType, tmp_path: Path, other: dict[str, Any]) -> None:
    """Each setting that a map or a value depends on is part of what it is found again by."""
    images, metric = single(), planned("explanation_metrics", "watching", Watching)

    def computed(**explain: Any) -> set[str]:
        work = Work(toys, tmp_path, images, metric, **({"target": "label"} | explain))
        explanations = Explanations(work)
        for condition in (CLEAN, work.attacked):
            explanations.maps(work.plan.explainers[0], condition)
            explanations.values(work.plan.explainers[0], condition)
        return set(work.computed)

    every = computed()
    assert {"saliency, clean", "saliency, clean, watching", "saliency, fgsm:0.1", "saliency, fgsm:0.1, watching"} <= every
    assert computed() == set()
    anew = computed(**other)
    asked_of_attacks = {name for name in every if "fgsm" in name and name.startswith("saliency")}
    asked = {name for name in every if name.startswith("saliency")}
    assert anew >= (asked_of_attacks if "batch_size" in other else asked)
