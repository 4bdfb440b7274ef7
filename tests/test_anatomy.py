"""What networks read inside and outside of regions: networks made by hand, whose every number is known, and trained ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.anatomy import Audited, audit_region, audited_kinds
from cxr_eval.data.datasets import load
from cxr_eval.evaluation import Anatomy
from cxr_eval.images import ImageSet, Regions
from cxr_eval.protocol import Data
from cxr_eval.stats.anatomy_rows import anatomy_doubts
from cxr_eval.stats.intervals import Resampling
from cxr_eval.stats.rows import Scorer
from cxr_eval.store import Run, content_key
from cxr_eval.tables import CellTables
from cxr_eval.types import Row

CLASSES = ("normal", "covid")
SIZE = 4
LUNG, CORNER = (1, 1), (0, 3)
"""The lung is 2 x 2 pixels from here, the marker one pixel."""


class Reads(torch.nn.Module):
    """Two classes; the logit of the second is the mean over some pixels, less 0.5, times 10; the first's is 0."""

    def __init__(self, *pixels: tuple[int, int]) -> None:
        super().__init__()
        weight = torch.zeros(SIZE, SIZE)
        for row, column in pixels:
            weight[row, column] = 10 / len(pixels)
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = (x[:, 0] * self.weight).sum(dim=(1, 2)) - 5
        return torch.stack((torch.zeros_like(said), said), dim=1)


LUNG_PIXELS = [(1, 1), (1, 2), (2, 1), (2, 2)]


def masks(count: int, pixels: list[tuple[int, int]], rows: list[int]) -> Regions:
    array = np.zeros((len(rows), SIZE, SIZE), dtype=bool)
    for row, column in pixels:
        array[:, row, column] = True
    at = np.full(count, -1)
    at[rows] = np.arange(len(rows))
    return Regions(array, at)


def drawn(label: list[int], lung: list[float], marker: list[float], /, **regions: Regions) -> ImageSet:
    """Images of 4 x 4 pixels: 0.3 everywhere, one grey value in the lung and one in the marker."""
    x = np.full((len(label), 1, SIZE, SIZE), 0.3, dtype=np.float32)
    for k, (inside, text) in enumerate(zip(lung, marker, strict=True)):
        x[k, 0, 1:3, 1:3], x[k, 0, 0, 3] = inside, text
    rows = list(range(len(label)))
    found = regions or {"lung": masks(len(label), LUNG_PIXELS, rows), "marker": masks(len(label), [CORNER], rows)}
    table = pd.DataFrame({"image_id": [f"i{k}" for k in rows], "patient": [f"p{k}" for k in rows]})
    return ImageSet(x, np.arange(len(label)), np.array(label), table, CLASSES, "test", found)


TELLING = drawn([0, 0, 0, 1, 1, 1], [0.4, 0.4, 0.4, 0.6, 0.6, 0.6], [0.1, 0.1, 0.1, 0.9, 0.9, 0.9])
"""Both the lung and the marker tell the class: below 0.5 normal, above covid."""


class Work:
    """As much of a cell as the audit asks for."""

    def __init__(
        self, folder: Path, images: ImageSet, model: torch.nn.Module, /, *, batch_size: int = 4, **settings: Any
    ) -> None:
        evaluate = SimpleNamespace(anatomy=Anatomy(**settings), batch_size=batch_size)
        self.plan = SimpleNamespace(protocol=SimpleNamespace(evaluate=evaluate))
        self.datasets = SimpleNamespace(splits={"test": images}, hashes={"test": "h"})
        task = "multilabel" if images.y.ndim == 2 else "multiclass"
        self.classifier = cxr.Classifier(
            model, input_shape=images.shape, nb_classes=len(images.classes), task=task, device="cpu"
        )
        self.run, self.computed = Run(folder), list[str]()
        self.tables = CellTables(self.run.cell("cell").folder)

    def progress(self, *told: object) -> None:
        pass

    @contextmanager
    def evaluation(self, content: dict[str, Any], what: str) -> Iterator[Any]:
        work = self.run.evaluation("cell", content_key(content))
        there = work.done
        yield work
        if not there:
            work.finish(what=what)
            self.computed.append(what)


def audited(
    folder: Path, kind: str, model: torch.nn.Module, shown: ImageSet = TELLING, eps: float | None = None, **settings: Any
) -> Audited:
    return audit_region(Work(folder, shown, model, **settings), "test", kind, eps)  # type: ignore[arg-type]


