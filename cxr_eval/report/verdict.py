"""What a run may claim, in sentences made from its rows, and what it did not test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from cxr_eval.report.differences import said_p
from cxr_eval.report.results import NOT_DEFINED, WORST, Results, Score
from cxr_eval.report.tables import headline, localisation, spoken
from cxr_eval.report.threats import NORMS, norm_of, said_threat
from cxr_eval.report.words import Finding, finding, whose
from cxr_eval.types import CHANCE, format_eps

DECISION_ONLY = (
    "square",
    "strong",
    "SquareAttack",
    "HopSkipJump",
    "BoundaryAttack",
    "SignOPTAttack",
    "ZooAttack",
)
"""Attacks that see what the network answers and never its gradient, and those that have such a one among their stages."""

CONVERGENCE = "robust_after_steps["
"""Metric that runs have in which the attacks were checked."""
SUBGROUPS = {"sexes": "sex", "ages": "age", "views": "view", "sites": "site"}

WITHHELD = re.compile(r"withheld: .*fewer than (?P<least>[0-9]+)")
"""How the note of a number begins behind which too few patients stand."""
PLACE = ("model", "split", "condition", "explainer", "metric")
Compared = Mapping[tuple[str, ...], Mapping[str, Any]]
"""What two trainers were compared in (`PLACE`), and the two of them in the order of the alphabet -> line of differences.csv."""


@dataclass(frozen=True)
class Candidate:
    """A number that the summary may speak of, and whose it is."""

    who: str
    trainer: str
    at: tuple[str, ...]
    """Model, split, condition, explainer and metric."""
    score: Score

    @property
    def defined(self) -> bool:
        """False for a number that is withheld or not defined."""
        return self.score.text != NOT_DEFINED


@dataclass(frozen=True)
class LeftOut:
    """Something that the numbers say nothing about."""

    short: str
    said: str


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def tested(results: Results) -> str:
    """What was tested, in one sentence."""
    manifest, data = results.manifest, results.manifest["data"]
    cells = len(manifest["cells"])
    failed = sum(cell["status"] == "failed" for cell in manifest["cells"])
    parts = [plural(len(manifest[kind]), noun) for kind, noun in (("models", "model"), ("trainers", "trainer"))]
    parts.append(plural(len(manifest["seeds"]), "seed"))
    sets = [
        f"“{name}” ({plural(known['images'], 'image')} of {plural(known['patients'], whose(data))})"
        for name in ("test", *data["outside"])
        if (known := data["splits"].get(name))
    ]
    ended = f"{plural(cells, 'network')}" + (f", {failed} of which failed" if failed else "")
    return (
        f"{' x '.join(parts)} ({ended}), tested on {' and '.join(sets) or 'no set'}; "
        f"{plural(len(manifest['attacks']), 'attack')}, {plural(len(manifest['corruptions']), 'corruption')}, "
        f"{plural(len(manifest['explainers']), 'explainer')}."
    )


def verdict(results: Results, differences: pd.DataFrame | None = None) -> list[str]:
    """At most three sentences: clean, robust, localisation; a number that a failed check forbids is never claimed.

    differences: the run's comparisons of trainers, which decide whether one of two is called best.
    """
    if not results.splits:
        return ["Nothing was measured: every network failed."]
    compared = comparisons(differences)
    split = results.splits[0]
    metric = headline(results, split)
    name = "AUROC" if metric == "auroc" else metric
    where = "drawn images of no patient" if is_drawn(results) else f"clean images of “{split}”"
    clean = candidates_of(results, split, metric)
    told = _sentence(f"On {where}{_count(clean)}, {name} is", clean, compared)
    for outside in results.splits[1:]:
        elsewhere = candidates_of(results, outside, metric)
        told = f"{told.removesuffix('.')}; {_sentence(f'on “{outside}”{_count(elsewhere)} it is', elsewhere, compared)}"
    sentences = [told]
    attacks = [attack for attack in results.of_threat(split, WORST) if attack != WORST]
    parts = []
    for _, written, condition in reversed(results.telling_radii(split)):
        robust = candidates_of(results, split, "robust_accuracy", condition)
        parts.append(_sentence(f"at radius {written}{_count(robust)} it is", robust, compared).removesuffix("."))
    if parts:
        others = [said_threat(threat) for threat in results.threats(split) if threat != WORST]
        within = " on any answer within L-inf radii" if others else ""
        apart = f"; other threats ({'; '.join(others)}) have tables of their own" if others else ""
        over = f"Robust accuracy in the worst case over {plural(len(attacks), 'attack')} ({', '.join(attacks)}){within}"
        sentences.append(f"{over}, an upper bound: {'; '.join(parts)}{apart}.")
    places = localisation(results)
    if places:
        at, condition, _, metric = places[0]
        found = [
            replace(candidate, who=f"{explainer} on {candidate.who}")
            for _, _, explainer, _ in places
            if explainer != CHANCE
            for candidate in candidates_of(results, at, metric, condition, explainer)
        ]
        told = _sentence(f"On {condition} images{_count(found)}, the {spoken(metric)} of attribution maps is", found, compared)
        chance = [candidate for candidate in candidates_of(results, at, metric, condition, CHANCE) if candidate.defined]
        if chance:
            told = f"{told.removesuffix('.')}; a map without meaning would score {chance[0].score.text}."
        sentences.append(told)
    return [sentence for sentence in sentences if sentence]


def comparisons(differences: pd.DataFrame | None) -> Compared:
    """Lines of differences.csv by what was compared."""
    lines = [] if differences is None else differences.fillna({"explainer": ""}).to_dict("records")
    return {
        (*(line[name] for name in PLACE), *sorted((line["trainer"], line["against"]))): {str(k): v for k, v in line.items()}
        for line in lines
    }


def candidates_of(results: Results, split: str, metric: str, condition: str = "clean", explainer: str = "") -> list[Candidate]:
    """The numbers of one place, of all networks that have one."""
    many = len(results.models) > 1
    return [
        Candidate(f"{model} with {trainer}" if many else trainer, trainer, (model, split, condition, explainer, metric), score)
        for model in results.models
        for trainer in results.trainers
        if (
            score := results.score(
                model=model, trainer=trainer, split=split, metric=metric, condition=condition, explainer=explainer
            )
        )
    ]


def _sentence(start: str, candidates: list[Candidate], compared: Compared) -> str:
    """Highest and lowest of the numbers that no failed check forbids, and whether their difference was shown."""
    defined = [candidate for candidate in candidates if candidate.defined]
    usable = [candidate for candidate in defined if not candidate.score.failed]
    if not candidates:
        return f"{start} not measured."
    if not defined:
        return f"{start} {why_none(candidates)}."
    forbidden = len(defined) - len(usable)
    if not usable:
        return f"{start} not claimed, because a check failed on every network's number (see the warnings)."
    top, bottom = (end(usable, key=lambda candidate: candidate.score.value) for end in (max, min))
    if top.score.text == bottom.score.text:
        said = f"{start} {with_interval(top.score)} ({top.who if len(usable) == 1 else 'every network'})"
    else:
        said = f"{start} {_ends(top, bottom, compared)}"
    if lacking := [candidate for candidate in candidates if not candidate.defined]:
        said += f", leaving out {plural(len(lacking), 'number')} {why_none(lacking)}"
    if forbidden:
        said += f", leaving out {plural(forbidden, 'number')} on which a check failed"
    elif top.score.doubts or bottom.score.doubts:
        said += ", with warnings"
    return f"{said}."


def _ends(top: Candidate, bottom: Candidate, compared: Compared) -> str:
    """The highest and the lowest number, and what the comparison of their trainers came to."""
    high, low = (f"{with_interval(each.score)} ({each.who})" for each in (top, bottom))
    line = compared.get((*top.at, *sorted((top.trainer, bottom.trainer)))) if top.at == bottom.at else None
    found = Finding("apart") if line is None else finding(line)
    if line is None or found.kind == "apart" or found.who not in ("", top.trainer):
        # the last: over the seeds that both have, the order may be the other
        overlap = ", with overlapping intervals" if top.score.low <= bottom.score.high else ""
        return f"{Finding('apart').sentence(high, low)}{overlap}"
    return f"{found.sentence(high, low)} ({said_p(float(line['p_holm']))})"


def why_none(candidates: list[Candidate]) -> str:
    """Why there is no number."""
    least = {found["least"] for candidate in candidates if (found := WITHHELD.search(candidate.score.note))}
    if not least:
        return "not defined"
    return f"withheld: fewer than {max(least, key=int)} patients"


def _count(candidates: list[Candidate]) -> str:
    """How many images the numbers rest on; nothing where they differ, for then the tables say it number by number."""
    counts = {candidate.score.images for candidate in candidates if candidate.defined}
    return f" (n = {counts.pop()})" if len(counts) == 1 else ""


def with_interval(score: Score) -> str:
    """`0.910 [0.867, 0.953]`."""
    return f"{score.text} (no interval)" if score.interval == f"[{NOT_DEFINED}]" else f"{score.text} {score.interval}"


def is_drawn(results: Results) -> bool:
    """True if images that no patient ever had stand behind the numbers."""
    return bool(results.manifest["drawn"] or results.manifest["demonstration"])


def not_tested(results: Results) -> list[str]:
    """What the numbers say nothing about; made from what the protocol left out."""
    return [left.said for left in left_out(results)]


def left_out(results: Results) -> list[LeftOut]:
    """What the numbers say nothing about, in a few words and in a sentence."""
    return [*_attacks_left_out(results), *_data_left_out(results), *_explanations_left_out(results), *_always_left_out(results)]


def _attacks_left_out(results: Results) -> Iterable[LeftOut]:
    manifest = results.manifest
    largest: dict[str, float] = {}
    for split in results.splits:
        for threat in results.threats(split):
            norm, radius = norm_of(threat), results.of_threat(split, threat)[threat][-1][0]
            largest[norm] = max(radius, largest.get(norm, 0.0))
    if not largest:
        yield LeftOut(
            "attacks of any kind",
            "Attacks: none was run, so nothing is known about images that someone changed on purpose.",
        )
    else:
        norms = [norm for norm in NORMS if norm in largest]
        tried = " and ".join(
            f"{NORMS[norm]} up to radius {format_eps(largest[norm])}"
            + (f" ({largest[norm] * 255:.3g} of 255 grey levels)" if norm == "linf" else "")
            for norm in norms
        )
        yield LeftOut(
            f"attacks beyond {listed([f'{NORMS[norm]} {format_eps(largest[norm])}' for norm in norms])}",
            f"Attacks other than {tried}: "
            "larger radii, other norms, patches, rotations, attacks made for one particular trainer.",
        )
        if not any(attack["name"].removeprefix("art/") in DECISION_ONLY for attack in manifest["attacks"]):
            yield LeftOut(
                "attacks without gradients",
                "Attacks that do without gradients: a network that hides its gradients would look more robust than it is.",
            )
        if not any(place["metric"].startswith(CONVERGENCE) for place in results.places):
            yield LeftOut(
                "whether the attacks were strong enough",
                "Whether the attacks were strong enough: the checks of the attacks were not run.",
            )
        unattacked = [split for split in results.splits if not results.attacks(split)]
        if unattacked:
            yield LeftOut(
                f"attacks on {listed([f'“{split}”' for split in unattacked])}",
                f"Attacks on the sets {', '.join(unattacked)}.",
            )
    if not manifest["corruptions"]:
        yield LeftOut("noise, contrast and motion", "Corruptions: no noise, contrast or motion that no one intended.")


def same_collection(data: Mapping[str, Any], name: str) -> bool:
    """True if an outside set has a reader of the training images: the same one, from the same folder and list."""

    def source(reader: Mapping[str, Any]) -> tuple[Any, ...]:
        settings = reader["settings"]
        return reader["name"], *(settings.get(name) for name in ("root", "csv", "folder", "site"))

    readers = data["outside"][name]
    ours = source(data["reader"])
    return any(source(reader) == ours for reader in (readers if isinstance(readers, list) else [readers]))


def _data_left_out(results: Results) -> Iterable[LeftOut]:
    manifest = results.manifest
    if not manifest["data"]["outside"]:
        yield LeftOut(
            "other hospitals",
            "Other hospitals: there is no outside test set, so all test images come from the source of the training images.",
        )
    near = [name for name in manifest["data"]["outside"] if same_collection(manifest["data"], name)]
    if near and len(near) == len(manifest["data"]["outside"]):
        named = listed([f"“{name}”" for name in near])
        yield LeftOut(
            "other hospitals",
            f"Other hospitals: {named} {'is' if len(near) == 1 else 'are'} read from the collection of the training images.",
        )
    if len(manifest["seeds"]) == 1:
        yield LeftOut(
            "chance in training",
            "Chance in training: with one seed, another start of the same training may rank the trainers differently.",
        )
    failed = [cell for cell in manifest["cells"] if cell["status"] == "failed"]
    if failed:
        networks = plural(len(failed), "network")
        yield LeftOut(
            f"{networks} that failed",
            f"{networks} that could not be trained or evaluated; see the list under the warnings.",
        )


def _explanations_left_out(results: Results) -> Iterable[LeftOut]:
    manifest = results.manifest
    if not manifest["explainers"]:
        yield LeftOut("what the networks look at", "Explanations: what the networks look at was not examined.")
        return
    if not localisation(results):
        yield LeftOut("localisation", "Localisation: there are no maps measured against known regions.")
    if not any(metric["family"] == "randomisation" for metric in manifest["explanation_metrics"]):
        yield LeftOut(
            "whether maps depend on what was learned",
            "Whether the maps depend on what was learned: no randomisation metric was run.",
        )
    if {condition for _, condition in results.explained()} == {"clean"}:
        yield LeftOut("explanations of attacked images", "Explanations of attacked images.")


def _always_left_out(results: Results) -> Iterable[LeftOut]:
    there = {place["metric"].partition("[")[0] for place in results.places}
    lacking = [said for said, metric in (("calibration", "ece"), ("decision thresholds", "threshold")) if metric not in there]
    columns = [said for said, column in SUBGROUPS.items() if column not in results.subgroups]
    if columns:
        lacking.append(f"differences between {listed(columns)}")
    if lacking:
        said = f"{', '.join(lacking[:-1])}, and {lacking[-1]}." if len(lacking) > 1 else f"{lacking[0]}."
        yield LeftOut(", ".join(lacking), said[:1].upper() + said[1:])
    yield LeftOut("human readers, any use on patients", "Comparison with human readers, and any use on patients.")
