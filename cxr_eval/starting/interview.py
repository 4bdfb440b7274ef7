"""What `cxr-eval init` asks about a person's data, and the protocol that the answers make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_eval.errors import CxrEvalError, ProtocolError
from cxr_eval.starting.answers import (
    NONE,
    Answers,
    by_computer,
    column,
    csv_files,
    first_of,
    fitting,
    folders,
    found_classes,
    has_gpu,
    has_root,
    joined,
    of_table,
    one_of,
    plugin_names,
    plugins,
    read_classes,
    read_csv,
    read_findings,
    read_folder,
    read_radii,
    read_root,
    read_size,
)
from cxr_eval.starting.first_protocol import OPTIONAL, protocol_text, title_of


@dataclass(frozen=True)
class Question:
    """One question. name: of the flag and of the answer.

    ask: what is asked. why: what the answer is for. choices: what fits, the likeliest first, for display; default: the answer
    of a person who presses Enter, None where there is none. read: the answer to a text; raises ProtocolError in words. when:
    whether it is asked at all, after the answers before it.
    """

    name: str
    ask: str
    why: str
    read: Callable[[str, Answers], Any]
    default: Callable[[Answers], str | None] = lambda answers: None
    choices: Callable[[Answers], Sequence[str]] = lambda answers: ()
    when: Callable[[Answers], bool] = lambda answers: True

    @property
    def flag(self) -> str:
        """`--eps`."""
        return f"--{self.name}"


_PATIENT = "All images of a patient stay in one split, and intervals count patients. - if the table does not tell patients."
_SCORED = {
    "split": "Column with train, val or test, if the data set is divided already; - to divide patients at random.",
    "sex": "Women and men are scored apart. - if the table does not tell.",
    "age": "Age bands are scored apart. - if the table does not tell.",
    "view": "Views (PA, AP) are scored apart. - if the table does not tell.",
    "site": "Hospitals are scored apart, and a site that tells the class is a warning. - if the table does not tell.",
}

QUESTIONS: tuple[Question, ...] = (
    Question(
        "computer",
        "Computer (gpu or cpu)",
        "Sizes, epochs and numbers of images are chosen for it; with a CPU they are small.",
        one_of(lambda: ("gpu", "cpu")),
        has_gpu,
    ),
    Question(
        "reader",
        "Kind of dataset",
        "A dataset that is known by name, or `table` for your own images with a CSV file.",
        one_of(lambda: plugin_names("readers")),
        lambda answers: "table",
        lambda answers: plugin_names("readers"),
    ),
    Question(
        "root",
        "Folder of the dataset",
        "It holds the images, in folders below it if there are any.",
        read_root,
        when=has_root,
    ),
    Question(
        "csv",
        "CSV file in that folder",
        "One row an image; comma, semicolon or tab.",
        read_csv,
        first_of(csv_files),
        csv_files,
        of_table,
    ),
    Question(
        "image",
        "Column with the image's path",
        "A file name, or a path below the folder of the images.",
        column("image"),
        first_of(fitting("image")),
        fitting("image"),
        of_table,
    ),
    Question(
        "folder",
        "Folder that these paths start from",
        "Below the folder of the dataset; . for that folder itself.",
        read_folder,
        first_of(folders),
        folders,
        of_table,
    ),
    Question(
        "task",
        "One class an image, or several findings (one or findings)",
        "one: a column holds the class. findings: each finding has a column with 0, 1 or nothing (unknown).",
        one_of(lambda: ("one", "findings")),
        lambda answers: "one" if fitting("label")(answers) or len(answers["table"].findings) < 2 else "findings",
        when=of_table,
    ),
    Question(
        "label",
        "Column with the class",
        "What the networks learn to tell.",
        column("label"),
        first_of(fitting("label")),
        fitting("label"),
        lambda answers: of_table(answers) and answers["task"] == "one",
    ),
    Question(
        "classes",
        "Classes, in the order of the tables",
        "Those that the column holds; images of a class that you leave out are not used.",
        read_classes,
        lambda answers: joined(found_classes(answers)),
        when=lambda answers: of_table(answers) and answers["task"] == "one",
    ),
    Question(
        "labels",
        "Columns of the findings",
        "Each holds 0, 1 or nothing (unknown).",
        read_findings,
        lambda answers: joined(answers["table"].findings) or None,
        lambda answers: answers["table"].findings,
        lambda answers: of_table(answers) and answers["task"] == "findings",
    ),
    Question(
        "patient",
        "Column with the patient",
        _PATIENT,
        column("patient", optional=True),
        first_of(fitting("patient"), NONE),
        fitting("patient"),
        of_table,
    ),
    *(
        Question(
            use,
            f"Column with the {use}",
            _SCORED[use],
            column(use, optional=True),
            first_of(fitting(use), NONE),
            fitting(use),
            of_table,
        )
        for use in OPTIONAL
    ),
    Question(
        "size",
        "Side of the images, pixels",
        "They are made square. Larger ones show more and take longer.",
        read_size,
        by_computer("224", "128"),
    ),
    Question(
        "models",
        "Networks",
        "Names with commas, of `cxr-eval plugins list models`. small_cnn is quick; resnet18 and densenet121 are usual.",
        plugins("models"),
        by_computer("resnet18, densenet121", "small_cnn"),
    ),
    Question(
        "trainers",
        "Training methods",
        "standard is the baseline. The others train on attacked images and differ in how.",
        plugins("trainers"),
        lambda answers: "standard, pgd",
        lambda answers: plugin_names("trainers"),
    ),
    Question(
        "attacks",
        "Attacks",
        "quick is a first look, standard the usual evaluation, strong the hardest and slowest.",
        plugins("attacks"),
        by_computer("fgsm, pgd, standard", "fgsm, pgd"),
        lambda answers: plugin_names("attacks"),
    ),
    Question(
        "eps",
        "Radii of the attacks",
        "How far each pixel may be changed, as a share of the range from black to white. 1/255 to 4/255 nobody sees.",
        read_radii,
        lambda answers: "1/255, 2/255, 4/255",
    ),
    Question(
        "methods",
        "Explanation methods",
        "Maps of what a network looks at, judged by metrics. - for none.",
        plugins("explainers", least=0),
        lambda answers: "gradcam, saliency",
        lambda answers: plugin_names("explainers"),
    ),
)


def write(file: Path, answers: Answers) -> tuple[str, ...]:
    """Write the protocol that the answers make, once it is found to be right; what it will run, line by line.

    Raises:
        CxrEvalError: what the answers make is refused; nothing is written.
    """
    import tempfile  # here, not above: the list of commands needs nothing of this

    from cxr_eval import plan, protocol_file, registry
    from cxr_eval.store import write_whole

    trainers = {name: registry.find("trainers", name) for name in answers["trainers"]}
    facts: Mapping[str, Any] = {
        "radius": [name for name, cls in trainers.items() if "eps" in cls.Params.model_fields],
        "reference": [name for name, cls in trainers.items() if cls.uses_reference],
    }
    text = protocol_text(title_of(file.stem), os.fspath(file), answers, facts)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "protocol.yaml"
        draft.write_text(text, encoding="utf-8")
        try:
            told = plan.describe(plan.plan(protocol_file.load(draft)))
        except CxrEvalError as error:
            raise ProtocolError(f"{str(error).replace(os.fspath(draft), os.fspath(file))}\nNothing was written.") from None
    write_whole(file, text.encode())
    return told
