"""May the numbers be believed? What was checked about the attacks on each network, and about explainers and their metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd

from cxr_eval.report.figures import convergence_curves
from cxr_eval.report.parts import Part, Section
from cxr_eval.report.results import Results
from cxr_eval.report.tables import NOT_MEASURED, Cell, Head, Line, Table, Words

VERDICTS = {"FAIL": "failed", "WARN": "doubtful", "SKIP": "not tried", "PASS": "passed"}
"""Verdicts as the report says them, the worst first."""
LEVELS: dict[str, Literal["fail", "warn"]] = {"FAIL": "fail", "WARN": "warn"}
WORST_FIRST = list(VERDICTS)

Record = dict[str, Any]


def section(results: Results, checks: pd.DataFrame) -> Section | None:
    """Checks by network, what was found where one did not pass, and how the search converged; None without any."""
    lines = [{str(name): value for name, value in line.items()} for line in checks.fillna("").to_dict("records")]
    of_attacks = [line for line in lines if line["kind"] == "validity"]
    of_plugins = [line for line in lines if line["kind"] == "self_test"]
    parts = [*_networks(results, of_attacks)]
    tests = _self_tests(of_plugins)
    parts += [tests] if tests else []
    if not parts:
        return None
    said = [_summary(of_attacks)] if of_attacks else []
    title = "May the robust accuracies be believed?" if len(parts) > bool(tests) else "May the explanations be believed?"
    return Section("validity", title, said, parts)


def _summary(lines: list[Record]) -> str:
    networks = {(line["model"], line["trainer"], line["seed"]) for line in lines}
    sets = {line["split"] for line in lines}
    counts = {verdict: sum(line["verdict"] == verdict for line in lines) for verdict in WORST_FIRST}
    told = ", ".join(f"{counts[verdict]} {said}" for verdict, said in VERDICTS.items())
    ends = " What a failed check forbids is not claimed at the top of this report." if counts["FAIL"] else ""
    return (
        "Robust accuracy is an upper bound, and a bad attack makes it too high. These checks look for signs of that: "
        f"{len(lines)} on {len(networks)} {'network' if len(networks) == 1 else 'networks'}"
        f"{f' and {len(sets)} sets' if len(sets) > 1 else ''}, of which {told}.{ends}"
        " A check that passed has found nothing; that is no proof."
    )


def _networks(results: Results, lines: list[Record]) -> Iterator[Part]:
    for split_number, split in enumerate(results.splits):
        for model_number, model in enumerate(results.models):
            mine = [line for line in lines if (line["model"], line["split"]) == (model, split)]
            curves = convergence_curves(results, model, split, f"convergence-{split_number}-{model_number}")
            if mine:
                words = _found(mine, f"What was found where a check of {model} on “{split}” did not pass")
                matrix, wrong = _matrix(results, mine, model, split), any(line["verdict"] in LEVELS for line in mine)
                yield Part(f"{model} on “{split}”", [], [matrix] if wrong else [], [] if wrong else [matrix], words=words)
            if curves:
                said = (
                    "Robust accuracy on the images of the checks after more steps of the search, and after more restarts: where"
                    " a curve still falls at its right end, a longer search would find more. Bands are 95 % intervals."
                )
                yield Part(f"{model} on “{split}”: has the search converged?", curves, [], [], said=said)


def _matrix(results: Results, lines: list[Record], model: str, split: str) -> Table:
    """Checks x trainers; the worst verdict of the seeds."""
    titles = dict.fromkeys(line["title"] for line in lines)
    there = {line["trainer"] for line in lines}
    trainers = [trainer for trainer in results.trainers if trainer in there]
    shown = tuple(
        Line((title,), tuple(_verdict([x for x in lines if (x["title"], x["trainer"]) == (title, who)]) for who in trainers))
        for title in titles
    )
    return Table(
        f"Checks of the attacks on {model}, “{split}”: the worst of the seeds",
        ("Model", "Check"),
        tuple(Head(trainer) for trainer in trainers),
        ((model, shown),),
        "passed: no sign of a bad attack. doubtful: a sign of one, so the robust accuracies are marked with a warning. failed:"
        " the robust accuracies are not to be believed. not tried: the check does not apply, or lacks what it needs.",
    )


def _verdict(lines: list[Record]) -> Cell:
    if not lines:
        return Cell(NOT_MEASURED)
    worst = min((line["verdict"] for line in lines), key=WORST_FIRST.index)
    of = sum(line["verdict"] == worst for line in lines)
    how_many = "" if of == len(lines) else f"{of} of {len(lines)} seeds"
    return Cell(VERDICTS[worst], spread=how_many, level=LEVELS.get(worst, ""))


def _found(lines: list[Record], caption: str) -> list[Words]:
    """What every check said that did not pass, the worst first; the same said of several networks stands once."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for line in sorted(lines, key=lambda line: WORST_FIRST.index(line["verdict"])):
        if line["verdict"] != "PASS":
            network = f"{line['trainer']}, seed {line['seed']}"
            said.setdefault((VERDICTS[line["verdict"]], line["title"], line["sentence"]), []).append(network)
    rows = [[verdict, title, "; ".join(networks), sentence] for (verdict, title, sentence), networks in said.items()]
    return [Words(caption, ("Verdict", "Check", "Network", "What was found"), rows)] if rows else []


def _self_tests(lines: list[Record]) -> Part | None:
    """Tests of explainers and explanation metrics before they were used; in one line if all passed."""
    if not lines:
        return None
    title = "Self-tests of explainers and explanation metrics"
    wrong = [line for line in lines if line["verdict"] != "PASS"]
    tested = "each was tried on networks and maps of which the answer is known"
    if not wrong:
        return Part(title, [], [], [], said=f"{tested.capitalize()}: all {len(lines)} tests passed.")
    said: dict[tuple[str, str, str], int] = {}
    for line in sorted(wrong, key=lambda line: WORST_FIRST.index(line["verdict"])):
        key = (VERDICTS[line["verdict"]], f"{line['title']}: {line['check']}", line["sentence"])
        said[key] = said.get(key, 0) + 1
    table = Words(
        "Self-tests that did not pass",
        ("Verdict", "Test", "What was found", "Networks"),
        [[*key, str(count)] for key, count in said.items()],
    )
    failed = any(line["verdict"] == "FAIL" for line in wrong)
    ends = " What failed was not used." if failed else ""
    told = f"{tested.capitalize()}: {len(lines) - len(wrong)} of {len(lines)} tests passed.{ends}"
    return Part(title, [], [], [], said=told, words=[table])