def accuracy(found: Audited) -> dict[str, float]:
    right = found.predictions.assign(right=found.predictions["label"] == found.predictions["predicted"])
    return right.groupby("condition")["right"].mean().to_dict()


def left(found: Audited) -> dict[str, float]:
    return found.attacks.groupby("condition")["robust"].mean().to_dict()


def rows(found: Audited, classes: tuple[str, ...] = CLASSES, eps: float | None = None) -> dict[tuple[str, str], Row]:
    scorer = Scorer("m", "t", 0, classes, Resampling(resamples=100, min_patients=0), "drawn")
    made = scorer.anatomy(found.kind, found.predictions, found.attacks, split="test", eps=eps)
    return {(row.condition, row.metric): row for row in made}


def test_a_network_that_reads_the_lung_alone_loses_everything_without_it_and_nothing_with_it_alone(tmp_path: Path) -> None:
    found = accuracy(audited(tmp_path, "lung", Reads(*LUNG_PIXELS)))
    # black lungs: mean 0, all called normal, which half of the images are
    assert found == {"intact lung": 1.0, "without lung": 0.5, "only lung": 1.0}


def test_a_network_that_reads_the_marker_alone_does_as_well_without_the_lung_and_nothing_with_it(tmp_path: Path) -> None:
    found = audited(tmp_path, "lung", Reads(CORNER))
    assert accuracy(found) == {"intact lung": 1.0, "without lung": 1.0, "only lung": 0.5}
    assert rows(found)["intact lung", "inside_minus_outside[lung]"].value == 0.5 - 1.0


def test_inside_minus_outside_of_a_network_that_reads_the_lung_alone_is_a_half(tmp_path: Path) -> None:
    found = audited(tmp_path, "lung", Reads(*LUNG_PIXELS))
    assert rows(found)["intact lung", "inside_minus_outside[lung]"].value == 1.0 - 0.5


def test_the_marker_of_another_class_is_followed_by_the_network_that_reads_it_alone(tmp_path: Path) -> None:
    reads_marker = audited(tmp_path / "marker", "marker", Reads(CORNER))
    assert set(accuracy(reads_marker)) == {
        *("intact marker", "without marker", "only marker"),
        *("marker of normal", "marker of covid"),
    }
    assert accuracy(reads_marker)["marker of covid"] == 0.5  # the three covid images, their own class's marker on them
    found = rows(reads_marker)
    assert found["marker of covid", "follows_marker[covid]"].value == 1.0
    assert found["marker of normal", "follows_marker[normal]"].value == 1.0
    reads_lung = rows(audited(tmp_path / "lung", "marker", Reads(*LUNG_PIXELS)))
    assert reads_lung["marker of covid", "follows_marker[covid]"].value == 0.0
    assert reads_lung["marker of normal", "follows_marker[normal]"].value == 0.0


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_images_of_a_class_lend_their_markers_in_turn(tmp_path: Path, batch_size: int) -> None:
    # of three covid images one has a marker that tells nothing; the three normal ones get one lender's each
    images = drawn([0, 0, 0, 1, 1, 1], [0.4] * 6, [0.1, 0.1, 0.1, 0.9, 0.2, 0.9])
    found = rows(audited(tmp_path, "marker", Reads(CORNER), images, batch_size=batch_size))
    assert found["marker of covid", "follows_marker[covid]"].value == pytest.approx(2 / 3)


def test_an_attack_outside_of_what_a_network_reads_breaks_nothing(tmp_path: Path) -> None:
    # lungs of 0.4 and 0.6: 0.15 moves each mean beyond 0.5, and 0.05 none
    inside = audited(tmp_path / "far", "lung", Reads(*LUNG_PIXELS), eps=0.15)
    assert left(inside) == {"inside lung": 0.0, "outside lung": 1.0}
    assert inside.attacks["clean_correct"].all()
    near = audited(tmp_path / "near", "lung", Reads(*LUNG_PIXELS), eps=0.05)
    assert left(near) == {"inside lung": 1.0, "outside lung": 1.0}
    # the marker stands 0.4 away from 0.5
    surroundings = audited(tmp_path / "marker", "lung", Reads(CORNER), eps=0.45)
    assert left(surroundings) == {"inside lung": 1.0, "outside lung": 0.0}


def test_an_image_that_is_wrong_without_attack_is_not_robust(tmp_path: Path) -> None:
    images = drawn([0, 1, 1, 1], [0.4, 0.6, 0.6, 0.4], [0.3] * 4)
    found = audited(tmp_path, "lung", Reads(*LUNG_PIXELS), images, eps=0.05)
    assert found.attacks["clean_correct"].tolist() == found.attacks["robust"].tolist() == [True, True, True, False] * 2
    assert rows(found, eps=0.05)["outside lung:0.05", "robust_accuracy"].value == 0.75


