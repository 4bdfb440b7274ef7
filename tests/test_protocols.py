"""The four papers' protocols: each runs on drawn images at its smallest, and reads real images laid out as distributed."""

import re
import shlex
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from cxr_eval import runner
from cxr_eval.data.datasets import Datasets
from cxr_eval.data.datasets import load as load_data
from cxr_eval.plan import plan
from cxr_eval.protocol_file import LoadedProtocol, load
from cxr_eval.store import Run

FOLDER = Path(__file__).parents[1] / "protocols"
SMALLEST = (
    *("data.train.patients=36", "data.train.size=48", "data.size=32", "train.epochs=1", "evaluate.resamples=100"),
    *("explain.images=6", "report.gallery=1", "data.audit.probe=false"),
)
VARIABLES = ("COVID_QU_EX", "SIIM_COVID19", "GITHUB_COVID", "NIH_CXR14", "HAM10000")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CXR_EVAL_CACHE", str(tmp_path / "cache"))


def finished(name: str, folder: Path, *sets: str) -> tuple[pd.DataFrame, dict, str]:
    """Rows, manifest and report of the demonstration at its smallest."""
    outcome = runner.run(load(FOLDER / f"{name}.yaml", sets=(*SMALLEST, *sets)), out=folder / "run", device="cpu")
    assert outcome.failed == ()
    run = Run.open(outcome.folder)
    assert run.manifest()["demonstration"]
    return run.rows(), run.manifest(), (outcome.folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_covid_robust_trains_all_networks_and_the_best_again(tmp_path):
    less = (
        "demonstration.data.outside.other_site.patients=12",
        "attacks.3.queries=5",
        "attacks.3.images=4",
        "explain.metrics=[relevance_mass]",
    )
    rows, manifest, report = finished("covid_robust", tmp_path, *less)
    fgsm = next(trainer for trainer in manifest["trainers"] if trainer["label"] == "fgsm")
    assert len(fgsm["models"]["chosen"]) == 1
    chosen = fgsm["models"]["chosen"][0]
    assert {(cell["model"], cell["trainer"]) for cell in manifest["cells"]} == {
        *(("small_cnn", "standard"), ("smaller_cnn", "standard"), (chosen, "fgsm"), (chosen, "pgd"))
    }
    perturbed = rows[(rows["condition"] == "paper_fgsm:0.02") & (rows["split"] == "test")]
    assert {"accuracy", "precision", "balanced_accuracy", "f1", "f1_weighted"} <= set(perturbed["metric"])
    assert "Trainers on clean and on attacked images" in report


@pytest.mark.slow
def test_sga_ood_compares_inside_and_outside_and_varies_k_and_lambda(tmp_path):
    rows, _, report = finished("sga_ood", tmp_path, "demonstration.data.outside.elsewhere.patients=12")
    outside = rows[(rows["split"] == "elsewhere") & (rows["condition"] == "clean")]
    assert {"auroc", "change[auroc]", "mean[auroc]"} <= set(outside["metric"])
    assert set(rows["explainer"]) >= {"fullgrad"}
    assert "Inside and outside" in report
    assert "lam" in report[report.index("Settings varied") :]


@pytest.mark.slow
def test_interpretable_nih14_localises_findings_over_t_iou(tmp_path):
    rows, _, report = finished("interpretable_nih14", tmp_path, "data.train.patients=90", "explain.images=40")
    accuracy = rows[rows["metric"].str.startswith("localisation_accuracy[pneumonia@")]
    assert set(accuracy["metric"]) == {f"localisation_accuracy[pneumonia@{t / 10:g}]" for t in range(1, 8)}
    assert {"cam", "saliency", "oracle", "edges", "randomised(cam)"} <= set(accuracy["explainer"])
    assert {"standard", "fgsm(eps=0.005)", "fgsm(eps=0.02)"} == set(accuracy["trainer"])
    assert "Localisation of findings over T(IoU)" in report.replace("\\", "")


@pytest.mark.slow
def test_dpaat_ham10000_measures_map_and_marp_and_takes_both_parts_out(tmp_path):
    rows, manifest, report = finished("dpaat_ham10000", tmp_path)
    assert len(manifest["trainers"]) == 8
    marp = rows[rows["metric"] == "mean_average_robust_precision"]
    assert set(marp["trainer"]) == {trainer["label"] for trainer in manifest["trainers"]}
    assert set(marp["condition"]) == {"attacked"}
    for trainer, own in rows[rows["metric"] == "mean_average_precision"].groupby("trainer"):
        under_attack = own[own["condition"].str.match(r"(pgd|ifgsm):")]
        assert len(under_attack) == 6  # two attacks, three radii
        expected = marp[marp["trainer"] == trainer]["value"].item()
        assert under_attack["value"].mean() == pytest.approx(expected)  # papers.md: mean over attacks and radii
    assert "sync" in report[report.index("Settings varied") :]


@pytest.fixture
def real(shared_data, layouts: ModuleType, tmp_path, monkeypatch):
    """Lays a dataset out as distributed and points its variable at it."""

    def lay_out(variable: str, layout: str, **settings: int) -> list[dict[str, str]]:
        monkeypatch.setenv(variable, str(tmp_path / layout))
        rows: list[dict[str, str]] = getattr(layouts, layout)(shared_data, tmp_path / layout, **settings)
        return rows

    return lay_out


def read(name: str, folder: Path, *sets: str) -> tuple[LoadedProtocol, Datasets]:
    """The protocol as it stands, and its real images at 32 pixels."""
    loaded = load(FOLDER / f"{name}.yaml", sets=("data.size=32", *sets))
    assert not loaded.demonstration
    plan(loaded)
    return loaded, load_data(loaded.protocol.data, cache=folder / "cache")


@pytest.mark.slow
@pytest.mark.real_data
def test_covid_robust_reads_real_images_in_the_layout_of_covid_qu_ex(real, tmp_path):
    rows = real("COVID_QU_EX", "covid_qu_ex", limit=8)
    _, found = read("covid_robust", tmp_path)
    assert found.classes == ("Normal", "Non-COVID", "COVID-19")
    assert {split: len(images) for split, images in found.splits.items()} == {
        split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")
    }
    lesions = sum(int((images.regions["lesion"].row >= 0).sum()) for images in found.splits.values())
    assert lesions == sum(bool(row["lesion_mask"]) for row in rows)
    assert found.splits["train"].shape == (3, 32, 32)


@pytest.mark.slow
@pytest.mark.real_data
def test_sga_ood_reads_real_images_in_the_layouts_of_its_three_datasets(real, tmp_path):
    at_home = real("SIIM_COVID19", "siim_covid19", limit=60)
    covid = real("GITHUB_COVID", "github_covid")
    nih = real("NIH_CXR14", "nih", limit=80)
    _, found = read("sga_ood", tmp_path)
    assert sum(len(found.splits[split]) for split in ("train", "val", "test")) == len(at_home)
    outside = found.splits["elsewhere"]
    first = {row["patient_id"] for row in nih if row["split"] == "test" and row["finding"] == "No Finding"}
    assert int((outside.y == 0).sum()) == len(first)  # one image a patient
    assert int((outside.y == 1).sum()) == sum("COVID-19" in row["finding"] for row in covid)
    assert {left.dataset for left in found.left_out} == {"elsewhere"}


@pytest.mark.slow
@pytest.mark.real_data
def test_interpretable_nih14_reads_real_images_in_the_layout_of_nih(real, tmp_path):
    rows = real("NIH_CXR14", "nih")
    _, found = read("interpretable_nih14", tmp_path)
    chexnet = re.search(r"^#   (--set .*)$", (FOLDER / "interpretable_nih14.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert chexnet is not None
    sets = tuple(word for word in shlex.split(chexnet.group(1)) if word != "--set")
    assert plan(load(FOLDER / "interpretable_nih14.yaml", sets=sets)).models[0].name == "densenet121"
    assert len(found.classes) == 14
    assert len(found.splits["test"]) == sum(row["split"] == "test" for row in rows)
    assert not set(found.splits["train"].table["patient"]) & set(found.splits["val"].table["patient"])
    assert 0.05 < len(found.splits["val"]) / (len(rows) - len(found.splits["test"])) < 0.15
    assert "Pneumonia" in found.splits["test"].regions


@pytest.mark.slow
@pytest.mark.real_data
def test_dpaat_ham10000_reads_real_images_in_the_layout_of_ham10000(real, tmp_path):
    rows = real("HAM10000", "ham10000", limit=300)
    _, found = read("dpaat_ham10000", tmp_path)
    assert found.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert sum(map(len, found.splits.values())) == len(rows)
    assert all((images.regions["lesion"].row >= 0).all() for images in found.splits.values())
    assert found.splits["train"].pixels.shape[1] == 3  # colour is kept
