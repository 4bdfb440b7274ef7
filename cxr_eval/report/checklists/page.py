"""Checklists and cards as the report shows them, and the cards as files of their own beside it."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_eval.report.checklists.answers import State
from cxr_eval.report.checklists.cards import Card, data_card, model_cards
from cxr_eval.report.checklists.checklist import Checklist, checklists, states
from cxr_eval.report.checklists.known import known
from cxr_eval.report.environment import environment
from cxr_eval.report.results import Results
from cxr_eval.store import Run

MODEL_CARD, DATA_CARD = "model_card.md", "data_card.md"


@dataclass(frozen=True)
class Section:
    """What the templates show."""

    lists: list[Checklist]
    models: list[Card]
    data: Card
    states: list[tuple[str, State]]
    notice: str

    @property
    def cards(self) -> list[Card]:
        """Cards in the order of the page."""
        return [*self.models, self.data]

    @property
    def files(self) -> dict[str, bytes]:
        """The cards as Markdown, by the names that they have in the run folder."""
        template = environment("md").get_template("card.md.j2")
        written = {MODEL_CARD: self.models, DATA_CARD: [self.data]}
        return {
            name: (template.render(cards=cards, notice=self.notice).rstrip() + "\n").encode() for name, cards in written.items()
        }


def section(run: Run, results: Results, *, notice: str = "") -> Section:
    """Checklists and cards of a run. notice: a line above the cards' files, such as that the images are drawn."""
    found = known(run, results)
    return Section(checklists(found), model_cards(found), data_card(found), states(), notice)
