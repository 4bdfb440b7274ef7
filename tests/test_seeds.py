"""Seeds: streams that differ by name, and the global generators, seeded inside and untouched after."""

import random

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.seeds import stream


def drawn():
    return random.random(), np.random.rand(), torch.rand(()).item()


def states():
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()


def test_the_same_seed_draws_the_same_numbers_from_every_global_generator_and_leaves_them_alone():
    before = states()
    found = []
    for seed in (3, 3, 4):
        with cxr.seeded(seed):
            found.append(drawn())
    assert states() == before
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


def test_the_generators_come_back_after_an_error_too():
    def fail():
        with cxr.seeded(0):
            drawn()
            raise KeyError

    before = states()
    with pytest.raises(KeyError):
        fail()
    assert states() == before


def test_streams_differ_by_seed_and_name_and_fit_numpy():
    seeds = [stream(seed, *names) for seed in (0, 1) for names in (("noise", 0), ("noise", 1), ("order", 0))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert stream(0, "noise", 0) == seeds[0]
