"""Validity checks that set one search against another on the same images: the stronger one must not lose."""

from __future__ import annotations

import math

import numpy as np

from cxr_eval.attacks.checks_outputs import none_right
from cxr_eval.attacks.checks_subject import FEWEST, STEPS, Check, Subject, Verdict, beyond_chance
from cxr_eval.attacks.doubts import ENDS_NEAR_ZERO
from cxr_eval.attacks.gradient import PGD
from cxr_eval.attacks.seeds import uniform_start
from cxr_eval.attacks.square import Square
from cxr_eval.types import format_eps

HALF = STEPS // 2
"""Steps of the short search; its first steps are those of the long one."""

LARGE = 0.5
"""An L-inf radius in which every image can become the same middle grey; in L2 it is the length of that change at most."""

DRAWS = 20
"""Random points of the ball tried on each image."""

NOISY = 0.1
"""Share of the images right without attack that random noise may break before the network is called sensitive to noise."""

AS_STRONG = 0.8
"""Share of what the gradient search breaks that noise must break before the search is called no better than noise."""

PARTS = (0.25, 0.5, 0.75)
"""Parts of the single step at which images are looked at again."""

OVERSTEPPED = 0.1
"""Share of the images that break on the way of a single step and not at its end from which on that step is in doubt."""

TRANSFER_STEPS = 20
"""Steps along the other network's gradient; they go on beyond its border, so that the images carry over."""


def single_step_beats_many(subject: Subject) -> Check:
    """Whether one long step breaks what many short ones do not. Source: Carlini et al., 2019; Athalye et al., 2018."""
    title = "Many steps beat one"
    if subject.n < FEWEST:
        return _too_few("single_step_beats_many", title, subject)
    one, many = subject.stepped(1.0), np.isfinite(subject.search.first_step)
    only_one, only_many = int((one & ~many).sum()), int((many & ~one).sum())
    numbers = {"only_one": float(only_one), "only_many": float(only_many), "images": float(subject.n)}
    if beyond_chance(only_one, only_many, subject.n):
        told = (
            f"One step breaks {only_one} images that {STEPS} steps leave, and only {only_many} the other way: the network"
            " misleads gradients, and the robust accuracy that they give is too high."
        )
        return Check("single_step_beats_many", title, "FAIL", numbers, told)
    told = f"{STEPS} steps break {only_many} images that one step leaves, and one step {only_one} the other way."
    return Check("single_step_beats_many", title, "PASS", numbers, told)


def single_step_only(subject: Subject) -> Check:
    """Whether the network withstands one full step by being strange on the way. Source: Kim et al., arXiv:2010.01799."""
    title = "A single step is met all along its way"
    if subject.n < FEWEST:
        return _too_few("single_step_only", title, subject)
    end = subject.stepped(1.0)
    way = np.logical_or.reduce([subject.stepped(part) for part in PARTS])
    only = int((way & ~end).sum())
    numbers = {"on_the_way": float(only), "at_the_end": float(end.sum()), "images": float(subject.n), "share": only / subject.n}
    if only >= FEWEST and only >= OVERSTEPPED * subject.n:
        told = (
            f"{only} of {subject.n} images withstand one full step and break on its way: the step goes too far for them, by"
            " itself or because the network has learned to meet it, so a single step makes robustness look too high."
        )
        return Check("single_step_only", title, "WARN", numbers, told)
    told = f"{only} of {subject.n} images break on the way of a single step and not at its end."
    return Check("single_step_only", title, "PASS", numbers, told)


def black_box_beats_white_box(subject: Subject) -> Check:
    """Whether blind search finds what gradients do not. Source: Carlini et al., 2019, section 4.3; AutoAttack's flags."""
    code, title = "black_box_beats_white_box", "Gradients find what blind search finds"
    if subject.n < FEWEST:
        return _too_few(code, title, subject)
    attack = Square(eps=[subject.eps], norm=subject.norm, queries=subject.queries)
    found = int(subject.broken_by(attack, ~subject.broken, subject.eps).sum())
    return _missed(code, title, found, subject, f"A search with {subject.queries} random tries and no gradient")


def transfer_beats_white_box(subject: Subject) -> Check:
    """Whether images made on another network do more. Source: Carlini et al., 2019, section 4.3."""
    code, title = "transfer_beats_white_box", "The network's own gradients beat another's"
    if subject.surrogate is None:
        told = "No other network was given to make images on, so transfer was not tried; give one as surrogate."
        return Check(code, title, "SKIP", {}, told)
    if subject.n < FEWEST:
        return _too_few(code, title, subject)
    attack = PGD(eps=[subject.eps], norm=subject.norm, steps=TRANSFER_STEPS)
    found = int(subject.broken_by(attack, ~subject.broken, subject.eps, subject.surrogate).sum())
    return _missed(code, title, found, subject, "Attacking another network instead")


def more_iterations_help(subject: Subject) -> Check:
    """Whether the search had ended. Source: Carlini et al., 2019, section 4.3 (convergence)."""
    code, title = "more_iterations_help", "The search has converged"
    if subject.n < FEWEST:
        return _too_few(code, title, subject)
    first = subject.search.first_step
    late = int(((first > HALF) & np.isfinite(first)).sum())
    curve = subject.search.after_steps()
    numbers = {"late": float(late), "images": float(subject.n), "short": float(curve[HALF]), "long": float(curve[STEPS])}
    told = f"{STEPS} steps break {late} more of {subject.n} images than {HALF} steps do"
    if beyond_chance(late, 0, subject.n):
        return Check(
            code, title, "WARN", numbers, f"{told}: a short search stops too early here; take more steps and restarts."
        )
    return Check(code, title, "PASS", numbers, f"{told}.")


