"""Every trainer that is installed keeps the contract: a new one is checked without a line here."""

import pytest

from cxr_eval import registry
from cxr_eval.testing import parametrize_with_checks

ALTERNATIVES = {
    "awp": [{"gamma": 0.0}],
    "amat": [{"norm": "l2", "eps": 0.15}, {"refine": True}],
    "dpaat": [{"norm": "l2", "eps": 0.2}, {"state": "batch"}, {"recraft": True, "delta": "adversarial", "average": "ema"}],
    "fgsm": [{"fraction": 0.5}, {"eps_min": 0.01, "random_start": True, "adversarial_weight": 1.0}],
    "noise": [{"sigma": 0.0}],
    "pgd": [{"norm": "l2", "eps": 0.2}, {"clean_weight": 0.5, "random_start": False}],
    "sg": [{"fill": "mean", "saliency_target": "argmax"}],
    "sga": [{"k": 0.0}, {"eps_min": 0.04}],
    "trades": [{"norm": "l2", "eps": 0.2}, {"beta": 1.0}],
}
"""Other settings than the defaults, one or a few for each trainer of ours."""

SUBJECTS = [
    (registry.find("trainers", name), settings)
    for name in registry.names("trainers")
    for settings in ({}, *ALTERNATIVES.get(name, []))
]


@parametrize_with_checks(SUBJECTS)
def test_every_trainer_keeps_the_contract(check):
    check()


def test_the_alternatives_are_of_trainers_that_there_are():
    assert set(ALTERNATIVES) <= set(registry.names("trainers"))


@pytest.mark.parametrize("name", ["standard", "fgsm", "pgd", "trades", "awp", "noise", "dpaat", "amat", "sg", "sga"])
def test_the_trainers_that_are_promised_are_checked(name):
    assert registry.find("trainers", name) in {trainer for trainer, _ in SUBJECTS}
