"""What intervals and p-values promise, by simulated studies of which the truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cxr_eval.stats import scores
from cxr_eval.stats.intervals import Patients, Resampling, with_interval
from cxr_eval.stats.paired import of_decisions, of_rankings, swap_test

pytestmark = pytest.mark.slow

STUDIES = 1500
COUNT, IMAGES = 150, 3
PATIENT = [f"p{k:03}" for k in range(COUNT) for _ in range(IMAGES)]


def coverage(score, truth, labels, settings):
    """Share of the studies whose interval holds the truth; score: weights -> one value a study, by name."""
    patients = Patients.of(PATIENT, labels if settings.stratified else None)
    found = with_interval(
        score,
        patients.drawn(settings.resamples, settings.seed),
        patients=patients.count,
        accelerated=patients if settings.kind == "bca" else None,
    )
    held = [low <= truth <= high for _, low, high in found.values()]
    assert len(held) == STUDIES
    return np.mean(held)


def of_studies(values):
    """values: (studies, N)."""
    return lambda weights: {
        str(k): column for k, column in enumerate(((weights @ values.T) / weights.sum(axis=1, keepdims=True)).T)
    }


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_intervals_of_accuracy_cover_the_truth_95_percent_of_the_time(kind, stratified):
    """A third of the patients are ill; images of a patient go together, as each has a difficulty of his own."""
    rng = np.random.default_rng(0)
    ill = np.arange(COUNT) % 3 == 0
    difficulty = np.where(ill, rng.beta(3, 2, (STUDIES, COUNT)), rng.beta(8, 2, (STUDIES, COUNT)))  # means 0.6 and 0.8
    right = rng.random((STUDIES, COUNT * IMAGES)) < np.repeat(difficulty, IMAGES, axis=1)
    truth = (0.6 + 2 * 0.8) / 3
    labels = np.repeat(np.where(ill, "ill", "well"), IMAGES)
    settings = Resampling(resamples=1000, kind=kind, stratified=stratified)
    assert 0.93 <= coverage(of_studies(right.astype(float)), truth, labels, settings) <= 0.97


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_intervals_of_auroc_cover_the_truth_95_percent_of_the_time(kind):
    """Normal scores, of which half the variance is the patient's: the AUROC is Phi(1.2 / sqrt(2))."""
    rng = np.random.default_rng(1)
    ill = np.repeat(np.arange(COUNT) % 3 == 0, IMAGES)
    own = np.repeat(rng.normal(0, 0.5**0.5, (STUDIES, COUNT)), IMAGES, axis=1)
    score = 1.2 * ill + own + rng.normal(0, 0.5**0.5, (STUDIES, COUNT * IMAGES))
    truth = float(stats.norm.cdf(1.2 / 2**0.5))

    def areas(weights):
        return {str(k): scores.auroc(ill, score[k], weights) for k in range(STUDIES)}

    settings = Resampling(resamples=400, kind=kind)
    assert 0.93 <= coverage(areas, truth, np.where(ill, "ill", "well"), settings) <= 0.97


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_intervals_of_a_skewed_metric_cover_the_truth_95_percent_of_the_time(kind):
    """A patient's share times an image's share, as relevance in a small region is: mostly near 0, with a long tail."""
    rng = np.random.default_rng(2)
    own = np.repeat(rng.beta(1, 3, (STUDIES, COUNT)), IMAGES, axis=1)
    values = own * rng.beta(2, 2, (STUDIES, COUNT * IMAGES))
    settings = Resampling(resamples=1000, kind=kind)
    assert stats.skew(values.ravel()) > 1
    assert 0.93 <= coverage(of_studies(values), 0.25 * 0.5, None, settings) <= 0.97


def test_bca_covers_as_often_on_either_side_of_a_skewed_mean_and_percentiles_do_not():
    """Exponential values of 40 patients: the truth lies above the percentile interval more often than below."""
    rng = np.random.default_rng(3)
    values = rng.exponential(1.0, (4 * STUDIES, 40))
    patients = Patients.of([f"p{k:02}" for k in range(40)])
    weights = patients.drawn(1000, 0)
    uneven = {}
    for kind in ("percentile", "bca"):
        accelerated = patients if kind == "bca" else None
        found = with_interval(of_studies(values), weights, patients=40, accelerated=accelerated).values()
        above, below = np.mean([high < 1 for _, _, high in found]), np.mean([low > 1 for _, low, _ in found])
        uneven[kind] = above - below
    chance = (0.05 / len(values)) ** 0.5  # standard error of the difference of two rare shares, 5 % together
    assert uneven["percentile"] > 4 * chance
    assert abs(uneven["bca"]) < uneven["percentile"] - chance


# p-values where two trainers do not differ

NULLS = 2000
CLASSES = ("covid", "normal")


def ill(patients):
    """Label of each image, two a patient; every third patient is ill."""
    return np.repeat(np.where(np.arange(patients) % 3 == 0, "covid", "normal"), 2)


def false_positives(tables, patients, measure, metric):
    """Share of studies of two equal trainers with p <= 0.05; tables: random numbers -> one table of each trainer."""
    rng = np.random.default_rng(0)
    whose = Patients.of([f"p{k:04}" for k in range(patients) for _ in range(2)])
    hits = 0
    for study in range(NULLS):
        one, other = (measure.ready(made) for made in tables(rng))
        hits += swap_test([one], [other], measure, whose, resamples=199, seed=study)[metric] <= 0.05
    return hits / NULLS


def equally_right(patients):
    """Both trainers have each patient's difficulty in common, and each its own luck with him."""
    label = ill(patients)

    def tables(rng):
        difficulty = rng.beta(2, 1, patients)
        for _ in range(2):
            chance = np.repeat(np.clip(difficulty + rng.normal(0, 0.2, patients), 0, 1), 2)
            right = rng.random(2 * patients) < chance
            wrong = np.where(label == "covid", "normal", "covid")
            yield pd.DataFrame({"label": label, "predicted": np.where(right, label, wrong)})

    return tables


@pytest.mark.parametrize("patients", [60, 1000])
def test_equal_accuracies_are_called_different_5_percent_of_the_time(patients):
    """Of 60 patients few images count differently: with all ties counted whole it would be 3.3 %."""
    assert 0.04 <= false_positives(equally_right(patients), patients, of_decisions(CLASSES), "accuracy") <= 0.06


def test_equal_aurocs_are_called_different_5_percent_of_the_time():
    """Scores of both trainers go together, and the second gives other probabilities for the same scores."""
    label = ill(60)

    def tables(rng):
        own = np.repeat(rng.normal(0, 0.6, 60), 2)
        for scale in (1.0, 3.0):
            score = 1.0 * (label == "covid") + own + np.repeat(rng.normal(0, 0.5, 60), 2) + rng.normal(0, 0.6, 120)
            covid = 1 / (1 + np.exp(-scale * score))
            yield pd.DataFrame({"label": label, "p_covid": covid, "p_normal": 1 - covid})

    assert 0.04 <= false_positives(tables, 60, of_rankings(CLASSES), "auroc") <= 0.06
