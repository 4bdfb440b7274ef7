"""Tables of scores by class, and of which class is called which."""

from __future__ import annotations

from cxr_eval.report.results import WORST, Results
from cxr_eval.report.tables import Layout, Table, Where, fill, trainers_of

ROBUST_RECALL = (
    "Robust recall: share of the class that is right without attack, and under this attack at this and every smaller radius. "
    "All other scores are of the answers at this radius alone."
)


def class_tables(results: Results, model: str, split: str) -> list[Table]:
    """Recall, precision, F1, AUROC, average precision by class: clean, and under attack at a middle and the largest radius."""
    conditions = [("clean", "clean images")]
    for attack, series in results.attacks(split).items():
        radii = {written for _, written, _ in results.telling_radii(split, results.threat_of(attack))}
        if attack != WORST:
            conditions += [(condition, f"{attack}, radius {written}") for _, written, condition in series if written in radii]
    columns: list[tuple[str, Where]] = [
        (title, {"measure": name})
        for name, title in (
            ("robust_recall", "Robust recall"),
            ("recall", "Recall"),
            ("precision", "Precision"),
            ("f1", "F1"),
            ("auroc", "AUROC"),
            ("average_precision", "Average precision"),
        )
    ]

    def of_class(where: dict[str, str]) -> dict[str, str]:
        return where | {"metric": f"{where.pop('measure')}[{where.pop('of')}]"}

    tables = []
    for condition, title in conditions:
        at = {"model": model, "split": split, "condition": condition}
        groups = [(name, {**at, "of": name}, trainers_of(results)) for name in results.classes]
        caption = f"Scores by class of {model} on “{split}”: {title}"
        robust = (results.measured(f"robust_recall[{name}]", split=split, condition=condition) for name in results.classes)
        note = ROBUST_RECALL if any(robust) else ""
        layout = Layout(caption, ("Class", "Trainer"), columns, groups, lambda group, _: group, at=of_class, note=note)
        table = fill(results, layout)
        tables += [table] if table else []
    return tables


def confusion_table(results: Results, model: str, split: str) -> Table | None:
    """Which class the images of each true class are called, as shares of the true class; clean images."""

    def called(where: dict[str, str]) -> dict[str, str]:
        said, true = where.pop("said"), where.pop("true")
        return where | {"metric": f"recall[{true}]" if said == true else f"called[{said}|{true}]"}

    if not any(results.measured(f"recall[{name}]", split=split) for name in results.classes):
        return None
    columns: list[tuple[str, Where]] = [(f"Called {name}", {"said": name}) for name in results.classes]
    at = {"model": model, "split": split, "condition": "clean"}
    groups = [(f"True class {name}", {**at, "true": name}, trainers_of(results)) for name in results.classes]
    caption = f"Confusion of {model} on “{split}”: share of each true class by the class it is called, clean images"
    return fill(results, Layout(caption, ("True class", "Trainer"), columns, groups, lambda group, _: group, at=called))
