"""What corruptions leave of the headline score: a heat map a trainer, corruption by severity."""

from __future__ import annotations

from cxr_eval.report.charts.heat import heat_map, together
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import Results, number
from cxr_eval.report.tables import HEADLINES, headline


def corruption_maps(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """The headline score by corruption and severity, clean first; colours mean the same for all trainers."""
    corruptions, metric = results.corruptions(split), headline(results, split)
    severities = sorted({written for series in corruptions.values() for _, written, _ in series}, key=float)
    if not severities:
        return []
    found: dict[str, dict[tuple[int, int], float]] = {}
    for trainer in results.trainers:
        cells: dict[tuple[int, int], float] = {}
        for row, series in enumerate(corruptions.values()):
            by_severity = {written: condition for _, written, condition in series}
            for column, condition in enumerate(["clean", *(by_severity.get(written, "") for written in severities)]):
                at = {"model": model, "trainer": trainer, "split": split, "metric": metric, "condition": condition}
                score = results.score(**at) if condition else None
                if score is not None:
                    cells[row, column] = score.value
        if any(column for _, column in cells):
            found[trainer] = cells
    ends = together([value for cells in found.values() for value in cells.values()])
    return [
        heat_map(
            f"{key}-{place}",
            trainer,
            f"{HEADLINES[metric]} of {model} by {trainer} on “{split}” under corruption: {_said(list(corruptions), cells)}",
            cells,
            down=list(corruptions),
            across=["clean", *severities],
            y="Corruption",
            x=f"{HEADLINES[metric]} by severity",
            ends=ends,
        )
        for place, (trainer, cells) in enumerate(found.items())
    ]


def _said(names: list[str], cells: dict[tuple[int, int], float]) -> str:
    said = []
    for row, name in enumerate(names):
        values = [number(cells[at]) for at in sorted(cells) if at[0] == row]
        said += [f"{name} from {values[0]} to {values[-1]}"] if values else []
    return "; ".join(said)
