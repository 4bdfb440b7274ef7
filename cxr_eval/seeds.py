"""Random seeds: streams that do not disturb each other, and libraries that draw from the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stream(seed: int, *names: object) -> int:
    """Seed of one random stream, so that noise, batch order and dropout do not disturb each other; 32 bits, as numpy wants."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """numpy's, torch's (all devices) and Python's global generators seeded inside, and as they were after.

    seed: 0 to 2**32 - 1. For libraries that draw from them; what is ours draws from a generator of its own.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
