"""The tables that papers on robust training show, made wherever a run holds their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cxr_eval.report.results import ATTACKED, NOT_DEFINED, WORST, Results, middle_and_largest
from cxr_eval.report.tables import HEADLINES, ROBUST_PRECISION, Layout, Table, Where, fill, headline, spoken, trainers_of

OF_PREDICTIONS = (
    ("Accuracy", "accuracy"),
    ("Precision", "precision"),
    ("Recall", "balanced_accuracy"),
    ("F1", "f1"),
)
"""Scores of Yang, Bennett and Duncan (arXiv:2311.14227); precision, recall and F1 as means over classes."""
BETWEEN_SETS = ("auroc", "accuracy", "balanced_accuracy", "mean_average_precision")

Step = tuple[float, str, str]


def attacked_tables(results: Results, split: str) -> list[Table]:
    """Accuracy, precision, recall and F1 on clean and on attacked images, one table an attack; models with several trainers.

    Source: Yang, Bennett, Duncan, arXiv:2311.14227: standard against robust networks, clean against perturbed images.
    """
    tables = []
    for attack, series in results.attacks(split).items():
        steps = [step for step in _telling(results, split, series) if attack != WORST and _precise(results, split, step)]
        at = [(", clean", "clean"), *((f", radius {written}", condition) for _, written, condition in steps)]
        columns: list[tuple[str, Where]] = [
            (title + said, {"metric": metric, "condition": condition})
            for said, condition in at
            for title, metric in OF_PREDICTIONS
        ]
        groups = []
        for model in results.models:
            lines = [
                (heads, where)
                for heads, where in trainers_of(results)
                for key in [{"model": model, "split": split, "metric": "precision", **where}]
                if any(results.score(**key, condition=condition) for _, _, condition in steps)
            ]
            groups += [(model, {"model": model, "split": split}, lines)] if len(lines) > 1 else []
        layout = Layout(
            f"Clean images of “{split}” and the same attacked by {attack}",
            ("Model", "Trainer"),
            columns,
            groups,
            contest=lambda group, _: group,
            note="Precision, recall and F1 are means over the classes. Every image was attacked, wrong ones too.",
        )
        tables += [table] if groups and (table := fill(results, layout)) else []
    return tables


def _telling(results: Results, split: str, series: Sequence[Step]) -> list[Step]:
    """Those radii of an attack that sentences and short tables speak of; its own middle and largest if it has none of them."""
    radii = {written for _, written, _ in results.telling_radii(split)}
    return [step for step in series if step[1] in radii] or middle_and_largest(series)


def _precise(results: Results, split: str, step: Step) -> bool:
    """True if all predictions under the attack were scored, not only which images stay right."""
    return results.measured("precision", split=split, condition=step[2])


def outside_tables(results: Results, split: str) -> list[Table]:
    """A score on the test split, on an outside set, their difference and their mean; one table a score.

    Source: Li et al., arXiv:2209.04326: AUROC on data like the training data and on others, and the average.
    """
    tables = []
    for metric in BETWEEN_SETS:
        if not results.measured(f"change[{metric}]", split=split):
            continue
        columns: list[tuple[str, Where]] = [
            ("Inside: “test”", {"split": "test", "metric": metric}),
            (f"Outside: “{split}”", {"split": split, "metric": metric}),
            ("Change, outside minus inside", {"split": split, "metric": f"change[{metric}]"}),
            ("Mean of the two", {"split": split, "metric": f"mean[{metric}]"}),
        ]
        layout = Layout(
            f"{HEADLINES[metric]} inside and on “{split}”",
            ("Model", "Trainer"),
            columns,
            [(model, {"model": model}, trainers_of(results)) for model in results.models],
            contest=lambda group, _: group,
            note="A change below 0 is a loss outside. Its interval resamples the patients of both sets, each set for itself.",
        )
        tables += [table] if (table := fill(results, layout)) else []
    return tables


def thresholds_of(written: Iterable[str]) -> list[str]:
    """Thresholds as written, from small to large."""
    return sorted(written, key=float)


def classes_of(results: Results, by_class: Iterable[str]) -> list[str]:
    """Classes in the order of the data, then any other name."""
    there = list(by_class)
    return [name for name in results.classes if name in there] + [name for name in there if name not in results.classes]


def threshold_tables(
    results: Results, model: str, split: str, explainer: str, metric: str
) -> tuple[Table | None, Table | None]:
    """A metric of maps by class over a threshold, trainers side by side; and apart where it cuts the maps of each class.

    Source: Khakzar, Albarqouni, Navab, arXiv:1905.03767, figure 3; Wang et al., CVPR 2017, table 7.
    """
    by_class = results.by_threshold[split, explainer][metric]
    at = {"model": model, "split": split, "explainer": explainer}
    columns: list[tuple[str, Where]] = [(trainer, {"trainer": trainer}) for trainer in results.trainers]
    where = f"{explainer}, {model}, clean images of “{split}”"
    classes = classes_of(results, by_class)
    names = [name for name in classes if _judged(results, at, [f"{metric}[{name}@{t}]" for t in by_class[name]])]
    few = [name for name in classes if name not in names]
    names = names or classes  # lines without numbers say more than no table
    over = Layout(
        f"{spoken(metric).capitalize()} over T(IoU): {where}",
        ("Finding", "T(IoU)"),
        columns,
        [(name, at, [((t,), {"metric": f"{metric}[{name}@{t}]"}) for t in thresholds_of(by_class[name])]) for name in names],
        compare="line",
        note="Share of the findings whose box or mask the thresholded map overlaps by more than T(IoU)."
        + (f" Too few patients to tune a threshold on: {', '.join(few)}." if few else ""),
    )
    tuned = Layout(
        f"Thresholds behind the {spoken(metric)}: {where}",
        ("", "Finding"),
        columns,
        [("Mean over folds", at, [((name,), {"metric": f"{metric}[threshold of {name}]"}) for name in names])],
        compare="line",
        note="Where the maps are cut, as a share of their range; tuned on other patients than those that are judged.",
    )
    return fill(results, over), fill(results, tuned)


def _judged(results: Results, at: Where, metrics: Iterable[str]) -> bool:
    """True if some network has one of the numbers; a class with too few patients has none."""
    scores = [results.score(**at, trainer=trainer, metric=metric) for metric in metrics for trainer in results.trainers]
    return any(score is not None and score.text != NOT_DEFINED for score in scores)


def finding_table(results: Results, model: str) -> Table | None:
    """AUROC of each finding, trainers side by side, where an image may have several findings.

    Source: Khakzar, Albarqouni, Navab, arXiv:1905.03767, figure 2; Wang et al., CVPR 2017, table 17.
    """
    if results.manifest["task"] != "multilabel":
        return None
    groups = [
        (f"“{split}”", {"model": model, "split": split}, [((name,), {"metric": f"auroc[{name}]"}) for name in results.classes])
        for split in results.splits
    ]
    columns: list[tuple[str, Where]] = [(trainer, {"trainer": trainer}) for trainer in results.trainers]
    layout = Layout(f"AUROC by finding: {model}, clean images", ("Set", "Finding"), columns, groups, compare="line")
    return fill(results, layout)


def precision_table(results: Results, split: str) -> Table | None:
    """Accuracy and mean average precision on clean images, accuracy under each attack, and mARP.

    Source: Li, Ma, Jiang, Meng, arXiv:2403.06798; how mAP and mARP are formed is ours, see docs/methods.md.
    """
    if not results.measured(ROBUST_PRECISION, split=split, condition=ATTACKED):
        return None
    columns: list[tuple[str, Where]] = [
        (f"{HEADLINES[metric]}, clean", {"metric": metric}) for metric in (headline(results, split), "mean_average_precision")
    ]
    for attack, series in results.attacks(split).items():
        for _, written, condition in _telling(results, split, series) if attack != WORST else ():
            scored = results.measured("accuracy", split=split, condition=condition)
            title, metric = ("Accuracy", "accuracy") if scored else ("Robust accuracy", "robust_accuracy")
            columns.append((f"{title}, {attack} {written}", {"metric": metric, "condition": condition}))
    columns.append((HEADLINES[ROBUST_PRECISION], {"metric": ROBUST_PRECISION, "condition": ATTACKED}))
    layout = Layout(
        f"Mean average precision on clean and on attacked images of “{split}”",
        ("Model", "Trainer"),
        columns,
        [(model, {"model": model, "split": split}, trainers_of(results)) for model in results.models],
        contest=lambda group, _: group,
        note="mAP: mean over the classes of one-against-rest average precision. mARP: its mean over the"
        " radii of those attacks that attacked every image.",
    )
    return fill(results, layout)
