"""Checklists item by item: what each asks stands in a data file, how the run answers follows from a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, get_args

from cxr_eval.report.checklists import of_attacks, of_data, of_explanations, of_results, of_training
from cxr_eval.report.checklists.answers import SIGNS, Answer, State, answered, missing, partly
from cxr_eval.report.checklists.known import Known

FILES = ("claim", "tripod_ai", "future_ai", "adversarial")
"""Data files of the checklists, in the order of the page."""
RULES: Mapping[str, Callable[[Known], Answer]] = {
    rule.__name__: rule for topic in (of_data, of_training, of_results, of_attacks, of_explanations) for rule in topic.RULES
}


@dataclass(frozen=True)
class Item:
    """One item of a checklist and how this report answers it.

    number: as the checklist prints it; empty where its items have none, or where no source for the number is sure.
    """

    number: str
    group: str
    asks: str
    answer: Answer


@dataclass(frozen=True)
class Checklist:
    """All items of one checklist, answered."""

    key: str
    title: str
    source: str
    note: str
    items: tuple[Item, ...]

    @property
    def numbered(self) -> bool:
        """True if any item has a number."""
        return any(item.number for item in self.items)

    @property
    def summary(self) -> str:
        """`answered 14, partly 3, not provided 9 (of 26)`."""
        counts = {state: sum(item.answer.state == state for item in self.items) for state in get_args(State)}
        return f"{', '.join(f'{state} {count}' for state, count in counts.items())} (of {len(self.items)})"

    @property
    def groups(self) -> list[tuple[str, list[Item]]]:
        """Items by the checklist's own headings, in order."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            found.setdefault(item.group, []).append(item)
        return list(found.items())


@cache
def content(key: str) -> dict[str, Any]:
    """A data file as it stands: title, source, note and groups of items."""
    import yaml

    read: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath(f"{key}.yaml").read_text(encoding="utf-8"))
    return read


def checklists(known: Known) -> list[Checklist]:
    """Every checklist, answered by what is known of the run."""
    return [_checklist(key, known) for key in FILES]


def _checklist(key: str, known: Known) -> Checklist:
    written = content(key)
    items = [
        Item(str(item.get("item", "")), group["name"], item["asks"], answer(item, known))
        for group in written["groups"]
        for item in group["items"]
    ]
    return Checklist(key, written["title"], written["source"], written["note"], tuple(items))


def answer(item: Mapping[str, Any], known: Known) -> Answer:
    """How the run answers an item: by a rule, by checks of the attacks, or by what the authors stated."""
    if "checks" in item:
        return of_attacks.checked(known, item["checks"], item.get("lacks", ""))
    if "rule" in item:
        return RULES[item["rule"]](known)
    stated = " ".join(filter(None, (known.stated(key) for key in item.get("stated", ()))))
    if not stated:
        return missing(item.get("said", ""), item["add"])
    return partly(stated, item["lacks"], "checklists") if "lacks" in item else answered(stated, "checklists")


def states() -> list[tuple[str, State]]:
    """Sign and word of every state, for the key above the tables."""
    return [(sign, state) for state, sign in SIGNS.items()]
