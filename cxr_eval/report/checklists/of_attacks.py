"""Items about attacks: how strong they were, what was checked about them, and what was not tried."""

from __future__ import annotations

from collections.abc import Sequence

from cxr_eval.report.checklists.answers import Answer, answered, listed, missing, partly
from cxr_eval.report.checklists.known import Known, Record, span
from cxr_eval.report.results import one_line
from cxr_eval.report.tables import spoken
from cxr_eval.report.threats import NORMS, norm_of
from cxr_eval.report.verdict import DECISION_ONLY, plural
from cxr_eval.types import format_eps

NONE = "No attack was run."
HARD_LABEL = ("HopSkipJump", "BoundaryAttack", "SignOPTAttack")
"""Attacks that see the answer alone, and no score."""
MANY_STEPS = ("pgd", "ifgsm", "apgd", "strong", "fmn", "standard")
SAID = {"PASS": "passed", "WARN": "doubtful", "FAIL": "failed", "SKIP": "not tried"}


def _counted(lines: Sequence[Record]) -> str:
    """`passed on 12 of 12`, `passed on 10 of 12, doubtful on 2`."""
    counts = {verdict: sum(line["verdict"] == verdict for line in lines) for verdict in SAID}
    told = [f"{SAID[verdict]} on {count}" for verdict, count in counts.items() if count]
    told[0] += f" of {len(lines)}"
    return ", ".join(told)


def checked(known: Known, codes: Sequence[str], lacks: str = "") -> Answer:
    """What checks of the attacks came to, network by network; answered if all of them passed and nothing else lacks."""
    if not known.attacked:
        return missing(NONE)
    lines = {code: [line for line in known.validity if line["check"] == code] for code in codes}
    lines = {code: found for code, found in lines.items() if found}
    if not lines:
        return missing("The checks of the attacks were not run.", "this check")
    told = [f"“{found[0]['title']}” {_counted(found)}" for found in lines.values()]
    said = f"{'; '.join(told)} (networks and sets)."
    every = [line for found in lines.values() for line in found]
    bad = next((line for verdict in ("FAIL", "WARN") for line in every if line["verdict"] == verdict), None)
    if all(line["verdict"] == "SKIP" for line in every):
        return missing(f"{said} {one_line(every[0]['sentence'])}", "this check")
    without = [lacks] if lacks else []
    if bad:
        said += f" Of {bad['model']}, {bad['trainer']}, seed {bad['seed']}: {one_line(bad['sentence'])}"
        without.insert(0, "a pass on all")
    elif any(line["verdict"] == "SKIP" for line in every):
        without.insert(0, "the check where it was not tried")
    return partly(said, listed(without), "validity") if without else answered(said, "validity")


def threat_model(known: Known) -> Answer:
    """What the attacker wants, knows and may do."""
    if not known.attacked:
        return missing(NONE, "what an attacker may want, know and do")
    return partly(
        "What the attacker wants, knows and may change is stated, with norm, clip range and what comes before the attack.",
        "why this attacker and these radii fit the use",
        "how",
    )


def strongest(known: Known) -> Answer:
    """How strong the attacks are."""
    if not known.attacked:
        return missing(NONE)
    names = {str(use["label"]): str(use["name"]) for use in known.manifest["attacks"]}
    many = [label for label, name in names.items() if name.removeprefix("art/").lower() in MANY_STEPS]
    steps = [f"{label} ({given['steps']} steps)" for label, given in known.settings("attacks") if given.get("steps")]
    said = f"Attacks: {listed([next((s for s in steps if s.startswith(f'{label} (')), label) for label in names])}."
    if not many and not steps:
        return partly(said, "any attack of many steps: what stands withstood single steps only", "robustness")
    if any(name == "strong" for name in names.values()):
        return partly(said, "attacks made for one particular trainer", "robustness")
    return partly(said, "a suite of parameter-free attacks, and attacks made for one particular trainer", "robustness")


def adaptive(known: Known) -> Answer:
    """Attacks made for a defence."""
    if not known.attacked:
        return missing(NONE)
    return missing(
        "Attacks follow the gradient of the whole network; none was made for one particular trainer.",
        "attacks that know how each defence works",
    )


