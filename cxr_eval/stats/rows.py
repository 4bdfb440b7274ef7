"""Rows of one cell from its per-image tables: every reported number of one cell is computed here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_eval.stats.anatomy_rows import AnatomyRows
from cxr_eval.stats.attack_rows import AttackRows
from cxr_eval.stats.clinical_rows import ClinicalRows
from cxr_eval.stats.explanation_rows import ExplanationRows


@dataclass(frozen=True)
class Scorer(AttackRows, AnatomyRows, ExplanationRows, ClinicalRows):
    """Turns per-image tables of one cell (model x trainer x seed) into rows, whatever was measured of it."""
