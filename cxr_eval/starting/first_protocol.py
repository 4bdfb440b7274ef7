"""A first protocol as text: the answers to `cxr-eval init`, written like the methods section of a paper, with reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cxr_eval.errors import ProtocolError
from cxr_eval.events import printable

PLAIN = re.compile(r"[^\W\d_][\w./ -]*[\w/]|[^\W\d_]")
"""Texts that need no quotes: a letter, and then what means nothing to YAML."""
OPTIONAL = ("split", "sex", "age", "view", "site")
"""Columns that a table may have and that only some analyses need."""

_WHY = {
    "split": "train, val, test as the data set was divided; nothing is divided again",
    "sex": "F or M: scored apart, so that a network that fails women or men is seen",
    "age": "years: likewise, in bands",
    "view": "PA, AP, ...: likewise",
    "site": "hospital or source: likewise, and a warning where the site alone tells the class",
}
_NO_PATIENT = """\
    # PATIENTS ARE NOT KNOWN: `patient: null` counts every image as a patient of its own. If some patients have several
    # images, the same patient may be trained and tested on, scores are too good, and intervals are too narrow. Name the
    # column if there is one."""


def scalar(text: str) -> str:
    """A text as one line of YAML that reads back as the same text.

    Raises:
        ProtocolError: it holds a variable `${`, which a protocol would replace, or is not Unicode.
    """
    if "${" in text:
        raise ProtocolError(f"'{printable(text)}': '${{' starts a variable in a protocol; rename the file or the column")
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = printable(text.encode(errors="backslashreplace").decode())
        raise ProtocolError(f"'{shown}': is not UTF-8 text; rename the file") from None
    import yaml  # here, not above: the list of commands needs nothing of this

    if PLAIN.fullmatch(text) and text.isprintable() and yaml.safe_load(text) == text:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(mark if mark.isprintable() else f"\\U{ord(mark):08x}" for mark in quoted)


def flow(values: Iterable[str]) -> str:
    """Texts as a list in one line of YAML."""
    return f"[{', '.join(map(scalar, values))}]"


def title_of(name: str) -> str:
    """The name of a protocol that a file name allows: letters, digits, `.`, `_` and `-`."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80]
    return kept or "my-images"


def protocol_text(name: str, file: str, answers: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The protocol.

    name: of the protocol. file: as the commands in its head call it. answers: by question, as `interview` gives them. facts:
    of the plugins chosen: `radius` and `reference`, names of the trainers that have the one and need the other.
    """
    gpu = answers["computer"] == "gpu"
    shown = printable(file)
    return "\n".join(
        [
            f"# Written by `cxr-eval init` for a computer {'with' if gpu else 'without'} a GPU; change whatever you like. Then",
            "#",
            f"#   cxr-eval validate {shown}    is it right, and what would run",
            f"#   cxr-eval data check {shown}  what is doubtful in the images",
            f"#   cxr-eval plan {shown}        how long it takes",
            f"#   cxr-eval run {shown}         all of it, to one report",
            f"name: {scalar(name)}",
            "",
            *_data(answers),
            "",
            *_training(answers, facts, gpu),
            "",
            *_evaluation(answers, gpu),
            "",
            "report: {formats: [html, md, csv]}",
            "",
        ]
    )


def _data(answers: Mapping[str, Any]) -> list[str]:
    lines = ["data:", "  train:", f"    reader: {scalar(answers['reader'])}"]
    if "root" in answers:
        lines.append(f"    root: {scalar(answers['root'])}  # a relative path starts where the command is given")
    if answers["reader"] == "table":
        lines += _table(answers)
    classes: Sequence[str] = answers.get("classes", ())
    if classes:
        lines.append(f"  classes: {flow(classes)}  # the order of tables and confusion matrices")
    size = answers["size"]
    usual = "what networks trained on ImageNet saw" if size == 224 else "224 is what networks trained on ImageNet saw"
    lines.append(f"  size: {size}  # images are made square, this many pixels a side; {usual}")
    lines.append("  resize: pad  # keeps the aspect ratio: a squashed heart looks enlarged")
    if answers.get("split") is None:
        lines.append("  split: {val: 0.15, test: 0.2, seed: 0}  # shares of patients, each class in proportion")
    lines.append("  # small changes that leave a chest a chest; no flip, which would put the heart on the right")
    lines.append("  augment: {rotate: 10, shift: 0.05}")
    return lines


