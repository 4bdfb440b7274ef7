"""Robust accuracy by threat: what the attacker wants and may change, what is left at each radius, and who broke what."""

from __future__ import annotations

from cxr_eval.report.results import WORST, Results
from cxr_eval.report.tables import Layout, Table, Where, fill, trainers_of

NORMS = {"linf": "L-inf", "l2": "L2"}
BROKEN_BY = "broken_by["


def _parts(threat: str) -> tuple[str, str]:
    """Norm and goal of a worst case by its name: `worst(l2 hide Mass)`."""
    inner = threat.removeprefix(WORST).removeprefix("(").removesuffix(")")
    norm, _, goal = inner.partition(" ") if inner.startswith("l2") and inner[2:3] in ("", " ") else ("linf", "", inner)
    return norm, goal


def norm_of(threat: str) -> str:
    """`linf` or `l2`."""
    return _parts(threat)[0]


def said_threat(threat: str) -> str:
    """What the attacker wants, and within which norm: `any wrong answer, L-inf`, `hide Mass, L2`."""
    norm, goal = _parts(threat)
    return f"{goal or 'any wrong answer'}, {NORMS[norm]}"


def worst_title(threat: str) -> str:
    """What tables call a worst case."""
    return "Worst case over all attacks" + ("" if threat == WORST else f": {said_threat(threat)}")


def said_condition(results: Results, condition: str) -> str:
    """A state of the images as a person says it: `clean images`, `worst case, radius 0.02`, `blur, severity 3`."""
    name, _, amount = condition.rpartition(":")
    if condition == "clean":
        return "clean images"
    if name == WORST:
        return f"worst case, radius {amount}"
    if name.startswith(f"{WORST}("):
        return f"worst case ({said_threat(name)}), radius {amount}"
    if name in results.labels("attacks"):
        return f"{name}, radius {amount}"
    return f"{name}, severity {amount}" if name in results.labels("corruptions") else condition


def telling(results: Results, split: str) -> list[str]:
    """Conditions of every worst case at its middle and its largest radius."""
    return [
        condition for threat in results.threats(split) for _, _, condition in results.telling_radii(split, threat)
    ]  # fmt: skip


def robust_tables(results: Results, model: str, split: str, threat: str = WORST) -> list[Table]:
    """Robust accuracy of one model at every radius: in one worst case, then by each attack that counts for it."""
    attacks = results.of_threat(split, threat)
    at = {"model": model, "split": split, "metric": "robust_accuracy"}
    of = f"{model} on “{split}”" + ("" if threat == WORST else f": {said_threat(threat)}")
    tables = []
    for names, title in (([threat], "by radius"), ([name for name in attacks if name != threat], "by attack and radius")):
        steps = {(radius, written) for name in names for radius, written, _ in attacks.get(name, ())}
        columns: list[tuple[str, Where]] = [
            ("Radius 0 (no attack)" if radius == 0 else f"Radius {written}", {"amount": written})
            for radius, written in sorted(steps)
        ]
        groups = [
            (worst_title(threat) if name == threat else name, {**at, "attack": name}, trainers_of(results)) for name in names
        ]
        caption = f"Robust accuracy {title}: {of}"
        layout = Layout(caption, ("Attack", "Trainer"), columns, groups, lambda group, _: group, at=_at_radius)
        table = fill(results, layout)
        tables += [table] if table else []
    return tables


def _at_radius(where: dict[str, str]) -> dict[str, str]:
    return where | {"condition": f"{where.pop('attack')}:{where.pop('amount')}"}


def breakers_table(results: Results, model: str, split: str, threat: str = WORST) -> Table | None:
    """Which attack, or stage of an attack, was the first to break how many images in a worst case at each radius."""
    steps = [step for step in results.of_threat(split, threat).get(threat, []) if step[0] > 0]
    conditions = {condition for _, _, condition in steps}
    named = [place["metric"] for place in results.places_of(model, split) if place["condition"] in conditions]
    metrics = dict.fromkeys(metric for metric in named if metric.startswith(BROKEN_BY))
    labels = results.labels("attacks")
    order = {label: place for place, label in enumerate(labels)}
    said = {metric: _breaker(metric, labels) for metric in metrics}
    columns: list[tuple[str, Where]] = [
        (f"{attack}: {stage}" if stage else attack, {"metric": metric})
        for metric, (attack, stage) in sorted(said.items(), key=lambda item: order.get(item[1][0], len(order)))
    ]
    at = {"model": model, "split": split}
    groups = [(f"Radius {written}", {**at, "condition": condition}, trainers_of(results)) for _, written, condition in steps]
    note = (
        "Share of all images, each counted for the attack that broke it at the smallest radius, and of several for the one that"
        " came first; after a colon the stage of an attack that has several. Together with the images that stay right and"
        " those that are wrong without attack they make up 1."
    )
    caption = f"What broke how many images of “{split}” first: {model}, {said_threat(threat)}"
    return fill(results, Layout(caption, ("Worst case", "Trainer"), columns, groups, note=note))


def _breaker(metric: str, labels: tuple[str, ...]) -> tuple[str, str]:
    """Attack and stage of `broken_by[ATTACK STAGE]`; labels may have spaces, so the longest that fits is meant."""
    inner = metric.removeprefix(BROKEN_BY).removesuffix("]")
    fitting = [label for label in labels if inner == label or inner.startswith(f"{label} ")]
    attack = max(fitting, key=len, default=inner)
    return attack, inner.removeprefix(attack).strip()


def threat_model(results: Results) -> str:
    """What the attacker wants, knows and may do, in all worst cases of the run."""
    threats = list(dict.fromkeys(threat for split in results.splits for threat in results.threats(split)))
    goals = list(dict.fromkeys(_parts(threat)[1] for threat in threats))
    norms = {norm_of(threat) for threat in threats}
    wants = " or ".join("any wrong answer" if not goal else f"to {goal}" for goal in goals)
    rooms = {
        "linf": "change every pixel by at most the radius (L-inf norm, pixel units of [0, 1])",
        "l2": "make a change whose Euclidean length over all pixels and channels is at most the radius (L2 norm)",
    }
    room = ", or ".join(said for norm, said in rooms.items() if norm in norms)
    return (
        f"The attacker wants {wants}, knows the network (attacks that use its gradient) and may {room}. Attacked images are"
        " clipped to that ball and to [0, 1]; resizing comes before the attack, normalisation is part of the network. Success"
        " is judged against the label."
    )