def clean_accuracy(known: Known) -> Answer:
    """Scores without attack."""
    metric = known.headline
    scores = known.scores(metric, split="test")
    if not any(score.value == score.value for score in scores):
        return missing("No score of clean images is known.", "scores without attack")
    return answered(
        f"{spoken(metric)[:1].upper()}{spoken(metric)[1:]} on clean test images: {span(scores)}; networks answer every image.",
        "main-results",
    )


def curve(known: Known) -> Answer:
    """Success over the radius, up to all images."""
    results = known.results
    if not known.attacked:
        return missing(NONE)
    told, left = [], []
    for split in known.attacked:
        for threat in results.threats(split):
            steps = [step for step in results.of_threat(split, threat)[threat] if step[0] > 0]
            worst = known.scores("robust_accuracy", split=split, condition=steps[-1][2]) if steps else []
            if worst:
                told.append(f"“{split}” ({NORMS[norm_of(threat)]}): {len(steps)} {'radius' if len(steps) == 1 else 'radii'}")
                # one that is withheld is not known to be 0
                if any(not score.value <= 0 for score in worst):
                    left.append(f"{span(worst)} of “{split}” at {format_eps(steps[-1][0])}")
    if not told:
        return missing("No worst case was measured.")
    said = f"Robust accuracy over the radius: {listed(told)}."
    if left:
        return partly(said, f"radii at which every image breaks: still right {listed(left)}", "robustness")
    return answered(f"{said} At the largest no image is right.", "robustness")


def per_example(known: Known) -> Answer:
    """The worst of all attacks, image by image."""
    if not known.attacked:
        return missing(NONE)
    said = "One attack was run, so each image counts for itself. " if len(known.manifest["attacks"]) == 1 else ""
    return answered(
        f"{said}The worst case counts an image as robust only if it withstands all attacks run on it; it is not the best of"
        " averages.",
        "robustness",
    )


def described(known: Known) -> Answer:
    """Attacks with all their settings."""
    if not known.attacked:
        return missing(NONE)
    left = [label for label, given in known.settings("attacks") if "step" in given and given["step"] is None]
    said = "Every attack stands in a table with its settings and its source."
    if left:
        return partly(
            said, f"the step of {listed(left)}, which is left to the rule of the version of cxr-eval that is named", "how"
        )
    return answered(said, "how")


def diverse(known: Known) -> Answer:
    """Attacks that differ."""
    if not known.attacked:
        return missing(NONE)
    names = [str(use["name"]).removeprefix("art/") for use in known.manifest["attacks"]]
    blind = [name for name in names if name in DECISION_ONLY]
    norms = sorted({NORMS[norm_of(threat)] for split in known.attacked for threat in known.results.threats(split)})
    said = f"{plural(len(names), 'attack')} ({listed(names)}), {'norm' if len(norms) == 1 else 'norms'} {listed(norms)}."
    lacks = [*([] if blind else ["an attack that does without gradients"]), *([] if len(norms) > 1 else ["another norm"])]
    return partly(said, listed([*lacks, "attacks made for one particular trainer"]), "robustness")


def gradient_free(known: Known) -> Answer:
    """Attacks without gradients, and with the answer alone."""
    if not known.attacked:
        return missing(NONE)
    names = [str(use["name"]).removeprefix("art/") for use in known.manifest["attacks"]]
    blind, hard = ([name for name in names if name in among] for among in (DECISION_ONLY, HARD_LABEL))
    made = checked(known, ("black_box_beats_white_box",), "" if hard else "an attack that sees the answer alone")
    if not blind or made.state == "not provided":
        return (
            made if made.state != "not provided" or not blind else partly(f"Run: {listed(blind)}.", "the check", "robustness")
        )
    return Answer(made.state, f"Run: {listed(blind)}. {made.said}", made.anchor)


def transfer(known: Known) -> Answer:
    """Images made on another network."""
    return checked(known, ("transfer_beats_white_box",))


def converged(known: Known) -> Answer:
    """Whether a longer search would find more."""
    own = [
        f"{label} with {given['steps']}" for label, given in known.settings("attacks") if isinstance(given.get("steps"), int)
    ]
    about = f" ({listed(own)} steps)" if own else ""
    return checked(
        known, ("more_iterations_help",), f"the same of the attacks of the tables{about}: the check has its own search"
    )