def _table(answers: Mapping[str, Any]) -> list[str]:
    lines = [
        f"    csv: {scalar(answers['csv'])}  # in root; one row an image",
        f"    image: {scalar(answers['image'])}  # column with the image's path",
    ]
    if answers["folder"] != ".":
        lines.append(f"    folder: {scalar(answers['folder'])}  # in root; the paths start there")
    if answers["task"] == "one":
        lines.append(f"    label: {scalar(answers['label'])}  # column with the class")
        if answers["left_out"]:
            lines.append(f"    where: {{{scalar(answers['label'])}: {flow(answers['classes'])}}}  # other rows are left out")
    else:
        lines.append("    labels:  # columns with 0, 1 or nothing (unknown); a picture may show several findings")
        lines += [f"      {scalar(column)}: {scalar(column)}" for column in answers["labels"]]
    if answers["patient"] is None:
        lines += [_NO_PATIENT, "    patient: null"]
    else:
        why = "all images of a patient stay in one split, and intervals count patients"
        lines.append(f"    patient: {scalar(answers['patient'])}  # {why}")
    for use in OPTIONAL:
        if answers[use] is not None:
            lines.append(f"    {use}: {scalar(answers[use])}  # {_WHY[use]}")
        elif use in answers["columns"]:  # a column of that name is read unless it is forbidden
            lines.append(f"    {use}: null  # the column of that name is not used")
    return lines


def _training(answers: Mapping[str, Any], facts: Mapping[str, Any], gpu: bool) -> list[str]:
    eps: Sequence[str] = answers["eps"]
    middle = eps[len(eps) // 2]
    epochs, batch = (30, 32) if gpu else (10, 16)
    small = all(name == "small_cnn" for name in answers["models"])
    rate = "1.0e-3}  # usual for small networks from scratch" if small else "1.0e-4}  # usual for networks of this size"
    seeds = "[0, 1, 2]  # three seeds show how far chance goes; one shows nothing of it" if gpu else "[0]  # three are better"
    lines = [
        f"models: {flow(answers['models'])}",
        "train:",
        f"  epochs: {epochs}  # at most",
        f"  batch_size: {batch}",
        f"  optimizer: {{name: adam, lr: {rate}",
        "  select: {metric: loss, patience: 5}  # the epoch that does best on validation images",
        f"  seeds: {seeds}",
        "",
        "trainers:",
    ]
    trainers: Sequence[str] = answers["trainers"]
    plain = next((name for name in trainers if name not in facts["reference"]), None)
    for name in trainers:
        settings = [f"eps: {middle}"] if name in facts["radius"] else []
        settings += [f"reference: {scalar(str(plain))}"] if name in facts["reference"] else []
        if settings:
            lines.append(f"  - {{name: {scalar(name)}, {', '.join(settings)}}}")
        else:
            comment = "  # the baseline, which the others are compared with" if name == "standard" else ""
            lines.append(f"  - {scalar(name)}{comment}")
    return lines


def _evaluation(answers: Mapping[str, Any], gpu: bool) -> list[str]:
    radii = f"[{', '.join(answers['eps'])}]"
    lines = ["attacks:  # radii are shares of the range from black to white; 1/255 is one grey level, which nobody sees"]
    lines += [f"  - {{name: {scalar(name)}, eps: {radii}}}" for name in answers["attacks"]]
    lines += [
        "",
        "corruptions:  # what goes wrong in the X-ray room, without anybody meaning to",
        "  - {name: gaussian_noise, severity: [1, 3, 5]}",
        "  - {name: exposure, severity: [1, 3, 5]}",
        "  - {name: rotation, severity: [1, 3, 5]}",
    ]
    methods: Sequence[str] = answers["methods"]
    if methods:
        lines += [
            "",
            "explain:",
            f"  methods: {flow(methods)}",
            "  # with masks or boxes also relevance_mass and pointing_game, which ask whether the finding is highlighted",
            "  metrics: [pixel_flipping, max_sensitivity, sparseness, model_randomisation]",
            f"  conditions: [clean, {{name: fgsm, eps: {answers['eps'][len(answers['eps']) // 2]}}}]",
            f"  images: {100 if gpu else 24}  # fewer make wider intervals",
        ]
        if answers.get("task") != "one":
            lines.append(
                "  target: predicted  # what the network sees in each image; label: what is there, where that is one class"
            )
    return lines
