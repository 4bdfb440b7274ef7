"""Robustness and interpretability evaluation of chest X-ray classifiers, from one protocol to one report."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_eval.robustness import RobustAccuracy, Validity, check_validity, robust_accuracy

__version__ = _version("cxr-eval")
__all__ = ["RobustAccuracy", "Validity", "__version__", "check_validity", "robust_accuracy"]


def __getattr__(name: str) -> object:
    """The functions for arrays, loaded when first asked for: the command line must start without torch."""
    if name in __all__:
        return getattr(_import_module("cxr_eval.robustness"), name)
    raise AttributeError(f"module 'cxr_eval' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
