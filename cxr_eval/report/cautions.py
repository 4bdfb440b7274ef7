"""What the first screen must not leave out: classes that a network has given up, and what tells the label but the disease."""

from __future__ import annotations

from cxr_eval.report.results import Results
from cxr_eval.report.verdict import listed

MOST_NAMED = 3
"""Networks that are named; of more the sentence gives the number."""
SHORTCUTS = {
    "source_is_label": "where a picture was taken",
    "view_is_label": "the view",
    "sex_is_label": "the patient's sex",
    "age_is_label": "the patient's age",
}
"""What tells the label of training images, by the code of its warning."""


def given_up(results: Results) -> list[str]:
    """Networks that recognise no image of some class: a mean over images hides it."""
    found: dict[str, list[str]] = {}
    for model in results.models:
        for trainer in results.trainers:
            for name in results.classes:
                place = {"model": model, "trainer": trainer, "split": results.splits[0], "metric": f"recall[{name}]"}
                score = results.score(**place, condition="clean")
                lost = [value == 0 for _, value in score.by_seed] if score else []
                if any(lost):
                    who = f"“{trainer}”" + (f" ({model})" if len(results.models) > 1 else "")
                    seeds = "" if all(lost) else f" in {sum(lost)} of {len(lost)} seeds"
                    found.setdefault(who, []).append(f"'{name}'{seeds}")
    if len(found) > MOST_NAMED:
        return [f"{len(found)} of {len(results.models) * len(results.trainers)} networks recognise no image of some class."]
    return [f"{who} recognises no image of {listed(names)}." for who, names in found.items()]


def shortcuts(results: Results) -> list[str]:
    """What a network may have learned instead of the disease."""
    found = {warning.code for warning in results.warnings if warning.scope == "run"}
    by = [said for code, said in SHORTCUTS.items() if code in found]
    tells = "tells" if len(by) == 1 else "tell"
    return [f"{listed(by).capitalize()} {tells} a label, so a network may be right without reading the disease."] if by else []