def restarts(known: Known) -> Answer:
    """Whether more random starts would find more."""
    if not known.attacked:
        return missing(NONE)
    if not any(place["metric"].startswith("robust_after_restarts[") for place in known.results.places):
        return missing("The effect of restarts was not measured.", "whether more random starts find more")
    own = [f"{label}: {given['restarts']}" for label, given in known.settings("attacks") if given.get("restarts")]
    return partly(
        "Robust accuracy after each restart of the checks' search is drawn, where it could be measured.",
        f"the same of the attacks of the tables{f' (restarts of {listed(own)})' if own else ''}",
        "validity",
    )


def hyperparameters(known: Known) -> Answer:
    """Whether other settings of the attacks would find more."""
    made = converged(known)
    return Answer("partly" if made.state == "answered" else made.state, made.said, made.anchor)


def broader(known: Known) -> Answer:
    """Changes that no attacker makes."""
    names = list(dict.fromkeys(name for split in known.results.splits for name in known.results.corruptions(split)))
    if not names:
        return missing("No corruption was run, nor rotations or shifts.", "how the networks take noise, rotations and shifts")
    moved = [name for name in names if "rotat" in name or "shift" in name or "translat" in name]
    said = f"Corruptions: {listed(names)}, each by severity."
    return answered(said, "corruptions") if moved else partly(said, "rotations and shifts", "corruptions")


def targeted(known: Known) -> Answer:
    """What attacks aim at."""
    if not known.attacked:
        return missing(NONE)
    goals = sorted({str(given.get("goal", "any")) for _, given in known.settings("attacks")})
    if goals == ["any"]:
        return partly("All attacks want any wrong answer.", "attacks that want one particular answer", "how")
    told = ["any wrong answer" if goal == "any" else f"to {goal}" for goal in goals]
    if "any" not in goals:
        return partly(f"Attacks want {listed(told)}.", "attacks that want any wrong answer", "how")
    return answered(f"Attacks want {listed(told)}; each worst case is named by what it wants.", "how")


def ablation(known: Known) -> Answer:
    """Attacks on a network without the defence."""
    trainers = known.manifest["trainers"]
    plain = [str(use["label"]) for use in trainers if not use["adversarial"]]
    if not known.attacked:
        return missing(NONE)
    if not plain or len(plain) == len(trainers):
        return missing(
            "There is no network with a defence beside one without.", "attacks on the same network without its defence"
        )
    steps = known.results.telling_radii(known.attacked[0])
    found = [
        score
        for model in known.results.models
        for trainer in plain
        for _, _, condition in steps[-1:]
        if (
            score := known.results.score(
                model=model, trainer=trainer, split=known.attacked[0], metric="robust_accuracy", condition=condition
            )
        )
    ]
    if not found:
        return missing("Networks without a defence were not attacked.", "attacks on the same network without its defence")
    beside = f"{listed(plain)} is attacked as the others are: {span(found)} right at {format_eps(steps[-1][0])}."
    return partly(beside, "runs without single parts of each defence", "robustness")


def prior_work(known: Known) -> Answer:
    """Published numbers beside ours."""
    published = known.results.published
    attacked = [quote for quote in published.quotes if quote.place.get("condition", "clean") != "clean"]
    sources = list(dict.fromkeys(published.sources[quote.source].short for quote in attacked))
    if not sources:
        return missing(
            "No published number under attack stands beside those of this run.",
            "what earlier evaluations of these defences found",
        )
    return partly(
        f"Published numbers stand beside these: {one_line(listed(sources))}.",
        "why they differ, and attacks known to break them",
        "papers",
    )


def randomness(known: Known) -> Answer:
    """Attacks that average over a network's own chance."""
    if not known.attacked:
        return missing(NONE)
    lines = [line for line in known.validity if line["check"] == "random_predictions"]
    seen = f" “{lines[0]['title']}” {_counted(lines)} (networks and sets)." if lines else ""
    return missing(
        f"No attack averages over a network's own chance.{seen}",
        "such attacks where a network answers by chance",
    )


def smooth(known: Known) -> Answer:
    """Parts without a gradient."""
    return checked(
        known,
        ("zero_gradients", "vanishing_gradients", "quantised_input"),
        "attacks that replace parts without a gradient, should a network have them",
    )


RULES = (
    *(threat_model, strongest, adaptive, clean_accuracy, curve, per_example, described, diverse, gradient_free, transfer),
    *(converged, restarts, hyperparameters, broader, targeted, ablation, prior_work, randomness, smooth),
)
