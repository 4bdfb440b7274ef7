"""Items about networks, how they were trained, and what they give."""

from __future__ import annotations

from cxr_eval.report.checklists.answers import Answer, answered, listed, missing, partly
from cxr_eval.report.checklists.known import Known
from cxr_eval.report.verdict import plural
from cxr_eval.report.words import settings

OURS = "cxr-eval"


def architecture(known: Known) -> Answer:
    """What the networks are."""
    sizes = {cell["model"]: cell["parameters"] for cell in known.done if cell.get("parameters") is not None}
    told = [
        f"{use['label']} ({use['source']}" + (f"; {int(sizes[use['label']]):,} parameters)" if use["label"] in sizes else ")")
        for use in known.manifest["models"]
    ]
    said = f"{listed(told, 3)}: {known.data['size']} by {known.data['size']} pixels in, one number a class out."
    return partly(said, "a description layer by layer, for which the sources named are to be read", "how")


def software(known: Known) -> Answer:
    """Libraries with versions."""
    packages = [f"{name} {number}" for name, number in known.manifest["versions"].items() if number]
    return answered(f"Versions stand in a table: {listed(packages, 4)}. Python {known.manifest['machine']['python']}.", "how")


def initialisation(known: Known) -> Answer:
    """What training starts from."""
    loaded = [label for label, given in known.settings("models") if given.get("weights")]
    later = [f"{use['label']} from {use['warm_start']}" for use in known.manifest["trainers"] if use.get("warm_start")]
    foreign = [use["label"] for use in known.manifest["models"] if not str(use["origin"]).startswith(OURS)]
    fresh = [label for label, given in known.settings("models") if not given.get("weights") and label not in foreign]
    said = [f"{listed(fresh)}: random start, drawn by the seed"] if fresh else []
    said += [f"{listed(loaded)}: trained weights, named in the settings"] if loaded else []
    said += [f"trainers that start from another's networks: {listed(later)}"] if later else []
    drawn = known.results.seeds
    seeds = f"{'seed' if len(drawn) == 1 else 'seeds'} {listed([str(seed) for seed in drawn])}"
    if foreign:
        return partly("; ".join([*said, seeds]) + ".", f"what {listed(foreign)}, of other packages, start from", "how")
    return answered("; ".join([*said, seeds]) + ".", "how")


def training(known: Known) -> Answer:
    """How the networks were trained."""
    train = known.manifest["train"]
    if not {"epochs", "optimizer", "schedule"} <= set(train):
        return partly(f"Settings: {settings(train)}.", "settings of the training that this run's folder does not hold", "how")
    trainers = [f"{label} ({settings(given)})" if given else label for label, given in known.settings("trainers")]
    networks = plural(len(known.manifest["cells"]), "network")
    return answered(
        f"{networks}; trainers {listed(trainers, 3)}; at most {train['epochs']} epochs, batches of {train['batch_size']},"
        f" optimizer {train['optimizer']['name']}, schedule {train['schedule']['name']}; all settings are listed.",
        "how",
    )


def selection(known: Known) -> Answer:
    """Which of the networks of a training was kept."""
    select = known.manifest["train"].get("select")
    if not select:
        return missing("", "which epoch's network was kept")
    metric = str(select["metric"])
    said = (
        "The last epoch was kept"
        if metric == "last"
        else f"The epoch with the best validation {metric.replace('_', ' ')} was kept"
    )
    second = [use["label"] for use in known.manifest["trainers"] if isinstance(use.get("models"), dict)]
    if second:
        said += f"; {listed(second)} was fitted to the best models only, by validation images"
    return answered(f"{said}; hyper-parameters were not tuned in this run, which does not say how they were found.", "how")


def ensembles(known: Known) -> Answer:
    """Whether networks answer together."""
    return answered(
        "Networks are scored one by one and not joined; a number of several seeds is the mean of single networks' scores.",
        "main-results",
    )


def development(known: Known) -> Answer:
    """Kind of model, its building and how it was validated inside."""
    made = training(known)
    kept = selection(known)
    said = f"{made.said.partition(' What lacks:')[0]} {kept.said if kept.state == 'answered' else ''}".strip()
    return partly(said, "why these models and settings were chosen, and whether they were tuned before", "how")


def output(known: Known) -> Answer:
    """What the networks give, and how it becomes a call."""
    kind = "a probability for each finding" if known.manifest["task"] == "multilabel" else "a probability for each class"
    point = (known.manifest["evaluate"].get("operating_point") or {}).get("rule")
    if known.has("sensitivity") and point:
        said = f"Networks give {kind}; thresholds of calls come from validation images (rule: {point})."
        return partly(said, "why this rule fits the intended use", "clinical")
    return partly(f"Networks give {kind}.", "thresholds and their reasons", "how")


def predictors(known: Known) -> Answer:
    """What the model looks at: the pixels."""
    data = known.data
    return answered(
        f"The only predictor is the image: {data['size']} by {data['size']} pixels in {plural(data['channels'], 'channel')};"
        " no clinical variable is given to the networks.",
        "how",
    )


def handling(known: Known) -> Answer:
    """How pixels become inputs."""
    return partly(
        "Grey values are brought to [0, 1]; normalisation is part of the network.", "the sampling of the pixels in words", "how"
    )


def specification(known: Known) -> Answer:
    """Whether others can run the model."""
    foreign = sorted({str(use["origin"]) for use in known.manifest["models"] + known.manifest["trainers"]})
    return missing(
        f"Each network is named by a key and made again by the protocol with {listed(foreign)}.",
        "where the trained networks can be had, with a way to run them on one image",
    )


def code(known: Known) -> Answer:
    """Whether others can run the analysis."""
    hashes = f"protocol {known.manifest['protocol']['hash']}, data {known.data['hash'][:16]}"
    return partly(
        f"The protocol is printed in full, versions are listed, and hashes name what was run ({hashes}).",
        "where the code of this version, plugins and the trained networks can be had",
        "how",
    )


RULES = (
    *(architecture, software, initialisation, training, selection, ensembles, development, output, predictors, handling),
    *(specification, code),
)