def test_without_a_radius_nothing_is_attacked(tmp_path: Path) -> None:
    found = audited(tmp_path, "lung", Reads(*LUNG_PIXELS))
    assert found.attacks.empty
    assert not [metric for _, metric in rows(found) if metric == "robust_accuracy"]


def test_what_is_taken_away_becomes_the_images_own_mean_if_so_asked(tmp_path: Path) -> None:
    images = drawn([0, 1], [0.4, 1.0], [0.3, 0.3])
    dark = audited(tmp_path / "dark", "lung", Reads(*LUNG_PIXELS), images)
    grey = audited(tmp_path / "grey", "lung", Reads(*LUNG_PIXELS), images, fill="mean")
    said = {}
    for name, found in (("dark", dark), ("grey", grey)):
        without = found.predictions[found.predictions["condition"] == "without lung"]
        said[name] = np.log(without["p_covid"] / without["p_normal"]).to_numpy()
    assert said["dark"] == pytest.approx([-5, -5])
    means = [(12 * 0.3 + 4 * lung) / 16 for lung in (0.4, 1.0)]
    assert said["grey"] == pytest.approx([10 * mean - 5 for mean in means], abs=1e-5)


def test_only_images_with_a_region_that_is_neither_empty_nor_everything_count(tmp_path: Path) -> None:
    everywhere = [(row, column) for row in range(SIZE) for column in range(SIZE)]
    lung = masks(4, LUNG_PIXELS, [0, 1, 2])
    lung.array[1] = False
    lung.array[2] = True
    whole = masks(4, everywhere, [0, 1])
    empty = masks(4, [], [2])
    images = drawn([0, 1, 0, 1], [0.4] * 4, [0.3] * 4, lung=lung, whole=whole, empty=empty, covid=masks(4, [CORNER], [1]))
    assert audited_kinds(images, Anatomy()) == ("lung",)  # a region named like a class says where that finding is
    assert audited_kinds(images, Anatomy(regions=("marker",))) == ()
    found = audited(tmp_path, "lung", Reads(*LUNG_PIXELS), images, eps=0.1)
    assert set(found.predictions["image_id"]) == set(found.attacks["image_id"]) == {"i0"}


def test_as_many_images_as_asked_are_audited_the_classes_in_turn(tmp_path: Path) -> None:
    found = audited(tmp_path, "lung", Reads(CORNER), images=4)
    intact = found.predictions[found.predictions["condition"] == "intact lung"]
    assert intact["label"].value_counts().to_dict() == {"normal": 2, "covid": 2}


def test_the_size_of_batches_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = drawn(list(rng.integers(0, 2, 9)), list(rng.random(9)), list(rng.random(9)))
    model = Reads(*LUNG_PIXELS, CORNER)
    one, other = (audited(tmp_path / str(n), "marker", model, images, 0.05, batch_size=n) for n in (2, 64))
    by = ["condition", "image_id"]
    for first, second in ((one.predictions, other.predictions), (one.attacks, other.attacks)):
        first, second = (table.sort_values(by, ignore_index=True) for table in (first, second))
        pd.testing.assert_frame_equal(first, second)


def test_a_region_is_audited_once_and_again_where_anything_is_different(tmp_path: Path) -> None:
    def computed(eps: float | None = None, **settings: Any) -> int:
        work = Work(tmp_path, TELLING, Reads(*LUNG_PIXELS), **settings)
        audit_region(work, "test", "lung", eps)  # type: ignore[arg-type]
        return len(work.computed)

    assert [computed(), computed()] == [1, 0]
    assert [computed(0.1), computed(0.1, steps=3), computed(fill="mean"), computed(images=2)] == [1, 1, 1, 1]
    assert [computed(), computed(0.1), computed(batch_size=1)] == [0, 0, 0]


def of_findings(y: list[list[float]]) -> ImageSet:
    images = drawn([0] * len(y), [0.6 if row[1] == 1 else 0.4 for row in y], [0.3] * len(y))
    return ImageSet(images.pixels, images.rows, np.array(y, dtype=np.float32), images.table, CLASSES, "test", images.regions)


NAN = float("nan")


