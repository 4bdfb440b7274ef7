"""The protocol language: what one YAML file may say, as frozen records. Reading a file is `protocol_file`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, field_validator, model_validator

from cxr_eval.errors import nearest
from cxr_eval.evaluation import Evaluate
from cxr_eval.params import Field, Labels, Names, Params, Whole
from cxr_eval.training import Training


class PluginUse(Params):
    """One plugin with its settings, as a protocol names it: `fgsm`, or `{name: fgsm, eps: 0.02}`.

    The settings stay as they were written; the plugin's own `Params` check them when the run is planned.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    name: str = Field(min_length=1, description="name of the plugin, as `cxr-eval plugins list` prints it")
    label: str | None = Field(
        None,
        max_length=60,
        pattern=r"^[^,:|/\[\]]+$",
        description="name in tables, where two would be the same; none of , : | / [ ]",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The plugin's own settings as written."""
        return dict(self.__pydantic_extra__ or {})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _only(value: Any) -> Any:
    return {"only": value} if isinstance(value, list) else value


def _one_source(value: Any) -> Any:
    return (value,) if isinstance(value, dict) else _listed(value)


class Selection(Params):
    """The models that one trainer fits: those named, or those on which another trainer did best (a second stage)."""

    only: Labels | None = Field(None, min_length=1, description="labels of the models; a list alone means this")
    best: int | None = Field(None, ge=1, description="how many models, chosen while the protocol runs")
    of: str | None = Field(None, min_length=1, description="label of the trainer whose networks are compared")
    by: Literal["accuracy", "balanced_accuracy", "auroc"] = Field(
        "accuracy", description="what they are compared by: score on validation images, mean over seeds"
    )
    always: Labels = Field((), description="labels of models that are among the best whatever their score")

    @model_validator(mode="after")
    def _one_way(self) -> Selection:
        if (self.only is None) == (self.best is None):
            raise ValueError("expected a list of models, or {best: N, of: TRAINER}")
        if self.only is not None and (self.of is not None or self.always):
            raise ValueError("'of' and 'always' are for {best: N, of: TRAINER}; take them out, or 'only'")
        for names in (self.only or (), self.always):
            if len(set(names)) < len(names):
                raise ValueError(f"expected each model once, got {', '.join(names)}")
        if self.best is not None and self.of is None:
            raise ValueError("best needs 'of', the label of the trainer whose networks are compared")
        if self.best is not None and len(self.always) > self.best:
            raise ValueError(f"'always' names {len(self.always)} models and best is {self.best}; raise best")
        return self


class TrainerUse(PluginUse):
    """One trainer with its settings, the trainers of the same protocol whose networks it needs, and the models it fits."""

    models: Annotated[Selection | None, BeforeValidator(_only)] = Field(
        None, description="the models it fits: a list of labels, or {best: N, of: TRAINER}; all if not given"
    )

    warm_start: str | None = Field(
        None, min_length=1, description="label of the trainer whose weights, of the same model and seed, training starts from"
    )
    reference: str | None = Field(
        None, min_length=1, description="label of the trainer whose network the method looks at, where it looks at one"
    )


class TransferSource(Params):
    """The network on which a transfer attack's images are made: of another trainer of the protocol, or another model too."""

    trainer: str = Field(min_length=1, description="label of the trainer; a text alone means this")
    model: str | None = Field(None, min_length=1, description="label of the model; that of the network attacked if not given")


def _trainer(value: Any) -> Any:
    return {"trainer": value} if isinstance(value, str) else value


class AttackUse(PluginUse):
    """One attack with its settings, and the attack and the network of the same protocol that it builds on."""

    after: str | None = Field(
        None,
        min_length=1,
        description="label of the attack that comes before it in a cascade: an image that it broke is not attacked again, and"
        " counts as broken by both",
    )
    transfer_from: Annotated[TransferSource | None, BeforeValidator(_trainer)] = Field(
        None,
        description="trainer, or {trainer, model}, on whose network of the same seed the images are made; the network itself if"
        " not given",
    )


Use = Annotated[PluginUse, BeforeValidator(_named)]
Uses = Annotated[tuple[Use, ...], BeforeValidator(_listed)]


class Source(Params):
    """Where images come from: a reader with its settings, and what is taken of its images."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    reader: str = Field(description="name of the reader, as `cxr-eval plugins list readers` prints it")
    rename: dict[str, str] | None = Field(
        None, min_length=1, description="new names of classes or findings, {OLD: NEW}; several may become one class"
    )
    images: int | None = Field(None, ge=1, description="images taken at most, drawn by class with the split's seed")

    @property
    def settings(self) -> dict[str, Any]:
        """The reader's own settings as written."""
        return dict(self.__pydantic_extra__ or {})


class MainSource(Source):
    """The images to train on, and what stands in for them where they are not there."""

    when_missing: str | None = Field(
        None, description="reader used instead where `root` names an environment variable that is not set; the demonstration"
    )


Sources = Annotated[tuple[Source, ...], Field(min_length=1), BeforeValidator(_one_source)]


class Split(Params):
    """How images are divided where the manifest does not say; whole patients, stratified by class."""

    val: float = Field(0.15, gt=0, lt=1, description="share of patients for validation")
    test: float = Field(0.2, gt=0, lt=1, description="share of patients for the test")
    seed: int = Field(0, ge=0, description="seed of the division")

    @model_validator(mode="after")
    def _something_left(self) -> Split:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must leave patients to train on, got {self.val:g} + {self.test:g}")
        return self


class Augment(Params):
    """Random changes of training images: one affine map a picture, drawn anew each epoch."""

    rotate: float = Field(0.0, ge=0, le=180, description="largest rotation, degrees to either side")
    shift: float = Field(0.0, ge=0, le=0.5, description="largest shift, share of the image's side")
    shear: float = Field(0.0, ge=0, le=45, description="largest shear, degrees to either side")
    scale: float = Field(0.0, ge=0, le=0.5, description="largest change of size, share to either side")
    flip: bool = Field(False, description="left-right flip of every second image")


FINDINGS = (
    *("near_duplicates", "near_duplicates_across", "near_duplicate_labels", "flat_images", "inverted_images", "inverted_set"),
    *("burned_in", "region_doubt", "label_doubt", "view_is_label", "sex_is_label", "age_is_label", "marks_is_label"),
    *("association_reversed", "source_recognised", "view_recognised", "sex_recognised", "sets_differ"),
    *("bad_files", "patients_unknown", "source_is_label", "few_patients", "dark_images", "label_conflict"),
    *("shared_images", "val_from_train", "val_from_test"),
)
"""What the audit of images may find, loading them included."""


class Audit(Params):
    """What is looked for in the images before anything is trained."""

    duplicates: bool = Field(True, description="look for pictures of one scene under two patients, and across sets")
    correlation: float = Field(0.985, ge=0.9, le=1, description="correlation from which two pictures count as the same scene")
    probe: bool = Field(True, description="let a tiny model tell the source from the picture, and the label from the source")
    pictures: int = Field(24, ge=0, description="suspect pictures shown in the report at most")
    errors: Labels = Field((), description="codes of findings that stop the run, such as near_duplicates; others are warnings")

    @field_validator("errors")
    @classmethod
    def _known(cls, errors: tuple[str, ...]) -> tuple[str, ...]:
        for code in errors:
            if code not in FINDINGS:
                raise ValueError(f"no finding is called '{code}'{nearest(code, FINDINGS) or ': ' + ', '.join(FINDINGS)}")
        return errors


class Data(Params):
    """Which images, how they are prepared and divided."""

    train: MainSource = Field(description="the set that is divided into train, val and test")
    outside: dict[str, Sources] = Field(
        default_factory=dict, description="further test sets by name, each of one reader or a list of them; never trained on"
    )
    classes: Labels | None = Field(None, min_length=2, description="classes in order; those found, sorted, if not given")
    size: int = Field(224, ge=16, le=1024, description="side of the prepared square image, pixels")
    channels: Literal[1, 3] = Field(1, description="1 keeps grey; 3 repeats grey or keeps colour")
    resize: Literal["squash", "pad"] = Field("squash", description="squash ignores the aspect ratio; pad keeps it")
    limit: int | None = Field(None, ge=2, description="images a split at most, drawn by class with the split's seed")
    split: Split = Field(
        Split(),
        description="division by patient, where the manifest has no split column; of a set without val, val / (1 - test) of its"
        " training patients",
    )
    augment: Augment = Field(Augment(), description="random changes of training images")
    on_error: Literal["stop", "skip"] = Field("stop", description="skip: leave bad images out and list them in the report")
    audit: Audit = Field(Audit(), description="what is looked for before anything is trained")


class Train(Training):
    """The shared training settings, and the seeds that multiply models and trainers."""

    seeds: Whole = Field((0,), description="one cell a model, trainer and seed")


class Condition(PluginUse):
    """State of the images that are explained: `clean`, an attack with one radius, or a corruption of one severity."""


REFERENCES = ("oracle", "random", "centre", "edges", "lungs", "constant", "randomised")
"""Maps that say what a metric's number is worth: the mask, noise, a blob, edges, the lungs, nothing, a random network's map."""


class Explain(Params):
    """What is explained, how, and which metrics judge it."""

    methods: Uses = Field(min_length=1, description="explainers")
    metrics: Uses = Field((), description="explanation metrics")
    conditions: Annotated[tuple[Annotated[Condition, BeforeValidator(_named)], ...], BeforeValidator(_listed)] = Field(
        (Condition(name="clean"),), min_length=1, description="clean, attacks with one radius, corruptions of one severity"
    )
    images: int = Field(100, ge=1, description="test images explained; those with masks or boxes first, then by class")
    split: str = Field("test", description="split whose images are explained")
    references: Labels = Field(
        REFERENCES, description="maps without a method that every metric is computed on too, on clean images"
    )
    target: Literal["label", "predicted", "finding"] = Field(
        "label", description="the class that is explained; finding: each one of which the image has a box or mask"
    )


Statement = Annotated[str | None, Field(min_length=1, max_length=2000)]


class PublishedNumbers(Params):
    """Numbers of one method on one set; what is not named holds for any."""

    model: str | None = Field(None, description="label of the model")
    trainer: str | None = Field(None, description="label of the trainer")
    split: str | None = Field(None, description="test, or an outside set")
    condition: str | None = Field(None, description="clean, or ATTACK:EPS")
    explainer: str | None = Field(None, description="label of the explainer")
    values: dict[str, float] = Field(min_length=1, description="numbers by metric, as rows.csv names it")


class Published(Params):
    """Numbers from one publication, shown beside ours in columns of their own."""

    source: str = Field(min_length=1, description="paper, table")
    short: str = Field(min_length=1, max_length=40, description="heading of its column")
    data: str = Field(min_length=1, description="on which images they were measured")
    numbers: Annotated[tuple[PublishedNumbers, ...], BeforeValidator(_listed)] = Field(min_length=1, description="the numbers")


class About(Params):
    """What only the authors know; the report quotes it as theirs, in checklists and cards, and checks none of it."""

    intended_use: Statement = Field(None, description="what the networks are for")
    out_of_scope: Statement = Field(None, description="what they are not for")
    users: Statement = Field(None, description="who is to use them")
    data_source: Statement = Field(None, description="institutions, dates, how the collection came about")
    licence: Statement = Field(None, description="terms of data and networks")
    ethics: Statement = Field(None, description="approval by an ethics committee, protection of data")
    consent: Statement = Field(None, description="consent of the patients, or its waiver")
    annotation: Statement = Field(None, description="what the labels mean, who gave them, with which tools")
    limitations: Statement = Field(None, description="limits that no run can see")
    contact: Statement = Field(None, description="whom to ask")
    funding: Statement = Field(None, description="funding, and the role of the funders")
    registration: Statement = Field(None, description="registry and number of the study")


FORMATS = ("html", "md", "csv", "json", "latex", "pdf")
"""What a report can be written as."""


class Report(Params):
    """What is written at the end."""

    formats: Names = Field(("html", "md"), description="html, md, json, latex, pdf (by the extra pdf); csv is always written")
    gallery: int = Field(12, ge=0, description="explained images shown with maps")
    about: About = Field(About(), description="what only the authors know, quoted as theirs in checklists and cards")
    published: Annotated[tuple[Published, ...], BeforeValidator(_listed)] = Field(
        (), description="published numbers that stand beside ours"
    )

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in formats if name not in FORMATS]
        if unknown:
            raise ValueError(f"expected {', '.join(FORMATS)}, got '{unknown[0]}'{nearest(unknown[0], FORMATS)}")
        return formats


class Protocol(Params):
    """One evaluation from data to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80, description="letters, digits, . _ -")
    title: str | None = Field(None, max_length=200, description="headline of the report; the name if not given")
    cite: str | None = Field(None, description="paper that the protocol follows")
    data: Data
    models: Uses = Field(min_length=1, description="networks")
    train: Train = Field(Train(), description="settings of the loop that every trainer shares")
    trainers: Annotated[tuple[Annotated[TrainerUse, BeforeValidator(_named)], ...], BeforeValidator(_listed)] = Field(
        min_length=1, description="training methods"
    )
    attacks: Annotated[tuple[Annotated[AttackUse, BeforeValidator(_named)], ...], BeforeValidator(_listed)] = Field(
        (), description="attacks, each with its radii"
    )
    corruptions: Uses = Field((), description="corruptions, each with its severities")
    explain: Explain | None = Field(None, description="explanations; none are made if not given")
    evaluate: Evaluate = Field(Evaluate(), description="how networks are evaluated")
    report: Report = Field(Report(), description="what is written at the end")
    demonstration: dict[str, Any] | None = Field(
        None, description="changes to this protocol that hold only where `when_missing` steps in for images that are not there"
    )
