"""Items about images, patients, labels and how they were divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr_eval.report.checklists.answers import Answer, answered, listed, missing, partly
from cxr_eval.report.checklists.known import FITTED, UNKNOWN, Known
from cxr_eval.report.results import one_line
from cxr_eval.report.verdict import plural
from cxr_eval.report.words import settings, whose

FILTERS = ("where", "official", "keep", "one_per_patient", "slice")
"""Settings of readers that take a part of a dataset."""
PEOPLE = ("sex", "age")


def _readers(known: Known) -> str:
    names = [str(known.data["reader"]["name"])]
    for readers in known.data["outside"].values():
        names += [str(reader["name"]) for reader in (readers if isinstance(readers, list) else [readers])]
    return listed(list(dict.fromkeys(names)))


def _sizes(known: Known) -> str:
    return "; ".join(f"“{name}”: {known.size(name)}" for name in known.splits)


def data_source(known: Known) -> Answer:
    """Where the images come from."""
    read = f"Images were read by {_readers(known)}; {_sizes(known)}."
    if known.drawn:
        return answered(f"The images were drawn by a program and show no patient; {_sizes(known)}.", "how")
    stated = known.stated("data_source")
    if stated:
        return answered(f"{stated} {read}", "how")
    return partly(read, "institutions, dates, and how the collection came about", "how")


def data_license(known: Known) -> Answer:
    """Whether others may have the data, and under which terms."""
    shown = f"The images are named by the hash {known.data['hash'][:16]}; the report holds no copy of the dataset."
    if known.drawn:
        return answered("The images are drawn anew by the protocol on any machine.", "how")
    stated = known.stated("licence")
    if stated:
        return partly(f"{stated} {shown}", "where the images can be had, unless stated", "how")
    return missing(shown, "where the images can be had and under which licence")


def _taken(given: Mapping[str, Any]) -> list[str]:
    found = []
    for name in FILTERS:
        value = given.get(name)
        if name == "where" and isinstance(value, dict) and value:
            told = (f"{column} is {' or '.join(map(str, values))}" for column, values in value.items())
            found.append(f"only images whose {' and whose '.join(told)}")
        elif value and name != "where" and not (name == "official" and value == "all"):
            found.append(f"{name} = {value if isinstance(value, (bool, int, str)) else listed([str(v) for v in value])}")
    return found


def _left_out(known: Known) -> str:
    left = known.data.get("left_out", ())
    read = sum(int(each["images"]) for each in left)
    bad = len(known.skipped)
    told = f"readers left out {plural(read, 'image')}" + (", reasons listed" if read else "")
    return f"{told}; {plural(bad, 'file')} could not be used" + (", each with its reason" if bad else "")


def eligibility(known: Known) -> Answer:
    """Who was taken and who was not."""
    if known.drawn:
        return missing("Drawn images have no patients to choose.")
    taken = _taken(known.data["reader"]["settings"])
    said = (
        f"The reader took {one_line('; '.join(taken))}; {_left_out(known)}." if taken else f"{_left_out(known).capitalize()}."
    )
    return partly(said, "how, where and when the patients themselves were found eligible", "how")


def subsets(known: Known) -> Answer:
    """Which part of a dataset was used."""
    taken = _taken(known.data["reader"]["settings"])
    said = f"The reader took {one_line('; '.join(taken))}." if taken else "No filter is among the reader's settings."
    more = " The run was limited to fewer images than there are; see the warnings." if "limited" in known.codes else ""
    said = f"{said}{more} All settings that choose images stand in the protocol, which is printed in full."
    if known.drawn:
        return answered(said, "how")
    return partly(said, "whether the folder that was read is the whole collection", "how")


def preprocessing(known: Known) -> Answer:
    """What was done to pixels before networks saw them."""
    data = known.data
    changed = {name: value for name, value in data.get("augment", {}).items() if value}
    said = (
        f"Networks saw {data['size']} by {data['size']} pixels in {plural(data['channels'], 'channel')};"
        f" training images were changed at random ({settings(changed)})."
        if changed
        else f"Networks saw {data['size']} by {data['size']} pixels in {plural(data['channels'], 'channel')}."
    )
    if known.drawn:
        return answered(f"{said} The images are drawn, so nothing was done to them before.", "how")
    return partly(said, "what was done to the files before they were read", "how")


def quality(known: Known) -> Answer:
    """Pre-processing together with what was looked for in the images."""
    made = preprocessing(known)
    if not known.tables:
        return partly(made.said, "an audit of the images, which this run has not", "how")
    lacks = "whether quality was the same in all groups of patients"
    lacks = lacks if known.drawn else f"what was done to the files before they were read, and {lacks}"
    found = [row for row in known.tables.get("found", ()) if row["count"]]
    told = listed([f"{row['code'].replace('_', ' ')} ({row['count']})" for row in found]) if found else "nothing"
    return partly(
        f"{made.said.partition(' What lacks:')[0]} An audit looked for copies, inverted and empty images and burned-in signs;"
        f" found: {told}.",
        lacks,
        "audit",
    )


def missing_data(known: Known) -> Answer:
    """What happened to what was not there."""
    unknown = {
        column: sum(int(row["images"]) for row in rows if row["value"] in UNKNOWN) for column, rows in known.groups.items()
    }
    there = [f"{column} of {plural(count, 'image')}" for column, count in unknown.items() if count]
    kept = (
        f" Unknown {listed(there)} (outside sets included) is a group of its own where subgroups are scored." if there else ""
    )
    said = f"{_left_out(known).capitalize()}.{kept}"
    if known.drawn:
        return answered(said, "warnings")
    return partly(said, "how labels that the source itself lacks or doubts were treated", "warnings")


def reference_standard(known: Known) -> Answer:
    """What the labels are."""
    if known.drawn:
        return answered("What was drawn is the label: the program that draws the images knows it.", "how")
    names = (
        f"The {'findings' if known.manifest['task'] == 'multilabel' else 'classes'} are {listed(known.results.classes, 14)}."
    )
    stated = known.stated("annotation")
    if stated:
        return partly(
            f"{stated} {names}", "whatever of the definition is not stated there; the run takes labels as they are", "how"
        )
    return missing(
        f"{names} They are taken as the dataset has them.", "what each label means, who gave it, and on which grounds"
    )


def annotators(known: Known) -> Answer:
    """Who labelled, with which tools."""
    if known.drawn:
        return missing("Nobody labelled drawn images.")
    stated = known.stated("annotation")
    if stated:
        return partly(stated, "whatever of qualifications, blinding and tools is not stated there", "how")
    return missing("", "who labelled the images, how qualified, with which tools, and what they could see")


def sample_size(known: Known) -> Answer:
    """How many, and why so many."""
    few = " Of some class there are few patients; see the warnings." if "few_patients" in known.codes else ""
    return partly(f"{_sizes(known)}.{few}", "how the sizes were arrived at and why they suffice", "how")


def participants(known: Known) -> Answer:
    """Images and patients of each analysis, with their labels."""
    if known.counts.empty:
        return missing("", "patients and outcomes in each analysis")
    return answered(f"Images and patients by set and class stand in a table; {_sizes(known)}.", "how")


def partitions(known: Known) -> Answer:
    """How images came into training, validation and test."""
    ours = [name for name in (*FITTED, "test") if name in known.splits]
    total = sum(known.splits[name]["images"] for name in ours)
    shares = listed([f"{name} {known.splits[name]['images'] / total:.1%}" for name in ours]) if total else "none"
    column = known.data["reader"]["settings"].get("split")
    how = f"the column “{one_line(str(column), 60)}” of the labels divides the images" if column else ""
    if "val_from_train" in known.codes:
        how = f"{how}; " if how else ""
        how += "validation images are whole patients set apart from the dataset's own training images"
    said = f"Of {total:,} images: {shares}" + (f"; {how}." if how else ".")
    lacks = "how the dataset's own division was made" if how else "whether the dataset or the protocol's lot divided the images"
    return partly(said, lacks, "how")


def disjoint(known: Known) -> Answer:
    """At which level the sets have nothing in common."""
    ours = [name for name in (*FITTED, "test") if name in known.splits]
    pairs = {(a, b): known.shared(a, b) for i, a in enumerate(ours) for b in ours[i + 1 :]}
    if not pairs or None in pairs.values():
        return missing("The run has no audit that counted patients in two sets.", "at which level the sets are disjoint")
    common = {pair: count for pair, count in pairs.items() if count}
    if common:
        told = listed([f"{a} and {b} share {plural(int(count or 0), 'patient')}" for (a, b), count in common.items()])
        return partly(f"The sets are not disjoint: {told}.", "sets without common patients", "audit")
    copies = known.tables.get("duplicates") or ()
    said = f"No {'drawn ' if known.drawn else ''}patient is in two of {listed(ours)}."
    if known.patients_unknown:
        said, one = (
            said.replace("patient is", f"{whose(known.data)} is"),
            "lesions" if whose(known.data) == "lesion" else "images",
        )
        return partly(said, f"who the patients are: {one} without a patient's name count as one patient each", "audit")
    if not copies:
        return partly(said, "a search for the same picture under two patients", "audit")
    pairs_found = int(copies[0]["pairs"])
    looked = f"{copies[0]['compared']:,} pictures were compared: "
    if pairs_found:
        return partly(
            f"{said} {looked}{plural(pairs_found, 'pair')} may show one scene under two patients.",
            "a decision about these pairs",
            "audit",
        )
    return answered(f"{said} {looked}no pair shows the same scene under two patients.", "audit")


def flow(known: Known) -> Answer:
    """From all images to those that were used."""
    if known.drawn:
        return missing("Drawn images have no participants.")
    return partly(
        f"{_left_out(known).capitalize()}; {_sizes(known)}.", "a diagram, and patients before the dataset was made", "how"
    )


def demographics(known: Known) -> Answer:
    """Who the patients are, set by set."""
    if known.drawn:
        return missing("Drawn images have no patients.")
    ours = [name for name in known.splits if name not in known.data["outside"]]
    there = [
        column
        for column, rows in known.groups.items()
        if column in (*PEOPLE, "site", "view")
        and all(any(row["split"] == name and row["value"] not in UNKNOWN for row in rows) for name in ours)
    ]
    if not there:
        return missing("The run has classes by set, and neither age nor sex.", "age, sex and clinical state by set")
    said = f"Images and patients by {listed(there)} are counted for each set, and by class."
    lacks = [column for column in PEOPLE if column not in there]
    if lacks:
        return partly(said, f"{listed(lacks)}, and clinical state beyond the classes", "audit")
    return partly(said, "clinical state beyond the classes", "audit")


def compared_sets(known: Known) -> Answer:
    """How the images of the evaluation differ from those of the training."""
    if not known.groups and known.counts.empty:
        return missing("", "how training and test images differ")
    said = (
        "Counts by class"
        + (f" and by {listed(list(known.groups))}" if known.groups else "")
        + " stand side by side for all sets."
    )
    turned = len(known.tables.get("reversals", ()))
    if turned:
        said += f" {plural(turned, 'association')} with the label turns round between training and another set."
    return partly(
        said,
        "differences of setting, devices and eligibility that no column of the dataset names",
        "audit" if known.tables else "how",
    )


def class_imbalance(known: Known) -> Answer:
    """What was done about rare classes."""
    train = known.manifest["train"]
    names = [name for name in ("class_weights", "finding_weights") if train.get(name)]
    if not names:
        return missing("", "whether rare classes were weighted")
    used = [f"{name.replace('_', ' ')}: {train[name]}" for name in names if train[name] != "none"]
    if not used:
        return answered("Rare classes were not weighted in training.", "how")
    measured = " Calibration was measured after that; nothing was recalibrated." if known.has("ece") else ""
    lacks = "why" if known.has("ece") else "why, and how calibrated the networks are after it"
    return partly(f"In training, {listed(used)}.{measured}", lacks, "how")


def variation(known: Known) -> Answer:
    """Which sources of variation and bias are known."""
    columns = [column for column in known.groups if column != "marks"]
    strong = [
        code
        for code in ("source_is_label", "source_recognised", "view_is_label", "sex_is_label", "age_is_label")
        if code in known.codes
    ]
    if not columns:
        return missing(
            "The data names no view, site, sex or age.", "what may vary: devices, operators, sites, groups of patients, attacks"
        )
    said = f"The data names {listed(columns)}."
    if strong:
        said += f" The audit warns: {listed([code.replace('_', ' ') for code in strong])}."
    return partly(said, "a list of what may vary in use, such as devices, operators, noise and deliberate attacks", "audit")


def attributes(known: Known) -> Answer:
    """Which attributes of patients and images are recorded."""
    if known.drawn:
        return missing("Drawn images have no patients.")
    columns = [column for column in known.groups if column != "marks"]
    if not columns:
        return missing("The data names none.", "sex, age and other attributes of the patients, site and device of the images")
    return partly(f"Recorded: {listed(columns)}.", "other attributes, such as ethnicity or the device", "audit")


def representative(known: Known) -> Answer:
    """Whether the training images vary as the images in use will."""
    if known.drawn:
        return missing("Drawn images represent no patients.")
    sites = sorted({row["value"] for row in known.groups.get("site", ()) if row["split"] == "train"})
    said = f"Training images come from {listed(sites)}." if len(sites) > 1 else ""
    return missing(said, "whether the training images vary as the images in use will")


RULES = (
    *(data_source, data_license, eligibility, subsets, preprocessing, quality, missing_data, reference_standard, annotators),
    *(sample_size, participants, partitions, disjoint, flow, demographics, compared_sets, class_imbalance, variation),
    *(attributes, representative),
)
