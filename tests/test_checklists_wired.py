"""What the authors state about a run, from the protocol to the report; cards beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_eval.errors import ProtocolError
from cxr_eval.protocol_file import load
from cxr_eval.report.render import render
from tests.evidence import TWO

BASE = "name: x\ndata: {train: {reader: phantom}}\nmodels: [small_cnn]\ntrainers: [standard]\n"


def test_cards_are_written_beside_the_report_and_the_page_has_the_checklists(tmp_path: Path) -> None:
    html = render(TWO.write(tmp_path), ("html",))["html"].read_text("utf-8")
    assert '<h2 id="checklists">' in html
    assert 'href="#checklists">Checklists and cards' in html
    assert (tmp_path / "model_card.md").read_text("utf-8").startswith("# Model card: net\n")
    assert (tmp_path / "data_card.md").read_text("utf-8").startswith("# Data card\n")


def test_statements_of_the_authors_are_read_from_the_protocol(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(BASE + "report: {about: {funding: Nobody paid.}}\n", encoding="utf-8")
    assert load(path).protocol.report.about.funding == "Nobody paid."


def test_an_unknown_statement_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(BASE + "report: {about: {intended_us: Research.}}\n", encoding="utf-8")
    with pytest.raises(
        ProtocolError, match=r"p\.yaml:5: report\.about has no setting 'intended_us'; did you mean 'intended_use'\?"
    ):
        load(path)
