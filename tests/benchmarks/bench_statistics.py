"""How long intervals take: 10,000 resamples of 5,000 patients behind 20 scores, against a plain loop of scikit-learn.

Run by hand: `python tests/benchmarks/bench_statistics.py [resamples] [patients]`. Scores: AUROC and average precision of ten
findings, a tenth of the patients positive, one image a patient, one thread. The loop takes as many resamples as fit into a few
seconds; its time for all of them is extrapolated. CPU seconds, as other
programs may be busy beside it; the goal is less than 10.
"""

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np
from sklearn import metrics

from cxr_eval.stats import scores
from cxr_eval.stats.intervals import Patients, Resampling, with_interval

FINDINGS = 10
GOAL = 10.0
LOOP_SECONDS = 5.0


def main(resamples, count):
    rng = np.random.default_rng(0)
    truth = (rng.random((count, FINDINGS)) < 0.1).astype(np.float64)
    probability = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 1.5 * truth - 2)))
    names = [f"finding {k}" for k in range(FINDINGS)]
    settings = Resampling(resamples=resamples)

    started = time.process_time()
    patients = Patients.of([str(k) for k in range(count)])
    weights = patients.drawn(settings.resamples, settings.seed)
    drawn = time.process_time() - started
    found = with_interval(
        lambda w: {
            f"{kind} of {name}": values
            for kind, areas in zip(("AUROC", "AP"), scores.areas_by_class(truth, probability, w), strict=True)
            for name, values in zip(names, areas, strict=True)
        },
        weights,
        patients=count,
    )
    ours = time.process_time() - started

    started, made = time.process_time(), 0
    while time.process_time() - started < LOOP_SECONDS:
        chosen = rng.integers(0, count, count)
        for k in range(FINDINGS):
            metrics.roc_auc_score(truth[chosen, k], probability[chosen, k])
            metrics.average_precision_score(truth[chosen, k], probability[chosen, k])
        made += 1
    loop = (time.process_time() - started) / made * resamples

    print(f"{resamples} resamples of {count} patients, {len(found)} scores")
    print(f"ours: {ours:.1f} s, of which drawing patients {drawn:.1f} s ({'within' if ours < GOAL else 'above'} {GOAL:.0f} s)")
    print(f"scikit-learn in a loop: {loop:.0f} s, extrapolated from {made} resamples; {loop / ours:.0f} times as long")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    main(*(given + [10_000, 5_000][len(given) :]))
