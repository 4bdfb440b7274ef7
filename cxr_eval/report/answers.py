"""The three answers of the first screen: which trainer, how sure, and what was not tested; never more than the checks allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from cxr_eval.report.cautions import given_up, shortcuts
from cxr_eval.report.differences import said_p
from cxr_eval.report.overview import Overview, reference, robust_condition
from cxr_eval.report.results import WORST, Results, Score
from cxr_eval.report.tables import headline
from cxr_eval.report.threats import said_condition
from cxr_eval.report.verdict import (
    Candidate,
    Compared,
    candidates_of,
    comparisons,
    is_drawn,
    left_out,
    listed,
    plural,
    why_none,
    with_interval,
)
from cxr_eval.report.words import finding, whose

MOST_NAMED = 3
"""Networks that one sentence names; of more it gives the number."""
CHECKED = {"PASS": "passed", "WARN": "doubtful", "FAIL": "failed", "SKIP": "not tried"}

LEADS = {
    "nothing": "None: nothing was measured.",
    "smoke": "None: this run only shows that everything runs.",
    "forbidden": "None can be recommended: a check failed on every number that would decide it.",
    "undefined": "None can be recommended: the numbers that would decide it are not defined.",
    "only": "Only {who} was tested.",
    "best": "{who}.",
    "clean": "{who}, by clean images alone.",
    "divided": "No trainer is best in everything.",
    "alike": "No trainer can be told from the others.",
    "open": "No single trainer can be recommended.",
}
"""The short answer to which trainer."""
TOLD = {
    "clean": {
        "first": "{who} has the highest {score} on clean images ({number})",
        "none": "none is shown to have a higher {score} on clean images ({number})",
        "open": "on clean images {who} by its {score} ({number}){not_shown}",
        "tied": "on clean images {who} cannot be told apart ({score} {number})",
        "is": "{score} on clean images is {number}",
        "left": "on clean images only the {score} of {who} can be believed ({number})",
        "forbidden": "no {score} on clean images is claimed, because a check failed on it",
        "undefined": "{score} on clean images is {why}",
    },
    "robust": {
        "first": "{who} withstands attacks best ({score}, {at}: {number})",
        "none": "none is shown to withstand attacks better ({score}, {at}: {number})",
        "open": "under attack {who} ({score}, {at}: {number}){not_shown}",
        "tied": "under attack {who} cannot be told apart ({score}, {at}: {number})",
        "is": "{score}, {at}, is {number}",
        "left": "under attack only the {score} of {who} can be believed ({at}: {number})",
        "forbidden": "no {score} is claimed, because a check failed on it",
        "undefined": "{score}, {at}, is {why}",
    },
    "outside": {
        "first": "on {at} {who} has the highest {score} ({number})",
        "none": "on {at} none is shown to have a higher {score} ({number})",
        "open": "on {at} {who} by its {score} ({number}){not_shown}",
        "tied": "on {at} {who} cannot be told apart ({score} {number})",
        "is": "{score} on {at} is {number}",
        "left": "on {at} only the {score} of {who} can be believed ({number})",
        "forbidden": "no {score} on {at} is claimed, because a check failed on it",
        "undefined": "{score} on {at} is {why}",
    },
}
"""What one contest of the networks came to."""
NOT_SHOWN = ", a difference that no corrected test shows, though the intervals are apart"
COSTS = {
    "better": "at a cost of {amount} {score} against {against} ({p})",
    "gains": "with {amount} more {score} than {against} ({p})",
    "seeds": "and the seeds disagree on what that does to {score} ({p})",
    "none": "with no difference of {score} from {against} shown ({p})",
}
"""What the trainer that withstands most is on clean images, against the reference trainer."""
NO_ATTACK = "nothing was measured under attack, so nothing says which withstands changes of the image"


@dataclass(frozen=True)
class Answer:
    """One question of the first screen: the short answer, and what stands behind it."""

    question: str
    lead: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Contest:
    """What numbers of one kind say about which network is best.

    leaders: the highest, and all that are not shown to be lower.
    """

    of: Literal["clean", "robust", "outside"]
    score: str
    at: str
    kind: Literal["first", "tied", "open", "is", "left", "forbidden", "undefined"]
    leaders: tuple[Candidate, ...] = ()
    forbidden: tuple[Candidate, ...] = ()
    """Numbers on which a check failed: nobody leads by them."""
    why: str = ""
    entered: int = 0

    @property
    def decides(self) -> bool:
        """True if one network is ahead of all others."""
        return self.kind == "first"

    @property
    def names(self) -> tuple[str, ...]:
        """Whose the leading numbers are."""
        return tuple(candidate.who for candidate in self.leaders)

    @property
    def close(self) -> frozenset[str]:
        """The highest, and those whose intervals overlap with its own; nobody where a check left only one."""
        if self.kind == "left":
            return frozenset()
        return frozenset(each.who for each in self.leaders if not _disjoint(self.leaders[0], each))

    def told(self) -> str:
        """The contest in words."""
        who, number = "", ""
        if self.kind == "tied":
            who, number = self._together()
        elif self.kind == "open":
            top, bottom = self.leaders[0], min(self.leaders, key=_value)
            who, number = f"{top.who} is above {bottom.who}", f"{_number(top.score)} against {_number(bottom.score)}"
        elif self.leaders:
            who, number = self.leaders[0].who, _number(self.leaders[0].score)
        return TOLD[self.of][self.kind].format(
            who=who, score=self.score, at=self.at, number=number, why=self.why, not_shown=NOT_SHOWN
        )

    def about_it(self) -> str:
        """The contest in words, with nothing for the name of the first."""
        return self.told().replace(self.names[0], "", 1).strip()

    def none_better(self) -> str:
        """That nobody is shown to be ahead."""
        return TOLD[self.of]["none"].format(score=self.score, at=self.at, number=self._range(self.leaders))

    def _together(self) -> tuple[str, str]:
        """Those that cannot be told apart, and their numbers: each for two, else from the lowest to the highest."""
        if len(self.leaders) == 2:
            return listed(self.names), listed([_number(each.score) for each in self.leaders])
        said = self._range(self.leaders)
        if len(self.leaders) <= MOST_NAMED:
            return listed(self.names), said
        if len(self.leaders) == self.entered:
            return f"the {self.entered} networks", said
        return f"{len(self.leaders)} of {self.entered} networks ({self.leaders[0].who} the highest)", said

    @staticmethod
    def _range(of: Sequence[Candidate]) -> str:
        ends = [end(of, key=_value).score.text for end in (min, max)]
        return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def answers(results: Results, differences: pd.DataFrame, checks: pd.DataFrame, table: Overview | None) -> list[Answer]:
    """Which trainer, how sure, what was not tested."""
    lead, *said = _which(results, comparisons(differences))
    short = [left.short for left in left_out(results)]
    return [
        Answer("Which trainer?", lead, tuple(said)),
        Answer("How sure?", "", tuple(_how_sure(results, checks, table))),
        Answer("What was not tested?", "", (_sentence("; ".join(short)),)),
    ]


def _which(results: Results, compared: Compared) -> list[str]:
    """The short answer, then at most two sentences behind it."""
    if not results.splits:
        every = all(cell["status"] == "failed" for cell in results.manifest["cells"])
        return [LEADS["nothing"], *(["Every network failed."] if every else [])]
    if results.smoke:
        return [LEADS["smoke"]]
    clean, robust, outside = _contests(results, compared)
    contests = [clean, *([robust] if robust else []), *outside]
    drawn = ["That says nothing about patients: the images are drawn."] if is_drawn(results) else []
    left = [*given_up(results), *_left(contests)]
    if all(contest.kind in ("forbidden", "undefined") for contest in contests):
        kind = "forbidden" if any(contest.kind == "forbidden" for contest in contests) else "undefined"
        return [LEADS[kind], *(_joined(contests) if kind == "undefined" else []), *drawn]
    entered = {candidate.who for contest in contests for candidate in (*contest.leaders, *contest.forbidden)}
    if len(results.models) * len(results.trainers) == 1 or (len(entered) == 1 and all(c.entered <= 1 for c in contests)):
        return [LEADS["only"].format(who=entered.pop()), *_joined(contests), *left, *drawn]
    return [*_chosen(results, clean, robust, outside, compared), *left, *_tally(results, robust, compared), *drawn]


def _chosen(
    results: Results, clean: Contest, robust: Contest | None, outside: Sequence[Contest], compared: Compared
) -> list[str]:
    against = [contest for contest in outside if contest.decides]
    if robust is None:
        if not clean.decides:
            return [LEADS["alike" if clean.kind == "tied" else "open"], *_joined([clean]), _sentence(NO_ATTACK)]
        if all(contest.names == clean.names for contest in against):
            return [LEADS["clean"].format(who=clean.names[0]), f"It {clean.about_it()}; {NO_ATTACK}."]
        return [LEADS["divided"], *_joined([clean, *against]), _sentence(NO_ATTACK)]
    deciding = [contest for contest in (clean, robust) if contest.decides]
    ahead = {contest.names[0] for contest in [*deciding, *against]}
    if deciding and len(ahead) == 1 and all(ahead & contest.close for contest in (clean, robust)):
        second = next((contest for contest in (clean, robust) if not contest.decides), None)
        told = f"{clean.told()} and {robust.about_it()}" if second is None else f"{deciding[0].told()}; {second.none_better()}"
        apart = [_sentence(contest.told()) for contest in outside if contest.kind == "open" and not ahead & contest.close]
        return [LEADS["best"].format(who=ahead.pop()), _sentence(told.replace(deciding[0].names[0], "it", 1)), *apart]
    if len(ahead) > 1:
        both = [clean.told(), robust.told() + _cost(results, clean, robust, compared)]
        return [LEADS["divided"], _sentence("; ".join([*both, *(contest.told() for contest in against)]))]
    everyone = all(contest.kind == "tied" and len(contest.leaders) == contest.entered for contest in (clean, robust))
    return [LEADS["alike" if everyone else "open"], _sentence(f"{clean.told()}; {robust.told()}")]


def _contests(results: Results, compared: Compared) -> tuple[Contest, Contest | None, list[Contest]]:
    first, *others = results.splits
    metric = headline(results, first)
    clean = _contest("clean", _named(candidates_of(results, first, metric)), compared, _score(metric), "")
    condition = robust_condition(results)
    robust = None
    if condition:
        found = _named(candidates_of(results, first, "robust_accuracy", condition))
        at = said_condition(results, condition).removeprefix(f"{WORST} case, ")
        every = f" of all {len(results.classes)} findings at once" if results.manifest["task"] == "multilabel" else ""
        robust = _contest("robust", found, compared, f"robust accuracy{every}", at)
    outside = [
        _contest("outside", _named(candidates_of(results, split, measured)), compared, _score(measured), f"“{split}”")
        for split in others
        for measured in [headline(results, split)]
    ]
    return clean, robust, [contest for contest in outside if contest.entered or contest.forbidden]


def _contest(
    of: Literal["clean", "robust", "outside"], found: list[Candidate], compared: Compared, score: str, at: str
) -> Contest:
    defined = [candidate for candidate in found if candidate.defined]
    usable = [candidate for candidate in defined if not candidate.score.failed]
    forbidden = tuple(candidate for candidate in defined if candidate.score.failed)
    if not defined:
        return Contest(of, score, at, "undefined", why=why_none(found) if found else "not measured")
    if not usable:
        return Contest(of, score, at, "forbidden", forbidden=forbidden)
    ranked = sorted(usable, key=_value, reverse=True)
    rivals = [other for other in ranked[1:] if not _ahead(ranked[0], other, compared)]
    alone: Literal["is", "left"] = "left" if forbidden else "is"
    kind: Literal["is", "left", "first", "open", "tied"] = alone if len(ranked) == 1 else "tied" if rivals else "first"
    if any(_disjoint(ranked[0], rival) for rival in rivals):
        kind = "open"
    return Contest(of, score, at, kind, (ranked[0], *rivals), forbidden, entered=len(ranked))


def _ahead(first: Candidate, other: Candidate, compared: Compared) -> bool:
    """True if the first is shown to be higher.

    Where the two were compared, that decides; of two that were not, neither intervals nor ranges of the seeds may overlap.
    """
    line = compared.get((*first.at, *sorted((first.trainer, other.trainer)))) if first.at == other.at else None
    if line is not None:
        return finding(line).who == first.trainer
    seeds = [[value for _, value in each.score.by_seed if value == value] for each in (first, other)]
    return _disjoint(first, other) and min(seeds[0]) > max(seeds[1])


def _disjoint(first: Candidate, other: Candidate) -> bool:
    """True if the first one's interval is above the other's."""
    return first.score.low > other.score.high


def _cost(results: Results, clean: Contest, robust: Contest, compared: Compared) -> str:
    """What the trainer that withstands most loses or gains on clean images."""
    against = reference(results, compared)
    if not robust.decides or robust.leaders[0].trainer == against:
        return ""
    winner = robust.leaders[0]
    model = winner.at[0]
    place = (model, results.splits[0], "clean", "", headline(results, results.splits[0]))
    line = compared.get((*place, *sorted((winner.trainer, against))))
    if line is None or any(each.at[0] == model and each.trainer in (winner.trainer, against) for each in clean.forbidden):
        return ""
    found, p = finding(line), said_p(float(line["p_holm"]))
    if found.kind == "apart":
        return ""
    kind = found.kind if found.kind in ("seeds", "none") else "better" if found.who == against else "gains"
    said = COSTS[kind].format(amount=f"{abs(float(line['value'])):.3f}", score=clean.score, against=f"“{against}”", p=p)
    return f", {said}"


def _tally(results: Results, robust: Contest | None, compared: Compared) -> list[str]:
    """In how many models the leading trainer withstands more than the reference; nothing for one model."""
    against = reference(results, compared)
    if robust is None or not robust.leaders or len(results.models) == 1 or not against:
        return []
    trainer = next((each.trainer for each in robust.leaders if each.trainer != against), "")
    lines = [
        line for key, line in compared.items() if key[2:5] == robust.leaders[0].at[2:5] and {trainer, against} == {*key[5:]}
    ]
    forbidden = {each.at[0] for each in robust.forbidden if each.trainer in (trainer, against)}
    lines = [line for line in lines if line["split"] == results.splits[0] and line["model"] not in forbidden]
    if not trainer or not lines:
        return []
    more, less = (sum(finding(line).who == who for line in lines) for who in (trainer, against))
    return [f"“{trainer}” withstands more than “{against}” in {more} of {plural(len(lines), 'model')} and less in {less}."]


def _left(contests: Sequence[Contest]) -> list[str]:
    """Whose numbers are left out because a check failed."""
    scores: dict[str, list[str]] = {}
    for contest in contests:
        for candidate in contest.forbidden if contest.kind != "forbidden" else ():
            scores.setdefault(candidate.who, []).append(
                contest.score + (f" on {contest.at}" if contest.of == "outside" else "")
            )
    if not scores:
        return []
    if len(scores) > MOST_NAMED:
        return [f"Numbers of {len(scores)} networks are left out, because a check failed on them."]
    told = [f"{listed(list(dict.fromkeys(of)))} of {who}" for who, of in scores.items()]
    return [_sentence(f"left out, because a check failed: {'; '.join(told)}")]


def _how_sure(results: Results, checks: pd.DataFrame, table: Overview | None) -> list[str]:
    if not results.splits:
        return ["There is no number to be sure of."]
    data = results.manifest["data"]["splits"].get(results.splits[0])
    seeds = plural(len(results.seeds), "seed") + ("" if len(results.seeds) > 1 else " (chance in training is not known)")
    of_whom = plural(data["patients"], whose(results.manifest["data"])) if data else ""
    rests = f"{plural(data['images'], 'test image')} of {of_whom}" if data else "the test images"
    return [
        f"Numbers rest on {rests} and {seeds}; brackets are 95 % intervals.",
        _sentence("; ".join(filter(None, [_checked(results, checks), _differ(results, table)]))),
        *shortcuts(results),
    ]


def _checked(results: Results, checks: pd.DataFrame) -> str:
    """How many checks of the attacks found nothing."""
    if not results.manifest["attacks"]:
        return ""
    verdicts = list(checks.loc[checks["kind"] == "validity", "verdict"]) if len(checks) else []
    if not verdicts:
        return "no check of the attacks was run"
    counts = {verdict: verdicts.count(verdict) for verdict in CHECKED}
    more = [f"{counts[verdict]} {said}" for verdict, said in CHECKED.items() if verdict != "PASS" and counts[verdict]]
    return f"{counts['PASS']} of {len(verdicts)} checks of the attacks passed{''.join(f', {said}' for said in more)}"


def _differ(results: Results, table: Overview | None) -> str:
    """What comparisons with the reference came to, of the numbers in the overview."""
    if len(results.trainers) == 1:
        return ""
    marks = table.findings if table else []
    if table and not marks and any(marked.compared for line in table.lines for marked in line.cells):
        return f"no difference from “{table.reference}” counts, because a check failed on the numbers"
    if not table or not marks:
        return "no difference between trainers was tested"
    shown, seeds, none = (sum(mark in of for mark in marks) for of in (("▲", "▼"), ("◇",), ("",)))
    parts = [f"{shown} shown (p < 0.05 after Holm)", f"{none} not shown", f"{seeds} with seeds that disagree" if seeds else ""]
    return f"of {plural(len(marks), 'difference')} from “{table.reference}” below, {', '.join(filter(None, parts))}"


def _named(found: list[Candidate]) -> list[Candidate]:
    """Networks as these sentences name them: `“pgd”`, or `“pgd” (resnet18)` among several models."""
    return [replace(each, who=f"“{each.trainer}”" + (f" ({each.at[0]})" if each.who != each.trainer else "")) for each in found]


def _score(metric: str) -> str:
    return "AUROC" if metric == "auroc" else metric.replace("_", " ")


def _number(score: Score) -> str:
    return with_interval(score) + (" †" if score.doubts else "")


def _value(candidate: Candidate) -> float:
    return candidate.score.value


def _joined(contests: Sequence[Contest]) -> list[str]:
    return [_sentence("; ".join(contest.told() for contest in contests))]


def _sentence(text: str) -> str:
    """Text that begins with a capital and ends with a stop; nothing stays nothing."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""
