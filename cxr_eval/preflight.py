"""What only the images can show to be wrong with a protocol, found before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from cxr_eval.attacks.suite import aimed
from cxr_eval.cells import CellWork
from cxr_eval.data.datasets import Datasets
from cxr_eval.errors import PluginError, ProtocolError, nearest
from cxr_eval.explained_images import region_kinds
from cxr_eval.plan import Plan
from cxr_eval.stats.clinical import no_finding_class
from cxr_eval.validation import OF_FINDINGS


def check(planned: Plan, datasets: Datasets, works: Sequence[CellWork]) -> None:
    """Refuse what only the images can show to be wrong, before anything is trained.

    Raises:
        CxrEvalError: settings that several findings an image do not allow, a network that cannot take the images, a trainer, an
            attack, an explainer or a metric that cannot work on it.
    """
    train = planned.protocol.train
    if datasets.task == "multilabel":
        if train.select.metric not in OF_FINDINGS:
            raise ProtocolError(
                f"train.select.metric: {train.select.metric} is for one class an image; these images have several findings:"
                " use loss, weighted_loss, auroc or last"
            )
        if train.class_weights != "none" or train.label_smoothing:
            raise ProtocolError("train: class_weights and label_smoothing are for one class an image; take them out")
        if planned.protocol.explain is not None and planned.protocol.explain.target == "label":
            raise ProtocolError(
                "explain.target: 'label' is for one class an image; these have several findings: use finding or predicted"
            )
        chosen_by = [needs.models.by for needs in planned.needs.values() if needs.models and needs.models.best is not None]
        if wrong := [by for by in chosen_by if by != "auroc"]:
            raise ProtocolError(
                f"trainers: models.by: {wrong[0]} is for one class an image; these have several findings: use auroc"
            )
    elif train.finding_weights != "none" or train.finding_loss != "mean":
        raise ProtocolError("train: finding_weights and finding_loss are for several findings an image; take them out")
    try:
        no_finding_class(datasets.classes, planned.protocol.evaluate.no_finding)
    except ValueError as error:
        raise ProtocolError(f"evaluate.{error}") from error
    anatomy = planned.protocol.evaluate.anatomy
    there = sorted({kind for split in ("test", *planned.outside) for kind in datasets.splits[split].regions})
    for kind in (anatomy.regions or ()) if anatomy else ():
        if kind not in there:
            raise ProtocolError(
                f"evaluate.anatomy.regions: no image has a region of kind '{kind}'{nearest(kind, there)}; the images have:"
                f" {', '.join(there) or 'none'}"
            )
    for attack in (*planned.attacks, *(condition.attack for condition in planned.conditions)):
        if attack is not None:
            try:
                aimed(datasets.splits["test"], [], attack.settings["goal"])
            except PluginError as error:
                raise ProtocolError(f"attacks: {attack.label}: {error}") from error
    for model in planned.models:
        ours = {work.cell.trainer.label: work for work in works if work.cell.model.label == model.label}
        classifier = next(iter(ours.values())).untrained()
        for work in ours.values():
            work.trainer(classifier)
        for attack in (*planned.attacks, *(condition.attack for condition in planned.conditions)):
            if attack is not None:
                attack.cls(attack.params).check(classifier)
        x = datasets.splits["train"].take([0]).to(classifier.device)
        for explainer in planned.explainers:
            explainer.cls(explainer.params).check(classifier.model, x)
    if planned.protocol.explain is not None:
        kinds = region_kinds(datasets.splits[planned.protocol.explain.split], planned.protocol.explain)
        for metric in planned.explanation_metrics:
            metric.cls(metric.params).check(kinds)
