"""Items about scores, their uncertainty, other hospitals, groups of patients, and what is documented."""

from __future__ import annotations

from cxr_eval.report.checklists.answers import Answer, answered, listed, missing, partly
from cxr_eval.report.checklists.known import Known
from cxr_eval.report.tables import HEADLINES, spoken
from cxr_eval.report.verdict import plural

DISCRIMINATION = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
PEOPLE = ("sex", "age")


def _measured(known: Known, names: tuple[str, ...]) -> list[str]:
    return [spoken(name) for name in names if known.has(name)]


def metrics(known: Known) -> Answer:
    """Which scores were measured."""
    found = _measured(known, (*HEADLINES, "sensitivity", "specificity", "ece", "net_benefit", "robust_accuracy"))
    if not found:
        return missing("No network was scored.", "scores of the networks")
    return answered(f"Measured: {listed(found, 12)}.", "main-results")


def measures(known: Known) -> Answer:
    """Discrimination, calibration and use, and how models are compared."""
    kinds = {
        "discrimination": _measured(known, DISCRIMINATION),
        "calibration": _measured(known, ("ece",)),
        "usefulness": _measured(known, ("net_benefit",)),
    }
    told = [f"{kind} ({listed(found)})" for kind, found in kinds.items() if found]
    if not told:
        return missing("No network was scored.", "scores of the networks")
    lacks = [f"measures of {kind}" for kind, found in kinds.items() if not found]
    compared = " Trainers are compared on the same images." if not known.differences.empty else ""
    place = "clinical" if known.has("sensitivity") else "main-results"
    return partly(f"{listed(told)[:1].upper()}{listed(told)[1:]}.{compared}", listed([*lacks, "why these were chosen"]), place)


def _intervals(known: Known) -> tuple[int, int, list[str]]:
    """Headline numbers that are defined, those with an interval, and the sets they are of."""
    metric, found, with_ends = known.headline, 0, 0
    for split in known.results.splits:
        defined, ends = known.with_interval(metric, split=split)
        found, with_ends = found + defined, with_ends + ends
    return found, with_ends, list(known.results.splits)


def uncertainty(known: Known) -> Answer:
    """Intervals and tests."""
    found, ends, sets = _intervals(known)
    if not ends:
        return missing("The main numbers of this run have no intervals.", "intervals or tests")
    said = (
        f"{ends} of {found} numbers of {spoken(known.headline)} on {listed([f'“{name}”' for name in sets])} have a 95 %"
        " interval from resampling patients."
    )
    lacks = []
    if known.patients_unknown:
        lacks.append("intervals over patients where no patient is named: images stand for patients there")
    if ends < found:
        lacks.append("intervals of the others")
    if len(known.results.trainers) > 1:
        if known.differences.empty:
            lacks.append("tests of the differences between trainers")
        else:
            said += " Differences between trainers have intervals and p-values, corrected as Holm does."
    if len(known.results.seeds) == 1:
        lacks.append("chance in training, for there is one seed")
    return partly(said, listed(lacks), "main-results") if lacks else answered(said, "main-results")


def precision(known: Known) -> Answer:
    """Diagnostic accuracy with its precision."""
    named = [name for name in DISCRIMINATION if known.has(name)]
    if not named:
        return missing("Diagnostic accuracy was not measured.", "diagnostic accuracy with its precision")
    found = [known.with_interval(name, split=split) for name in named for split in known.results.splits]
    defined, ends = (sum(part) for part in zip(*found, strict=True))
    said = f"{listed([spoken(name) for name in named])}: {ends} of {defined} numbers have a 95 % interval."
    said = said[:1].upper() + said[1:]
    place = "clinical" if known.has("sensitivity") else "main-results"
    return answered(said, place) if ends == defined and ends else partly(said, "intervals of the others", place)


def by_group(known: Known) -> Answer:
    """Scores with intervals, of groups of patients too."""
    made = uncertainty(known)
    columns = list(known.results.subgroups)
    if made.state == "not provided":
        return made
    said = made.said.partition(" What lacks:")[0]
    if not columns:
        return partly(said, "scores of groups of patients, such as men and women", "main-results")
    said += f" Scores of subgroups by {listed(columns)} stand apart"
    defined, ends = known.of_subgroups(known.headline)
    said += f", {ends} of {defined} with an interval." if defined else ", too small for a number."
    lacks = [column for column in PEOPLE if column not in columns]
    if made.state == "partly" or lacks:
        more = [made.said.partition(" What lacks: ")[2].removesuffix(".")] if made.state == "partly" else []
        return partly(said, listed([*more, *(f"scores by {column}" for column in lacks)]), "subgroups")
    if ends < defined or not defined:
        return partly(said, "intervals of the others" if defined else "numbers of subgroups", "subgroups")
    return answered(said, "subgroups")


