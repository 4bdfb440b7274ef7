"""Which class is called which: a confusion matrix a trainer, with its shares in the cells."""

from __future__ import annotations

import math

from cxr_eval.report.charts.heat import heat_map
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import NOT_DEFINED, Results, Score, number

MOST_SAID = 4
"""Classes up to which a screen reader is told every share."""


def confusion_matrices(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """Shares of each true class by the class that it is called, clean images, one picture a trainer; diagonal bold: right.

    Of several seeds the mean share. Runs with several findings an image have none.
    """
    pictures: list[Picture] = []
    for trainer in results.trainers:
        scores: dict[tuple[int, int], Score] = {}
        for row, true in enumerate(results.classes):
            for column, said in enumerate(results.classes):
                metric = f"recall[{true}]" if row == column else f"called[{said}|{true}]"
                score = results.score(model=model, trainer=trainer, split=split, metric=metric)
                if score is not None:
                    scores[row, column] = score
        if not any(row != column for row, column in scores):
            continue
        pictures.append(
            heat_map(
                f"{key}-{len(pictures)}",
                trainer,
                _said(results, model, trainer, split, scores),
                {place: score.value for place, score in scores.items()},
                down=results.classes,
                across=results.classes,
                y="True class",
                x="Called",
                ends=(0.0, 1.0),
                subs=[f"n = {scores[k, k].images}" if (k, k) in scores else "" for k in range(len(results.classes))],
                strong={place: place[0] == place[1] for place in scores},
            )
        )
    return pictures


def _said(results: Results, model: str, trainer: str, split: str, scores: dict[tuple[int, int], Score]) -> str:
    lines = []
    for row, true in enumerate(results.classes):
        shares = {results.classes[column]: score.value for (at, column), score in scores.items() if at == row}
        wrong = {name: share for name, share in shares.items() if name != true and math.isfinite(share)}
        if len(results.classes) > MOST_SAID:  # the table has the others
            most = max(wrong, key=lambda name: wrong[name], default=None)
            wrong = {} if most is None else {most: wrong[most]}
        right = number(shares[true]) if true in shares else NOT_DEFINED
        called = "".join(f", {number(share)} called {name}" for name, share in wrong.items())
        lines.append(f"of {true} {right} right{called}")
    mostly = ", with the most common error" if len(results.classes) > MOST_SAID else ""
    return f"Confusion of {model} by {trainer} on “{split}”, clean images{mostly}: {'; '.join(lines)}"
