"""Which attacks build on which, and on whose network their images are made: the order of attacks on one network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cxr_eval.complaints import Complaint, dotted
from cxr_eval.errors import nearest
from cxr_eval.marked_yaml import Key
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol import AttackUse

SHARED = ("norm", "goal", "images")
"""Settings that two attacks of one cascade must have in common."""


@dataclass(frozen=True)
class AttackNeeds:
    """What one attack builds on; None for what it does not."""

    after: str | None = None
    """Label of the attack that comes before it: what that broke is not attacked again."""
    trainer: str | None = None
    """Label of the trainer on whose network the images are made; the network attacked makes them if there is none."""
    model: str | None = None
    """Label of that network's model; that of the network attacked if there is none."""


def attack_needs(
    uses: Sequence[AttackUse],
    attacks: Sequence[tuple[Key, PlannedPlugin]],
    fits: Mapping[str, Collection[str]],
    trainers: Sequence[str],
    models: Sequence[str],
    found: list[Complaint],
) -> dict[str, AttackNeeds]:
    """What each attack builds on, by its label, and complaints about what it cannot. trainers, models: their labels."""
    planned = {attack.label: attack for _, attack in attacks}
    needs: dict[str, AttackNeeds] = {}
    for at, attack in attacks:
        use = uses[int(at[1])]
        source = use.transfer_from
        trainer, model = (source.trainer, source.model) if source else (None, None)
        needs[attack.label] = AttackNeeds(use.after, trainer, model)
        if attack.settings["norm"] not in attack.cls.norms:
            able = " or ".join(attack.cls.norms)
            place = (*at, "norm")
            text = f"{attack.name} keeps to {able} radii, got {attack.settings['norm']}; use another attack for this norm"
            found.append((place, f"{dotted(place)}: {text}"))
        for field, label, known, what in (
            (("after",), use.after, tuple(planned), "attack"),
            (("transfer_from",), trainer, trainers, "trainer"),
            (("transfer_from", "model"), model, models, "model"),
        ):
            if label is not None and label not in known:
                place = (*at, *field)
                hint = nearest(label, known) or f"; it has {', '.join(known)}"
                found.append((place, f"{dotted(place)}: no {what} of this protocol is called '{label}'{hint}"))
        if trainer is not None and trainer in fits:
            found += _transfer((*at, "transfer_from"), attack, trainer, model, fits, models)
    for at, attack in attacks:
        after = needs[attack.label].after
        if after not in planned:
            continue
        if circle := _circle(attack.label, needs):
            text = f"attacks that wait for each other: {' -> '.join(circle)}; let one of them come first"
            found.append((at, f"{dotted(at)}: {text}"))
            break
        found += _unlike((*at, "after"), attack, planned[after])
    return needs


def _transfer(
    at: Key,
    attack: PlannedPlugin,
    trainer: str,
    model: str | None,
    fits: Mapping[str, Collection[str]],
    models: Sequence[str],
) -> list[Complaint]:
    """What keeps an attack's images from being made on another network."""
    wanted = [model] if model in models else [] if model else list(models)
    lacking = [name for name in wanted if name not in fits[trainer]]
    if not attack.cls.transfers:
        text = f"{attack.name} stops where the other network is wrong, and its images hardly transfer; use pgd"
    elif lacking:
        text = f"{trainer} does not fit {lacking[0]}; name a model that it fits: {{trainer: {trainer}, model: MODEL}}"
    elif list(fits) == [trainer] and (model is None or list(models) == [model]):
        text = "every network would be attacked from itself; take it out, or name another trainer or model"
    else:
        return []
    return [(at, f"{dotted(at)}: {text}")]


def in_order(attacks: Sequence[PlannedPlugin], needs: Mapping[str, AttackNeeds]) -> list[PlannedPlugin]:
    """Attacks with each one behind the one that it comes after, else as they were."""
    planned, ordered = {attack.label: attack for attack in attacks}, dict[str, PlannedPlugin]()

    def place(attack: PlannedPlugin) -> None:
        after = needs[attack.label].after
        if after is not None:
            place(planned[after])
        ordered.setdefault(attack.label, attack)

    for attack in attacks:
        place(attack)
    return list(ordered.values())


def _unlike(at: Key, attack: PlannedPlugin, before: PlannedPlugin) -> list[Complaint]:
    """What keeps two attacks from being one cascade."""
    for each in (attack, before):
        if not each.settings["skip_broken"]:
            return [(at, f"{dotted(at)}: {each.label}: skip_broken: false attacks every image; take it or `after` out")]
    for name in SHARED:
        if attack.settings[name] != before.settings[name]:
            differing = " and ".join(str(each.settings[name]) for each in (attack, before))
            return [(at, f"{dotted(at)}: {attack.label} and {before.label} must have the same '{name}', got {differing}")]
    if missing := [split for split in attack.settings["splits"] if split not in before.settings["splits"]]:
        return [(at, f"{dotted(at)}: {before.label} is not run on '{missing[0]}'; add it to its splits")]
    return []


def _circle(label: str, needs: Mapping[str, AttackNeeds]) -> list[str]:
    """The way from an attack back to itself; empty if there is none."""
    way, at = [label], needs[label].after
    while at is not None and at in needs and at not in way:
        way.append(at)
        at = needs[at].after
    return [*way, label] if at == label else []