def fairness(known: Known) -> Answer:
    """Whether groups of patients were compared."""
    columns = [column for column in known.results.subgroups if column in PEOPLE]
    if not columns or known.gaps.empty:
        return missing("Groups of patients were not compared.", "whether the networks serve all groups alike")
    tests = int(known.gaps["p_holm"].notna().sum())
    shown = int((known.gaps["p_holm"] < 0.05).sum())
    said = (
        f"Gaps by {listed(list(known.results.subgroups))} were measured: {shown:,} of {tests:,} are shown after"
        " correction (p below 0.05)."
    )
    return partly(said, "other attributes, and measures against gaps, of which the run knows none", "subgroups")


def heterogeneity(known: Known) -> Answer:
    """Scores by site or set."""
    sites = len(known.results.subgroups.get("site", ()))
    sets = [f"“{name}”" for name in known.results.splits]
    if not sites and len(sets) < 2:
        return missing("There is one test set, and no site is scored apart.", "how scores vary between hospitals")
    told = [f"{sites} sites"] if sites else []
    told += [f"the sets {listed(sets)}"] if len(sets) > 1 else []
    return partly(
        f"Scores stand apart for {listed(told)}.",
        "a measure of the heterogeneity between hospitals",
        "subgroups" if sites else "main-results",
    )


def external(known: Known) -> Answer:
    """Images from elsewhere."""
    outside = [name for name in known.data["outside"] if name in known.results.splits]
    if not outside:
        return missing("There is no outside test set.", "a test on images of another hospital")
    if known.drawn:
        return missing("The outside sets are drawn images too.", "a test on images of another hospital")
    far, doubts = [], []
    for name in outside:
        shared = {other: known.shared(name, other) for other in ("train", "val", "test")}
        common = [other for other, count in shared.items() if count]
        if common:
            doubts.append(f"“{name}” shares patients with {listed([f'“{other}”' for other in common])}, so it is not external")
        elif None in shared.values():
            doubts.append(f"whether “{name}” shares patients with the training images was not counted")
        elif known.patients_unknown:
            doubts.append(
                f"whether “{name}” shares patients with the training images is unknown, as not all patients are named"
            )
        elif known.same_source(name):
            doubts.append(f"“{name}” is read from the same collection as the training images")
        else:
            far.append(name)
    if not far:
        told = listed(doubts)
        return missing(f"{told[:1].upper()}{told[1:]}.", "a test on images of another hospital")
    said = f"Tested on {listed([f'“{name}” ({known.size(name)})' for name in far])}, of which no patient is in another set."
    if doubts:
        return partly(said, f"certainty about others: {listed(doubts)}", "main-results")
    return answered(f"{said} That they come from elsewhere is what the protocol says.", "main-results")


def by_partition(known: Known) -> Answer:
    """Scores on all sets."""
    sets = [f"“{name}”" for name in known.results.splits]
    if not sets:
        return missing("No network was scored.", "scores on all sets")
    return partly(
        f"Scores of {listed(sets)}, and of validation images over the epochs.", "scores on training images", "main-results"
    )


def failures(known: Known) -> Answer:
    """What the networks get wrong."""
    told = []
    if known.has("called"):
        told.append("which classes are taken for which")
    if known.has("missed_disease") or known.has("missed"):
        told.append("missed disease and false alarms")
    if known.results.subgroups:
        told.append(f"subgroups by {listed(list(known.results.subgroups))}")
    if not told:
        return missing("", "an analysis of the wrong answers")
    place = "classes" if known.has("called") else "clinical" if known.has("sensitivity") else "subgroups"
    return partly(f"Shown: {listed(told)}.", "a reader's look at the wrong answers and their causes", place)


def summary(known: Known) -> Answer:
    """What was found, in short."""
    return partly(
        "The report opens with what was tested and a summary made from its numbers.",
        "background, objectives and conclusions in the authors' words",
        "main-results",
    )


def interpretation(known: Known) -> Answer:
    """What the results mean."""
    return partly(
        "The summary says what the numbers show, and no more.",
        "what that means for care, for fairness, and against earlier studies",
        "main-results",
    )


