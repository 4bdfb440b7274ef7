"""Gaps between the scores of subgroups: how large, how sure, and whether chance could make them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats.cell_rows import BoolArray, strata
from cxr_eval.stats.intervals import MIN_PATIENTS, FloatArray, Patients, Resampling, Score, with_interval
from cxr_eval.stats.paired import holm
from cxr_eval.stats.subgroups import UNKNOWN, in_order

IntArray = npt.NDArray[np.int64]

OTHERS = "others"
"""What a value is compared with in a column of more than two: all images without it."""

PERMUTED = 3
"""Place of the permutations among the random numbers of one seed; those before are taken by resamples and swaps."""

BLOCK = 2**21
"""Numbers in one block of permuted values."""

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Gap:
    """One value of a column: its score, and how far that is from the score of the images it is compared with.

    n, patients: images and patients behind `score`. `gap` is the score minus that of `against`: `others`, or the other value
    where there are only two; of these the first alone has a line, as the second's gap is the same with the other sign. One more
    line, with the highest value against the lowest, has the largest gap of a column of more than two: it cannot be below 0, and
    only its p-value tells it from chance. p: of a permutation test; p_holm: after Holm's
    correction for a family of so many comparisons. note: why numbers are withheld.
    """

    column: str
    value: str
    against: str
    metric: str
    n: int
    patients: int
    score: float
    low: float
    high: float
    gap: float
    gap_low: float
    gap_high: float
    p: float
    note: str = ""
    p_holm: float = NAN
    comparisons: int = 0


def gaps(
    table: pd.DataFrame,
    values: npt.ArrayLike,
    score: Score,
    resampling: Resampling,
    *,
    column: str,
    images: Mapping[str, BoolArray] | None = None,
    shares: Collection[str] = (),
) -> list[Gap]:
    """Each value's scores and their gaps, metric by metric: the values in order, then the largest gap. None for one value.

    Of two values only the first is told: its gap is to the other one.

    table: one line an image, with `image_id`, `patient`, and `label` if images have one class. values: (N,), the subgroup of
    each image. score: weights (R, N) over this table -> values (R,) by name. images: which images (N,) stand behind a metric,
    where these are not all. shares: metrics that are shares of their images.

    Numbers behind which fewer than `resampling.min_patients` patients stand are withheld: a value's score, and its gap also
    where what it is compared with has too few. The largest gap is that between any two told values other than `unknown`.

    The test asks whether it could be chance which patients belong to which value: patients whose images all have one value
    exchange it, and where a patient's images have several, these exchange theirs; labels and answers stay with their image.
    p = (1 + as large) / (permutations + 1), two-sided, with as many permutations as resamples. One whose gap does not exist
    counts as large. A gap that follows from a subgroup's share of disease is a gap too: recall, sensitivity, specificity and
    AUROC depend on that least, accuracy and predictive values most.
    Source: Phipson and Smyth, SAGMB 2010, doi 10.2202/1544-6115.1585 (why 1 is added).
    """
    of_image = np.asarray(values, dtype=str)
    names = in_order(of_image)
    if len(names) < 2:
        return []
    place = {name: k for k, name in enumerate(names)}
    member = np.array([place[str(value)] for value in of_image], dtype=np.int64)
    patients = Patients.of(table["patient"].astype(str).tolist(), strata(table) if resampling.stratified else None)
    everyone = np.ones(len(table), dtype=bool)
    columns = {
        metric: _Behind.of(member, patients, np.asarray((images or {}).get(metric, everyone), dtype=bool), len(names))
        for metric in score(np.ones((1, len(table))))
    }
    lines = range(1 if len(names) == 2 else len(names))  # the gap of the second is that of the first with the other sign
    told = [k for k in lines if any(not resampling.withheld(one.patients[k]) for one in columns.values())]
    compared = _Compared(score, tuple(told), {})
    plain = compared(member[None], np.ones((1, len(table))))
    between = {
        metric: tuple(
            k
            for k in told
            if names[k] != UNKNOWN and np.isfinite(plain[f"{k} score {metric}"][0]) and not resampling.withheld(one.patients[k])
        )
        for metric, one in columns.items()
    }
    compared = replace(compared, between={metric: two for metric, two in between.items() if len(two) > 1})
    found = with_interval(
        lambda weights: compared(member[None], weights),
        patients.drawn(resampling.resamples, resampling.seed),
        patients=patients.count,
        proportions={
            f"{k} score {metric}": one.patients[k] for metric, one in columns.items() if metric in shares for k in told
        },
        level=resampling.level,
        accelerated=patients if resampling.kind == "bca" else None,
    )
    p = _permutation_test(compared, member, patients, table["image_id"].astype(str).to_numpy(), found, resampling)
    listed = []
    for metric, one in columns.items():
        of_values = [_gap(column, names, k, metric, one, found, p, resampling) for k in lines]
        listed += of_values
        if two := compared.between.get(metric):
            top, bottom = max(two, key=lambda k: of_values[k].score), min(two, key=lambda k: of_values[k].score)
            gap, gap_low, gap_high = found[f"largest gap {metric}"]
            listed.append(
                replace(
                    of_values[top],
                    against=names[bottom],
                    gap=gap,
                    gap_low=gap_low,
                    gap_high=gap_high,
                    p=p[f"largest gap {metric}"],
                    note="",
                )
            )
    return listed


def with_holm(found: Sequence[Gap]) -> list[Gap]:
    """The same gaps in the same order, with `p_holm` and `comparisons`.

    A family is all gaps of one metric that are given together, of all its classes and all columns.
    """
    families: dict[str, list[int]] = {}
    for at, gap in enumerate(found):
        families.setdefault(gap.metric.partition("[")[0], []).append(at)
    corrected = list(found)
    for places in families.values():
        p = [found[at].p for at in places]
        size = int(np.isfinite(p).sum())
        for at, adjusted in zip(places, holm(p), strict=True):
            corrected[at] = replace(found[at], p_holm=adjusted, comparisons=size)
    return corrected


@dataclass(frozen=True, eq=False)
class _Behind:
    """Images and patients behind a metric of each value, and patients behind that of its others; each (K,)."""

    images: tuple[int, ...]
    patients: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def of(cls, member: IntArray, patients: Patients, behind: BoolArray, values: int) -> _Behind:
        own = [behind & (member == k) for k in range(values)]
        rest = [behind & (member != k) for k in range(values)]
        people = [[len(np.unique(patients.of_image[chosen])) for chosen in group] for group in (own, rest)]
        return cls(tuple(int(chosen.sum()) for chosen in own), tuple(people[0]), tuple(people[1]))


@dataclass(frozen=True, eq=False)
class _Compared:
    """Scores, gaps and largest gaps by name. told: places of the values. between: those that may have the largest gap."""

    score: Score
    told: tuple[int, ...]
    between: Mapping[str, tuple[int, ...]]

    def __call__(self, member: IntArray, weights: FloatArray) -> dict[str, FloatArray]:
        """member, weights: (R, N), or one row for all."""
        own = {k: self.score((member == k) * weights) for k in self.told}
        found: dict[str, FloatArray] = {}
        for k, scores in own.items():
            other = self.score((member != k) * weights)
            for metric, of in scores.items():
                found |= {f"{k} score {metric}": of, f"{k} gap {metric}": of - other[metric]}
        for metric, places in self.between.items():
            each = np.stack([own[k][metric] for k in places])
            found[f"largest gap {metric}"] = each.max(axis=0) - each.min(axis=0)
        return found


def _permutation_test(
    compared: _Compared,
    member: IntArray,
    patients: Patients,
    image_ids: npt.NDArray[np.object_],
    found: Mapping[str, tuple[float, float, float]],
    resampling: Resampling,
) -> dict[str, float]:
    """p-value of each gap, by name; NaN where the gap does not exist."""
    observed = {name: value for name, (value, _, _) in found.items() if " gap " in name.partition("[")[0]}
    as_large = dict.fromkeys(observed, 0)
    for exchanged in _permuted(member, patients, image_ids, resampling):
        again = compared(exchanged, np.ones((1, len(member))))
        for name, value in observed.items():
            reached = abs(value) * (1 - 1e-9) - 1e-12  # the same sum in another order
            as_large[name] += int((~(np.abs(again[name]) < reached)).sum())
    return {
        name: (1 + as_large[name]) / (resampling.resamples + 1) if np.isfinite(value) else NAN
        for name, value in observed.items()
    }


def _permuted(
    member: IntArray, patients: Patients, image_ids: npt.NDArray[np.object_], resampling: Resampling
) -> Iterator[IntArray]:
    """Which value each image has by chance, (R, N), in blocks."""
    rng = np.random.default_rng((resampling.seed, PERMUTED))
    lowest, highest = np.full(patients.count, np.iinfo(np.int64).max), np.full(patients.count, -1)
    np.minimum.at(lowest, patients.of_image, member)
    np.maximum.at(highest, patients.of_image, member)
    one = lowest == highest
    # by patient and image, so that the order of the table changes nothing
    order = np.lexsort((image_ids.astype(str), patients.of_image))
    own = order[~one[patients.of_image[order]]]
    rows = max(1, BLOCK // max(1, len(member)))
    for at in range(0, resampling.resamples, rows):
        count = min(rows, resampling.resamples - at)
        of_patient = np.tile(lowest, (count, 1))
        of_patient[:, one] = rng.permuted(of_patient[:, one], axis=1)
        exchanged = of_patient[:, patients.of_image]
        # whole numbers part the patients, what is added mixes the images of each
        mixed = np.argsort(patients.of_image[own] + rng.random((count, len(own))), axis=1)
        exchanged[:, own] = member[own][mixed]
        yield exchanged


def _gap(
    column: str,
    names: Sequence[str],
    k: int,
    metric: str,
    behind: _Behind,
    found: Mapping[str, tuple[float, float, float]],
    p: Mapping[str, float],
    resampling: Resampling,
) -> Gap:
    nothing = NAN, NAN, NAN
    note = resampling.withheld(behind.patients[k])
    of_others = resampling.withheld(behind.others[k])
    score, low, high = nothing if note else found.get(f"{k} score {metric}", nothing)
    gap, gap_low, gap_high = nothing if note or of_others else found.get(f"{k} gap {metric}", nothing)
    if behind.patients[k] < MIN_PATIENTS:  # one patient has no spread
        low = high = gap_low = gap_high = NAN
    if behind.others[k] < MIN_PATIENTS:
        gap_low = gap_high = NAN
    return Gap(
        column=column,
        value=names[k],
        against=names[1] if len(names) == 2 else OTHERS,
        metric=metric,
        n=behind.images[k],
        patients=behind.patients[k],
        score=score,
        low=low,
        high=high,
        gap=gap,
        gap_low=gap_low,
        gap_high=gap_high,
        p=p.get(f"{k} gap {metric}", NAN) if np.isfinite(gap) else NAN,
        note=note or (of_others and f"gap {of_others}"),
    )
