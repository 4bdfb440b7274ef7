"""Validity checks that ask the network alone: its gradients, its outputs, what it does to its input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.checks_subject import FEWEST, Check, Subject, Verdict, beyond_chance
from cxr_eval.attacks.doubts import BLIND
from cxr_eval.attacks.gradient import right
from cxr_eval.attacks.seeds import uniform_noise

PASSES = 4
"""Times that the same images are shown; a prediction that noise changes one time in three shows with probability 0.8."""

RANDOM = 1e-4
"""Change of the logits between two passes, as a share of their length, below which it is the order of sums (AutoAttack's)."""

VANISHED = 2.0**-24
"""Ratio of the loss gradient's length to the margin gradient's below which float32 has rounded the label's probability to 1,
so that the label's own logit is missing from the loss gradient."""

COMPANY = 1e-2
"""The same where the batch is another one: GPUs then sum in another way, with products of ten bits (1e-3)."""

IN_UNIT = 1e-5
"""How far outputs may lie outside [0, 1], and their sum from 1, and still be probabilities (AutoAttack's)."""

TINY = (1e-5, 1e-4, 1e-3, 1e-2)
"""Changes of all pixels tried for an answer that does not react; the smallest is 168 spacings of float32 near 1."""

STEPPED = 0.5
"""Share of the images whose outputs stay bit for bit the same under a change from which on the outputs are stepped."""

GAIN = 0.2
"""Balanced accuracy that images prepared in another way must gain before preparation is said to be missing."""

SCALES = {
    "scaled to [0, 255]": (0.0, 1 / 255),
    "scaled to [-1, 1]": (0.5, 0.5),
    "scaled to [-1024, 1024]": (0.5, 1 / 2048),
    "normalised as ImageNet is": (0.449, 0.226),
}
"""Preparations that networks are often given outside, as (shift, spread): (x - shift) / spread."""


def zero_gradients(subject: Subject) -> Check:
    """Whether attacks are told where to go at all. Source: Athalye et al., arXiv:1802.00420, section 3.1."""
    title = "Gradients exist"
    if subject.n == 0:
        return none_right("zero_gradients", title)
    blind = int(np.sum(~(subject.gradient_lengths("margin") > 0)))
    verdict: Verdict = "FAIL" if blind >= BLIND * subject.n else "WARN" if blind else "PASS"
    numbers = {"blind": float(blind), "images": float(subject.n), "share": blind / subject.n}
    found = f"{blind} of {subject.n} images have no gradient from the network's answer to the pixels"
    meant = {
        "PASS": "Every image has a gradient from the network's answer to the pixels, so attacks are told where to go.",
        "WARN": f"{found}: on these, attacks that follow gradients cannot work.",
        "FAIL": f"{found}, so attacks that follow gradients are blind and the robust accuracy they give is too high.",
    }
    return Check("zero_gradients", title, verdict, numbers, meant[verdict])


def vanishing_gradients(subject: Subject) -> Check:
    """Whether the loss is lost to rounding where the logits are not. Source: Croce and Hein, arXiv:2003.01690, section 4."""
    title = "The loss keeps its gradient"
    if subject.n == 0:
        return none_right("vanishing_gradients", title)
    loss, margin = subject.gradient_lengths("ce"), subject.gradient_lengths("margin")
    fine = margin > 0
    if not fine.any():
        told = "No image has a gradient of its logits either, so there is none that the loss could lose."
        return Check("vanishing_gradients", title, "SKIP", {"images": 0.0}, told)
    gone = int(np.sum(fine & ~(loss > 0)))
    rounded = int(np.sum(fine & ~(loss > VANISHED * np.where(fine, margin, 0.0))))
    numbers = {
        "gone": float(gone),
        "rounded": float(rounded),
        "images": float(fine.sum()),
        "share": rounded / float(fine.sum()),
    }
    if gone >= BLIND * subject.n:
        told = (
            f"{gone} of {subject.n} images have no loss gradient although their logits have one: the network is so sure that"
            " the loss is rounded to nothing, so only attacks on the logits can work."
        )
        return Check("vanishing_gradients", title, "FAIL", numbers, told)
    if rounded >= BLIND * subject.n:
        only = int((subject.broken & np.isinf(subject.search.first_step)).sum())
        numbers["only_margin"] = float(only)
        told = (
            f"On {rounded} of {subject.n} images the network is so sure that rounding takes the label out of the loss gradient,"
            f" and attacks on the logits break {only} images that attacks on the loss leave"
        )
        # many honest networks are so sure; it matters where attacks on the loss are misled by it
        if beyond_chance(only, 0, subject.n):
            told += ": robust accuracies from attacks on the loss alone are too high."
            return Check("vanishing_gradients", title, "WARN", numbers, told)
        return Check("vanishing_gradients", title, "PASS", numbers, f"{told}, which is no more than chance.")
    told = f"The loss gradient survives rounding on {int(fine.sum()) - rounded} of {int(fine.sum())} images."
    return Check("vanishing_gradients", title, "PASS", numbers, told)


def softmax_outputs(subject: Subject) -> Check:
    """Whether probabilities come where logits are expected. Source: AutoAttack's flags."""
    logits, y, task = subject.logits.double(), subject.y, subject.classifier.task
    title = "Outputs are logits"
    numbers = {"lowest": float(logits.min()), "highest": float(logits.max())}
    one_logit = logits.shape[1] == 2 and bool((logits[:, 0] == -logits[:, 1]).all())
    values = logits[:, 1:] - logits[:, :1] if task == "multiclass" and one_logit else logits
    within = bool(((values >= -IN_UNIT) & (values <= 1 + IN_UNIT)).all())
    if task == "multiclass" and not one_logit:
        if within and bool(((values.sum(dim=1) - 1).abs() <= IN_UNIT).all()):
            told = (
                "The outputs are probabilities and not logits: their loss is flat, so attacks on it are weaker than they look."
            )
            return Check("softmax_outputs", title, "WARN", numbers, f"{told} Take the network without its softmax.")
    elif within and len(y) >= FEWEST and bool((y == 0).any()):
        # with an absent finding or a first class among the labels, honest logits lie below 0 somewhere
        told = (
            "All outputs lie between 0 and 1, as sigmoids do; read as logits they all say yes, so no accuracy here means"
            " anything. Take the network without its sigmoid."
        )
        return Check("softmax_outputs", title, "FAIL", numbers, told)
    told = f"The outputs run from {numbers['lowest']:.3g} to {numbers['highest']:.3g} and are not probabilities."
    return Check("softmax_outputs", title, "PASS", numbers, told)


def random_predictions(subject: Subject) -> Check:
    """Whether the same image, alone or in other company, gives the same answer. Source: AutoAttack's flags."""
    title = "The same image gives the same answer"
    first, classifier = subject.logits, subject.classifier
    again = [classifier.logits(subject.x, subject.batch_size) for _ in range(PASSES - 2)]
    smaller = max(1, min(subject.batch_size, len(first)) // 2)
    company = classifier.logits(subject.x.flip(0), smaller).flip(0)
    length = torch.linalg.vector_norm(first, dim=1) + 1e-10
    changes = [float((torch.linalg.vector_norm(one - first, dim=1) / length).max()) for one in (*again, company)]
    repeated, moved = max(changes[:-1]), changes[-1]
    flips = torch.zeros(len(first), dtype=torch.bool)
    for one in (*again, company):
        flips |= right(one, subject.y, classifier.task) != subject.right
    count = int(flips.sum())
    numbers = {"repeated": repeated, "company": moved, "flips": float(count), "images": float(len(first))}
    if repeated <= RANDOM and moved <= COMPANY:
        told = f"Shown {PASSES} times, once among fewer others, every image gets the same answer."
        return Check("random_predictions", title, "PASS", numbers, told)
    why = "answers at random" if repeated > RANDOM else "lets other images of a batch change its answer to an image"
    told = (
        f"The network {why}: {count} of {len(first)} images are right one time and wrong another. One attack then sees another"
        " network than the next; attack the mean of many passes instead."
    )
    return Check("random_predictions", title, "FAIL" if count else "WARN", numbers, told)


def quantised_input(subject: Subject) -> Check:
    """Whether small changes are rounded away. Source: AutoAttack's flags (input quantisation); Athalye et al., 2018."""
    title = "The answer reacts to small changes"
    if subject.n == 0:
        return none_right("quantised_input", title)
    logits = subject.logits[subject.right]
    ignored, share = 0.0, 0.0
    for place, size in enumerate(TINY):
        moved = (subject.clean + size * uniform_noise(subject.clean, subject.seed, place)).clamp(0, 1)
        same = (subject.classifier.logits(moved, subject.batch_size) == logits).all(dim=1).double().mean()
        if float(same) < STEPPED:
            break
        ignored, share = size, float(same)
    numbers = {"ignored": ignored, "share": share, "images": float(subject.n)}
    if ignored == 0:
        told = (
            "A change of all pixels by a hundred-thousandth of the grey range changes the answer, so nothing is rounded away."
        )
        return Check("quantised_input", title, "PASS", numbers, told)
    blind = float(np.mean(~(subject.gradient_lengths("margin") > 0)))
    told = (
        f"On {share:.0%} of {subject.n} images the answer stays exactly the same when all pixels change by up to {ignored:g} of"
        " the grey range: the network rounds its input or its answer"
    )
    if blind >= BLIND:
        return Check("quantised_input", title, "FAIL", numbers, f"{told}, and gradients are lost in the rounding.")
    return Check("quantised_input", title, "WARN", numbers, f"{told}; its gradients pass the rounding by and may mislead.")


def preprocessing_outside(subject: Subject) -> Check:
    """Whether the network waits for images that were prepared in another way; images in [0, 1] are then strange to it."""
    title = "Images are prepared as the network expects"
    if softmax_outputs(subject).verdict == "FAIL":
        told = "The outputs are no logits, so accuracies of images prepared in another way cannot be compared yet."
        return Check("preprocessing_outside", title, "SKIP", {}, told)
    y, task = subject.y, subject.classifier.task
    here = _balanced(subject.logits, y, task)
    best, gained, how = here, subject.right, ""
    for name, (shift, spread) in SCALES.items():
        logits = subject.classifier.logits((subject.x - shift) / spread, subject.batch_size)
        score = _balanced(logits, y, task)
        if score > best:
            best, gained, how = score, right(logits, y, task), name
    numbers = {"balanced_accuracy": here, "best": best}
    only = int((gained & ~subject.right).sum())
    lost = int((subject.right & ~gained).sum())
    if best - here >= GAIN and beyond_chance(only, lost, len(y)):
        told = (
            f"The network gets {here:.0%} right as they are (mean over classes) and {best:.0%} when they are {how}:"
            " that preparation must become its first layer, or every number here is about images that it was not made for."
        )
        return Check("preprocessing_outside", title, "FAIL", numbers, told)
    told = f"Images in [0, 1] are right in {here:.0%} (mean over classes); no other scale tried is clearly better."
    return Check("preprocessing_outside", title, "PASS", numbers, told)


def too_few_classes(subject: Subject) -> Check:
    """Which losses are not defined for so few classes, and what was raised instead. Source: Croce and Hein, 2020, section 4."""
    classes, task = subject.logits.shape[1], subject.classifier.task
    title = "Losses are defined for so many classes"
    labels = subject.y if task == "multiclass" else subject.y[~torch.isnan(subject.y)]
    seen = len(torch.unique(labels))
    numbers = {"classes": float(classes), "labels": float(seen)}
    if seen < 2:
        told = "All labels are the same: attacks are then judged on half of what the network decides; add images of the others."
        return Check("too_few_classes", title, "WARN", numbers, told)
    if task == "multilabel":
        told = f"For {classes} findings an image the ratio loss (DLR) is not defined; the smallest margin was lowered instead."
    elif classes < 4:
        which = "the ratio loss (DLR)" if classes == 2 else "the targeted ratio loss (targeted DLR)"
        told = f"For {classes} classes {which} is not defined; the logit margin was lowered instead, which is."
    else:
        told = f"Every usual loss is defined for {classes} classes; cross-entropy and the logit margin were used."
    return Check("too_few_classes", title, "PASS", numbers, told)


def none_right(code: str, title: str) -> Check:
    """A check that has nothing to look at."""
    told = "The network gets no image right without attack, so there is nothing to attack; look at its clean accuracy first."
    return Check(code, title, "SKIP", {"images": 0.0}, told)


def _balanced(logits: torch.Tensor, y: torch.Tensor, task: cxr.Task) -> float:
    """Mean recall over the classes that occur; for findings the mean over present and absent of those with both."""
    if task == "multiclass":
        correct = right(logits, y, task).double()
        return float(torch.stack([correct[y == label].mean() for label in torch.unique(y)]).mean())
    agrees = ((logits > 0) == (y > 0.5)).double().numpy()
    recalls: list[npt.NDArray[np.float64]] = []
    for k in range(y.shape[1]):
        sides = [agrees[(y[:, k] == value).numpy(), k] for value in (0, 1)]
        recalls += [side.mean() for side in sides if all(map(len, sides))]
    return float(np.mean(recalls)) if recalls else float("nan")