def limitations(known: Known) -> Answer:
    """What the run says nothing about."""
    said = "What was not tested is listed, and doubts stand as warnings."
    stated = known.stated("limitations")
    if stated:
        return answered(f"{stated} {said}", "not-tested")
    return partly(said, "limits that no run can see, such as who the patients are", "not-tested")


def protocol(known: Known) -> Answer:
    """Where the plan is."""
    about = known.manifest["protocol"]
    changed = f", with {plural(len(about['sets']), 'change')} on the command line" if about["sets"] else ""
    return partly(
        f"The protocol of this evaluation is printed in full (hash {about['hash']}{changed}).",
        "a protocol of the study, and whether either was fixed before the results were known",
        "how",
    )


def evaluation_plan(known: Known) -> Answer:
    """Which images, scores and references were fixed."""
    made = protocol(known)
    references = [
        name for name, use in zip(known.results.trainers, known.manifest["trainers"], strict=True) if not use["adversarial"]
    ]
    beside = f" Reference: networks of {listed(references)}." if references and len(known.results.trainers) > 1 else ""
    said = made.said.partition(" What lacks:")[0]
    return partly(f"{said}{beside}", "comparison with present practice, and whether the plan was fixed before", "how")


def robustness(known: Known) -> Answer:
    """Whether answers hold when images change."""
    results, told = known.results, []
    corruptions = [name for split in results.splits for name in results.corruptions(split)]
    attacks = [label for label, _ in known.settings("attacks")] if known.attacked else []
    if attacks:
        told.append(f"attacks ({listed(attacks)}) on {listed([f'“{name}”' for name in known.attacked])}")
    if corruptions:
        told.append(f"corruptions ({listed(list(dict.fromkeys(corruptions)))})")
    if not told:
        return missing("Neither attacks nor corruptions were run.", "how the networks take changed images")
    said = f"Measured: {listed(told)}."
    lacks = [] if attacks else ["attacks"]
    lacks += [] if corruptions else ["changes that no one intended, such as noise, or repeated pictures"]
    if attacks:
        verdicts = [line["verdict"] for line in known.validity]
        searched = [line["verdict"] for line in known.validity if line["check"] in SEARCHES]
        if not verdicts:
            lacks.append("checks of the attacks")
        elif "FAIL" in verdicts:
            said += f" {verdicts.count('FAIL')} of {len(verdicts)} checks of the attacks failed."
        elif not any(verdict != "SKIP" for verdict in searched):
            lacks.append("checks of whether the attacks were strong: none could be tried")
        if any(score.failed for score in known.worst_cases):
            lacks.append("robust accuracies that no failed check forbids, on some networks")
    place = "robustness" if attacks else "corruptions"
    return partly(said, "; ".join(lacks), place) if lacks else answered(said, place)


SEARCHES = ("single_step_beats_many", "more_iterations_help", "noise_as_strong", "black_box_beats_white_box")
"""Checks that speak of how strong the attacks are."""


def robust_training(known: Known) -> Answer:
    """Robustness evaluated, and something done about it."""
    made = robustness(known)
    if made.state == "not provided":
        return made
    said = made.said.partition(" What lacks:")[0]
    against = [str(use["label"]) for use in known.manifest["trainers"] if use["adversarial"]]
    if against:
        said += f" Trained against attacks: {listed(against)}."
    more = made.said.partition(" What lacks: ")[2].removesuffix(".") if made.state == "partly" else ""
    lacks = [*([more] if more else []), *([] if against else ["training against such changes"]), "tests of repeatability"]
    return partly(said, "; ".join(lacks), made.anchor)


def documentation(known: Known) -> Answer:
    """What is written down."""
    return partly(
        "This report, a model card and a data card are made from the run; hashes name protocol, data and files.",
        "clinical documentation and instructions for use",
        "how",
    )


def risks(known: Known) -> Answer:
    """Risks that the run saw, and what was done."""
    serious = sum(warning.level in ("fail", "warn") for warning in known.results.warnings)
    return missing(
        f"The run stored {plural(serious, 'warning')}, which {'is' if serious == 1 else 'are'} no management of risks.",
        "which risks were found, and what was done about each",
    )


RULES = (
    *(metrics, measures, uncertainty, precision, by_group, fairness, heterogeneity, external, by_partition, failures, summary),
    *(interpretation, limitations, protocol, evaluation_plan, robustness, robust_training, documentation, risks),
)