def large_eps_not_zero(subject: Subject) -> Check:
    """Whether a radius that allows anything breaks everything. Source: Carlini et al., 2019, section 4.3."""
    code, title = "large_eps_not_zero", "A large radius breaks everything"
    if subject.n < FEWEST:
        return _too_few(code, title, subject)
    eps = large_radius(subject)
    broken = subject.with_margin(subject.search_at(eps, HALF), HALF, eps)
    left = int((~broken).sum())
    numbers = {"left": float(left), "images": float(subject.n), "share": left / subject.n, "eps": eps}
    where = f"at radius {format_eps(round(eps, 3))}, where every image can become plain grey"
    if left > ENDS_NEAR_ZERO * subject.n:
        told = (
            f"{left} of {subject.n} images withstand attacks {where}: the attacks do not work, so what they say means nothing."
        )
        return Check(code, title, "FAIL", numbers, told)
    return Check(code, title, "PASS", numbers, f"{left} of {subject.n} images withstand attacks {where}.")


def noise_as_strong(subject: Subject) -> Check:
    """Whether chance does as much as the attack. Source: Carlini et al., 2019, section 4.3 (random noise)."""
    code, title = "noise_as_strong", "Attacks beat random noise"
    if subject.n < FEWEST:
        return _too_few(code, title, subject)
    noisy = np.zeros(subject.n, dtype=bool)
    for draw in range(DRAWS):
        moved = uniform_start(subject.clean, subject.eps, subject.norm, subject.seed, draw)
        noisy |= subject.wrong(moved, np.arange(subject.n), subject.eps)
    by_noise, by_search, missed = int(noisy.sum()), int(subject.broken.sum()), int((noisy & ~subject.broken).sum())
    numbers = {
        "noise": float(by_noise),
        "search": float(by_search),
        "missed": float(missed),
        "images": float(subject.n),
    }
    said = f"Random noise breaks {by_noise} of {subject.n} images and the search along gradients {by_search}"
    if beyond_chance(missed, 0, subject.n):
        told = f"{said}, but {missed} of those that noise breaks are left by the search: it does not work on this network."
        return Check(code, title, "FAIL", numbers, told)
    if by_search < subject.n / 2 and by_noise >= FEWEST and by_noise >= AS_STRONG * by_search:
        return Check(code, title, "WARN", numbers, f"{said}: the search does no better than chance.")
    if by_noise >= NOISY * subject.n and by_noise >= FEWEST:
        told = f"{said}: the network gives way to noise alone, which needs no attacker."
        return Check(code, title, "WARN", numbers, told)
    return Check(code, title, "PASS", numbers, f"{said}.")


def curve_not_monotone(subject: Subject) -> Check:
    """Whether more room makes the search worse. Source: Carlini et al., 2019, section 4.3."""
    code, title = "curve_not_monotone", "More room never helps the network"
    if subject.n < FEWEST:
        return _too_few(code, title, subject)
    most = 1.0 if subject.norm == "linf" else math.inf
    radii = (subject.eps / 2, subject.eps, min(2 * subject.eps, most))
    broken = [np.isfinite(subject.search_at(eps, HALF).first_step) for eps in (radii[0], radii[2])]
    broken.insert(1, subject.search.first_step <= HALF)
    numbers = {f"robust_{place}": float(1 - one.mean()) for place, one in zip(("half", "eps", "twice"), broken, strict=True)}
    for smaller, larger in ((0, 1), (1, 2), (0, 2)):
        only_small = int((broken[smaller] & ~broken[larger]).sum())
        only_large = int((broken[larger] & ~broken[smaller]).sum())
        if beyond_chance(only_small, only_large, subject.n):
            told = (
                f"At radius {format_eps(radii[smaller])} the search breaks {only_small} images that it leaves at"
                f" {format_eps(radii[larger])}, and only {only_large} the other way: it goes astray, since the larger ball"
                " holds the smaller one."
            )
            return Check(code, title, "FAIL", numbers, told)
    curve = ", ".join(f"{number:.0%} at {format_eps(eps)}" for number, eps in zip(numbers.values(), radii, strict=True))
    return Check(code, title, "PASS", numbers, f"Robust accuracy, each radius searched on its own: {curve}.")


def large_radius(subject: Subject) -> float:
    """The radius, in the subject's norm, within which every image can become middle grey; at least twice its own."""
    grey = LARGE * math.sqrt(subject.x[0].numel()) if subject.norm == "l2" else LARGE
    return min(1.0, max(grey, 2 * subject.eps)) if subject.norm == "linf" else max(grey, 2 * subject.eps)


def _missed(code: str, title: str, found: int, subject: Subject, what: str) -> Check:
    """A check that counts images which the white box leaves and something weaker breaks."""
    left = int((~subject.broken).sum())
    numbers = {"missed": float(found), "left": float(left), "images": float(subject.n), "share": found / subject.n}
    told = f"{what} breaks {found} of the {left} images that the search along gradients leaves"
    # no image can speak the other way: whoever knows the network can do whatever a blind attacker can
    verdict: Verdict = "FAIL" if beyond_chance(found, 0, subject.n) else "PASS"
    if verdict == "FAIL":
        told += ": the network hides its gradients, and the robust accuracy that they give is too high"
    return Check(code, title, verdict, numbers, told + ".")


def _too_few(code: str, title: str, subject: Subject) -> Check:
    if subject.n == 0:
        return none_right(code, title)
    are = "1 image is" if subject.n == 1 else f"{subject.n} images are"
    told = f"Only {are} right without attack, and a comparison needs {FEWEST}."
    return Check(code, title, "SKIP", {"images": float(subject.n)}, told)
