"""Robustness and interpretability evaluation of chest X-ray classifiers, from one protocol to one report."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from cxr_eval.notebook import RunResult, run
    from cxr_eval.notebook import open as open
    from cxr_eval.own_network import evaluate
    from cxr_eval.robustness import RobustAccuracy, Validity, check_validity, robust_accuracy

# without `open`: `from cxr_eval import *` must not hide Python's own
__all__ = ["RobustAccuracy", "RunResult", "Validity", "__version__", "check_validity", "evaluate", "robust_accuracy", "run"]

_WHERE = {
    "RobustAccuracy": "robustness",
    "RunResult": "notebook",
    "Validity": "robustness",
    "check_validity": "robustness",
    "evaluate": "own_network",
    "open": "notebook",
    "robust_accuracy": "robustness",
    "run": "notebook",
}


def __getattr__(name: str) -> object:
    """The functions for notebooks, loaded when first asked for: the command line must start without torch."""
    if name == "__version__":
        from importlib.metadata import version  # here, not above: asking for help needs no version

        return version("cxr-eval")
    if name in _WHERE:
        return getattr(_import_module(f"cxr_eval.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'cxr_eval' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, "__version__"})