def test_an_image_of_which_nothing_is_known_is_no_robust_image(tmp_path: Path) -> None:
    # the logit of the first finding is always 0, on the side of absence
    images = of_findings([[0, 1], [0, 0], [NAN, NAN], [NAN, 0]])
    found = audited(tmp_path, "lung", Reads(*LUNG_PIXELS), images, eps=0.15, batch_size=2)
    assert sorted(found.attacks["image_id"]) == ["i0", "i0", "i1", "i1", "i3", "i3"]
    outside = found.attacks[found.attacks["condition"] == "outside lung"]
    assert outside["robust"].all()
    assert "label:covid" in found.attacks
    assert "predicted" not in found.attacks
    nothing = audited(tmp_path / "nothing", "lung", Reads(*LUNG_PIXELS), of_findings([[NAN, NAN]]), eps=0.15)
    assert nothing.attacks.empty


def test_findings_have_areas_inside_and_outside_and_no_markers_of_classes(tmp_path: Path) -> None:
    images = of_findings([[0, 1], [1, 0], [0, 1], [1, 0]])
    found = audited(tmp_path, "marker", Reads(*LUNG_PIXELS), images)
    assert set(found.predictions["condition"]) == {"intact marker", "without marker", "only marker"}
    made = rows(found)
    assert made["intact marker", "auroc[covid]"].value == 1.0
    # normal: its logit is 0 for every image, an area of 1/2; covid: 1 with the lung, 1/2 without
    lead = made["intact marker", "inside_minus_outside[marker]"]
    assert lead.value == pytest.approx((0.5 + 0.5) / 2 - (0.5 + 1.0) / 2)
    assert lead.better == "lower"


class Small(torch.nn.Module):
    """Three convolutions and a linear layer that knows where in the picture something is."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 32)):
            layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        self.net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 6 * 6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x - 0.5) / 0.25)


def phantoms(cache: Path, *, patients: int, seed: int, strength: float) -> ImageSet:
    """Drawn chests, every one with a marker, which tells the class as often as `strength` says."""
    reader = {"reader": "phantom", "patients": patients, "size": 96, "seed": seed}
    source = reader | {"marker_rate": 1.0, "marker_strength": strength}
    return load(Data.model_validate({"train": source, "size": 48}), cache=cache).splits["train"]


def trained(images: ImageSet) -> torch.nn.Module:
    x, y = images.take(range(len(images))), images.targets()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Small()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(10):
            for index in torch.randperm(len(x)).split(8):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x[index]), y[index]).backward()
                optimizer.step()
    torch.set_num_threads(threads)
    return net.eval()


@pytest.mark.slow
def test_a_network_trained_on_telling_markers_is_told_from_one_trained_on_markers_that_say_nothing(tmp_path: Path) -> None:
    shown = phantoms(tmp_path, patients=90, seed=100, strength=1.0)
    assert {"normal", "pneumonia", "covid"} == set(shown.classes)
    found: dict[str, dict[tuple[str, str], Row]] = {}
    doubted: dict[str, set[str]] = {}
    for name, strength in (("misled", 1.0), ("honest", 0.0)):
        net = trained(phantoms(tmp_path, patients=168, seed=0, strength=strength))
        found[name], doubted[name] = {}, set()
        for kind in ("lung", "marker"):
            made = rows(audited(tmp_path / name, kind, net, shown, 0.02, batch_size=64), shown.classes, 0.02)
            found[name] |= made
            doubted[name] |= {doubt.code for doubt in anatomy_doubts([*made.values()], kind, scope="here", classes=3)}

    def value(name: str, condition: str, metric: str) -> float:
        return found[name][condition, metric].value

    # accuracy alone prefers the misled network, and so do attacks of this radius
    for condition, metric in (("intact lung", "balanced_accuracy"), ("inside lung:0.02", "robust_accuracy")):
        assert value("misled", condition, metric) > value("honest", condition, metric) + 0.1 > 0.5
    for label in shown.classes:
        condition, metric = f"marker of {label}", f"follows_marker[{label}]"
        assert value("misled", condition, metric) > 0.7
        assert abs(value("honest", condition, metric)) < 0.2
    for kind, margin in (("lung", -0.2), ("marker", 0.7)):
        leads = [value(name, f"intact {kind}", f"inside_minus_outside[{kind}]") for name in ("misled", "honest")]
        assert (leads[0] - leads[1]) / margin > 1
    assert value("misled", "only marker", "balanced_accuracy") > value("honest", "only marker", "balanced_accuracy") + 0.4
    assert value("misled", "without lung", "balanced_accuracy") > value("honest", "without lung", "balanced_accuracy") + 0.4
    assert doubted == {"misled": {"reads_without_lung", "reads_marker", "follows_marker"}, "honest": set()}
