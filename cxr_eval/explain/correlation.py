"""Correlation of maps, image by image."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from cxr_eval.explain.quantus_adapter import FloatArray, in_rows, spread


def rows_correlated(a: FloatArray, b: FloatArray) -> FloatArray:
    """Pearson correlation of each row of a with the same row of b, (N,); NaN where a row is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlation = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), norm, out=correlation, where=norm > 0)
    return correlation


def rank_correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Spearman correlation of each map of a with the same map of b (N, H, W), (N,); NaN where one is constant or not finite."""
    known = np.asarray(np.isfinite(a).all(axis=(1, 2)) & np.isfinite(b).all(axis=(1, 2)), dtype=bool)
    return spread(rows_correlated(*(rankdata(in_rows(maps[known]), axis=1) for maps in (a, b))), known)
