"""Items about maps that explain answers."""

from __future__ import annotations

from cxr_eval.report.checklists.answers import Answer, answered, listed, missing, partly
from cxr_eval.report.checklists.known import Known, span
from cxr_eval.report.tables import spoken
from cxr_eval.report.verdict import plural

NOT_BETTER = "not_better_than_"


def explainability(known: Known) -> Answer:
    """Which maps were made, and how they were validated."""
    results = known.results
    methods = [label for label, _ in known.settings("explainers")]
    if not methods:
        return missing("No explanations were made.", "how the networks' answers are explained, and how that was validated")
    said = f"Maps of {listed(methods)}"
    if not results.explained():
        return partly(
            f"{said}.",
            "any measure of them: pictures alone validate nothing",
            "explanations",
        )
    proof, lacks = [], []
    if known.localised:
        metric = known.localised[0][1]
        counts = [score.n[0] for _, _, score in known.localised]
        least = plural(min(counts), "image")
        proof.append(
            f"measured against known regions ({spoken(metric)} {span([s for _, _, s in known.localised])}, at least {least})"
        )
    else:
        lacks.append("a measure against known regions")
    references = [name for name in results.references if name]
    if references:
        proof.append(f"set beside reference maps ({listed(references)})")
    else:
        lacks.append("comparison with reference maps")
    families = {str(use.get("family")) for use in known.manifest["explanation_metrics"]}
    if "randomisation" in families:
        proof.append("tested by randomising the network")
    doubts = {code: n for code, n in known.codes.items() if code.startswith(NOT_BETTER)}
    poor = ""
    if doubts:
        told = listed(
            [f"not better than {code.removeprefix(NOT_BETTER).replace('_', ' ')} in {count}" for code, count in doubts.items()]
        )
        poor = f" The result is poor for some maps: {told} of the comparisons; see the warnings."
    if not proof:
        return partly(f"{said}.{poor}", listed(lacks), "explanations")
    full = f"{said}, {listed(proof)}.{poor}"
    if not known.localised and not references:
        return partly(full, listed(lacks), "explanations")
    return answered(f"{full} No person was asked.", "explanations")


def with_users(known: Known) -> Answer:
    """Whether those who will read the maps found them of use."""
    made = explainability(known)
    if made.state == "not provided":
        return missing(made.said.partition(" For the authors")[0], "what explanations the users need, and a test with them")
    said = made.said.partition(" What lacks:")[0].removesuffix(" No person was asked.")
    return partly(said, "any test with the people who are to use the maps", made.anchor)


RULES = (explainability, with_users)
