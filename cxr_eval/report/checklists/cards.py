"""A card for each model and one for the data: what the run tells of them, what the authors stated, and what is not stated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cxr_eval.report import verdict
from cxr_eval.report.checklists import of_data, of_explanations, of_results
from cxr_eval.report.checklists.answers import Answer, listed
from cxr_eval.report.checklists.known import Known
from cxr_eval.report.results import plain
from cxr_eval.report.tables import Cell, Table, Words, main_table
from cxr_eval.report.words import settings, with_needs

NOT_STATED = "Not stated."
MEASURE = "Measure"
MARKS = (
    "★: best of its line. †: a warning of the report names this number. n/a: not defined, or withheld."
    " In brackets: 95 % interval."
)


@dataclass(frozen=True)
class Heading:
    """One heading of a card: sentences, then tables."""

    title: str
    said: list[str]
    tables: list[Words] = field(default_factory=list)
    numbers: list[Words] = field(default_factory=list)
    """Tables of the report's own numbers: the card's file repeats them, the page leads to them."""


@dataclass(frozen=True)
class Card:
    """A card as the page and its own file show it."""

    title: str
    headings: list[Heading]


def model_cards(known: Known) -> list[Card]:
    """A card for each model, with all its trainers inside; headings of Mitchell et al., FAT* 2019, arXiv:1810.03993."""
    return [Card(f"Model card: {model}", list(_of_model(known, model))) for model in known.results.models]


def data_card(known: Known) -> Card:
    """The card of the data: where it is from, what is in it, what was left out, and what an audit found."""
    return Card("Data card", list(_of_data(known)))


def _stated(known: Known, *keys: str) -> list[str]:
    """What the authors stated, each under its name; the names of what they did not state follow in one line."""
    said = [f"{_name(key)}, stated by the authors: {plain(known.about[key])}" for key in keys if key in known.about]
    without = [_name(key) for key in keys if key not in known.about]
    return [*said, *([f"{listed(without)}: not stated."] if without else [])]


def _name(key: str) -> str:
    return key[:1].upper() + key[1:].replace("_", " ")


def _told(answer: Answer) -> str:
    return answer.said or NOT_STATED


def _of_model(known: Known, model: str) -> Iterator[Heading]:
    manifest, results = known.manifest, known.results
    use = next(use for use in manifest["models"] if use["label"] == model)
    cells = [cell for cell in manifest["cells"] if cell["model"] == model]
    trained = [cell for cell in cells if cell["status"] != "failed"]
    sizes = {int(cell["parameters"]) for cell in trained if cell.get("parameters") is not None}
    uses = {trainer["label"]: trainer for trainer in manifest["trainers"]}
    rows = [
        [with_needs(name, uses[name]), settings(uses[name]["settings"]), uses[name]["source"], str(done), str(failed)]
        for name in results.trainers
        for mine in [[cell for cell in cells if cell["trainer"] == name]]
        for done, failed in [(sum(c["status"] != "failed" for c in mine), sum(c["status"] == "failed" for c in mine))]
        if mine
    ]
    yield Heading(
        "Model details",
        [
            f"{use['name']} ({use['source']}), from {use['origin']}; settings: {settings(use['settings'])}.",
            f"Parameters: {listed([f'{size:,}' for size in sorted(sizes)]) if sizes else 'not known'}. Networks made in run"
            f" “{manifest['name']}”, finished {manifest['finished']}.",
            *_stated(known, "contact", "licence"),
        ],
        [Words(f"Trainers of {model}", ("Trainer", "Settings", "Source", "Networks", "Failed"), rows)],
    )
    yield Heading("Intended use", _stated(known, "intended_use", "users", "out_of_scope"))
    columns = list(results.subgroups)
    scored = f"Scored apart: {listed(columns)}." if columns else "No group of patients was scored apart."
    changes = [label for kind in ("attacks", "corruptions") for label, _ in known.settings(kind)]
    yield Heading("Factors", [scored, f"Changed images: {listed(changes)}." if changes else "No changed images were tried."])
    yield Heading("Metrics", [_told(of_results.metrics(known)), _told(of_results.uncertainty(known))])
    tested = [name for name in known.splits if name not in ("train", "val")]
    yield Heading(
        "Evaluation data",
        [*(f"“{name}”: {known.size(name)}." for name in tested), _told(of_results.external(known)), "See the data card."],
    )
    fitted = [name for name in ("train", "val") if name in known.splits]
    yield Heading("Training data", [*(f"“{name}”: {known.size(name)}." for name in fitted), "See the data card."])
    numbers = [words for split in results.splits if (table := main_table(results, split)) and (words := as_words(table, model))]
    yield Heading("Quantitative analyses", [] if numbers else ["Nothing was measured."], numbers=numbers)
    yield Heading("Ethical considerations", [*_stated(known, "ethics", "consent"), _told(of_results.fairness(known))])
    serious = sum(warning.level in ("fail", "warn") for warning in results.warnings)
    yield Heading(
        "Caveats and recommendations",
        [
            *_stated(known, "limitations"),
            f"The run stored {verdict.plural(serious, 'warning')}; the report lists them above its numbers.",
            _told(of_explanations.explainability(known)),
            *(f"Not tested: {item}" for item in verdict.not_tested(results)),
        ],
    )


def _of_data(known: Known) -> Iterator[Heading]:
    yield Heading(
        "Source",
        [
            *_stated(known, "data_source", "licence"),
            _told(of_data.data_source(known)),
            f"Hash of all images and labels: {known.data['hash']}.",
        ],
    )
    yield Heading(
        "What was taken and what was left out", [_told(of_data.eligibility(known)), _told(of_data.missing_data(known))]
    )
    yield Heading("Composition", [_told(of_data.class_imbalance(known))], [*_class_counts(known), *_group_counts(known)])
    yield Heading("Preparation", [_told(of_data.preprocessing(known))])
    yield Heading("How it was divided", [_told(of_data.partitions(known)), _told(of_data.disjoint(known))])
    yield Heading("Labels", [*_stated(known, "annotation"), _told(of_data.reference_standard(known))])
    yield Heading("What the audit found", *_audited(known))
    yield Heading("People", _stated(known, "ethics", "consent", "contact", "funding"))


def _class_counts(known: Known) -> Iterator[Words]:
    if known.counts.empty:
        return
    lines = known.counts.to_dict("records")
    splits = list(dict.fromkeys(str(line["split"]) for line in lines))
    found: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        place = found.setdefault((str(line["class"]), str(line["split"])), [0, 0])
        place[0] += int(line["images"])
        place[1] += int(line["patients"])
    classes = list(dict.fromkeys(name for name, _ in found))
    rows = [[name, *(_pair(found.get((name, split))) for split in splits)] for name in classes]
    yield Words("Images (patients) by class and set", ("Class", *splits), rows)


def _group_counts(known: Known) -> Iterator[Words]:
    for column, lines in known.groups.items():
        splits = list(dict.fromkeys(str(line["split"]) for line in lines))
        found = {(str(line["value"]), str(line["split"])): [int(line["images"]), int(line["patients"])] for line in lines}
        values = list(dict.fromkeys(value for value, _ in found))
        rows = [[value or "unknown", *(_pair(found.get((value, split))) for split in splits)] for value in values]
        yield Words(f"Images (patients) by {column} and set", (_name(column), *splits), rows)


def _pair(counts: list[int] | None) -> str:
    return f"{counts[0]:,} ({counts[1]:,})" if counts else "0 (0)"


def _audited(known: Known) -> tuple[list[str], list[Words]]:
    """Sentences and findings of the audit."""
    if known.audit is None:
        return ["The images were not audited."], []
    findings = [
        [each["code"].replace("_", " "), each["message"]] for each in [*known.audit["loaded"], *known.audit["warnings"]]
    ]
    copies = known.tables.get("duplicates") or ()
    said = (
        f"Copies: {copies[0]['compared']:,} pictures compared, {verdict.plural(int(copies[0]['pairs']), 'pair')} of one scene"
        " under two patients."
        if copies
        else "Copies under two patients were not looked for."
    )
    return [said], [Words("Findings", ("Finding", "What was found"), findings)] if findings else []


def as_words(table: Table, group: str) -> Words | None:
    """One group of a table of numbers as text, a line a number and a column a network; None if there is no such group."""
    lines = next((lines for name, lines in table.groups if name == group), None)
    if lines is None:
        return None
    heads = (MEASURE, *(", ".join(line.heads) for line in lines))
    rows = [
        [f"{head.text} ({head.sub})" if head.sub else head.text, *(_as_text(line.cells[k]) for line in lines)]
        for k, head in enumerate(table.columns)
    ]
    return Words(f"{table.caption}: {group}", heads, rows, f"{table.note} {MARKS}".strip())


def _as_text(cell: Cell) -> str:
    """A number with its interval and the marks that it has on the page."""
    marks = f"{' ★' if cell.best else ''}{' †' if cell.doubt else ''}{' (published)' if cell.published else ''}"
    parts = [f"{cell.text}{' ' + cell.interval if cell.interval else ''}{marks}", cell.spread, cell.n, cell.note]
    return "; ".join(filter(None, parts))
