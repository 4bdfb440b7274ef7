"""What attacks do to the images of one cell: made on its own network or on another's, alone or one after another, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from cxr_eval.attacks.suite import attack_outcomes
from cxr_eval.cells import CellWork, identity
from cxr_eval.errors import PluginError, TrainingError
from cxr_eval.planned import PlannedPlugin
from cxr_eval.plugin import Attack
from cxr_eval.seeds import stream
from cxr_eval.store import write_parquet
from cxr_eval.tables import Part


def attacked(cell: CellWork, planned: PlannedPlugin, split: str) -> pd.DataFrame:
    """Outcomes of one attack on one split, one line an image and radius; none where its images are this network's own.

    Raises:
        PluginError: the attack fails, or the network that makes its images is not there.
    """
    images, source = cell.datasets.splits[split], _source(cell, planned)
    if source is cell:
        return pd.DataFrame()
    with cell.evaluation(_content(cell, planned, split), f"{split}, {planned.label}") as work:
        if not work.done:
            size = cell.plan.protocol.evaluate.batch_size
            earlier = _before(cell, planned)
            before = pd.DataFrame() if earlier is None else attacked(cell, earlier, split)
            if earlier is not None and _source(cell, earlier) is not source:
                before = before.drop(columns="zero_gradient", errors="ignore")  # that of another network
            attack: Attack = planned.cls(planned.params)
            table = attack_outcomes(
                cell.classifier,
                images,
                images.draw(planned.settings["images"]),
                attack,
                name=planned.label,
                batch_size=size,
                seed=stream(cell.cell.seed, "attack", planned.name),
                source=None if source is None else source.fitted(),
                crafting=cell.datasets.splits["val"] if attack.crafted else None,
                before=None if before.empty else before,
                progress=lambda done, total: cell.progress(f"{planned.label} on {split}", done, total),
            )
            write_parquet(work.begin() / "images.parquet", table)
    part = Part(work.folder.name, "images.parquet", planned.label)
    return cell.tables.add("attack", [part], split=split, condition=planned.label)


def outcomes(cell: CellWork, attacks: Sequence[PlannedPlugin], split: str) -> list[pd.DataFrame]:
    """The tables of several attacks, without those that attack no image."""
    return [table for attack in attacks if len(table := attacked(cell, attack, split))]


def _content(cell: CellWork, planned: PlannedPlugin, split: str) -> dict[str, Any]:
    """What the outcomes of one attack depend on beside this cell."""
    content = {
        "kind": "attack",
        "attack": identity(planned),
        "images": cell.datasets.hashes[split],
        # an attack that draws random numbers for a whole batch depends on its size
        "batch_size": cell.plan.protocol.evaluate.batch_size,
    }
    source, earlier = _source(cell, planned), _before(cell, planned)
    content |= {} if source is None else {"source": source.key}
    content |= {"crafted on": cell.datasets.hashes["val"]} if planned.cls.crafted else {}
    if earlier is None:
        return content
    # with its label, which stands in the table
    return content | {"after": _content(cell, earlier, split) | {"label": earlier.label}}


def _before(cell: CellWork, planned: PlannedPlugin) -> PlannedPlugin | None:
    """The attack that comes before one in a cascade."""
    after = cell.plan.attack_needs[planned.label].after
    return next((attack for attack in cell.plan.attacks if attack.label == after), None)


def _source(cell: CellWork, planned: PlannedPlugin) -> CellWork | None:
    """The cell on whose network an attack's images are made, trained if it is not yet; None for this one's own.

    Raises:
        PluginError: it is not part of the run, or its training failed.
    """
    needs = cell.plan.attack_needs[planned.label]
    if needs.trainer is None:
        return None
    name = (needs.model or cell.cell.model.label, needs.trainer, cell.cell.seed)
    source = cell.others.get(name)
    if source is None:
        raise PluginError(f"transfer_from: {needs.trainer} does not fit {name[0]}; name a model that it fits")
    if source is not cell:
        try:
            source.train_for_another()
        except TrainingError as error:
            raise PluginError(f"transfer_from: {error}") from error
    return source
