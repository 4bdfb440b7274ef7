"""Robustness and interpretability evaluation of chest X-ray classifiers, from one protocol to one report."""

from importlib.metadata import version as _version

__version__ = _version("cxr-eval")
