"""Robust accuracy and its doubts from arrays: closed form, tables, and one line for everything that cannot be right."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cxr_eval
from cxr_eval.robustness import RobustAccuracy, Validity

_spec = importlib.util.spec_from_file_location("broken_defences", Path(__file__).with_name("broken_defences.py"))
zoo = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = zoo  # dataclasses look their module up
_spec.loader.exec_module(zoo)


@pytest.mark.parametrize(("norm", "radii"), [("linf", (0.0, 0.02, 0.05)), ("l2", (0.0, 0.3, 0.6))])
@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_robust_accuracy_of_a_plane_is_the_share_of_margins_beyond_reach(norm, radii, preset):
    net = zoo.trained(zoo.linear, outputs=2)
    x, y = zoo.data("two")
    with torch.no_grad():
        weight, logits = (net[1].weight[1] - net[1].weight[0]).double(), net(x).double()
    lead = torch.where(y == 1, logits[:, 1] - logits[:, 0], logits[:, 0] - logits[:, 1])
    length = weight.abs().sum() if norm == "linf" else weight.norm()
    assert all(((lead - eps * length).abs() > 1e-4).all() for eps in radii)  # float32 decides none of them
    found = cxr_eval.robust_accuracy(net, x, y, radii, norm, preset, device="cpu")
    assert [at.eps for at in found.curve] == list(radii)
    assert [at.robust_accuracy for at in found.curve] == [float((lead > eps * length).double().mean()) for eps in radii]
    assert 0 < found.curve[-1].robust_accuracy < 1


def test_robust_accuracy_says_what_broke_how_many_and_prints_it_as_a_table():
    x, y = zoo.data("classes")
    found = cxr_eval.robust_accuracy(zoo.trained(), x, y, ["8/255", 0], preset="standard", device="cpu")
    assert isinstance(found, RobustAccuracy)
    clean, attacked = found.curve
    assert (clean.robust_accuracy, clean.high, clean.n, clean.broken) == (1.0, 1.0, 120, {})
    assert clean.low == pytest.approx(1 - (1 - 0.025 ** (1 / 120)))  # Clopper-Pearson at 120 of 120
    assert sum(attacked.broken.values()) == round(120 * (1 - attacked.robust_accuracy)) > 0
    assert attacked.low <= attacked.robust_accuracy <= attacked.high
    assert len(found.outcomes) == 240
    lines = repr(found).splitlines()
    assert lines[0] == "standard attacks, linf"
    assert lines[1].split("  ")[0] == "eps"
    assert lines[2].split() == ["0", "1.000", "0.970", "to", "1.000", "120", "-"]
    assert lines[3].startswith("8/255  0.9")


def test_the_strongest_preset_breaks_no_fewer_images_than_the_others():
    x, y = zoo.data("findings")
    net = zoo.trained(outputs=3, kind="findings")
    curves = [
        cxr_eval.robust_accuracy(net, x, y, [0.03], preset=preset, images=20, device="cpu").curve[0].robust_accuracy
        for preset in ("quick", "standard", "strong")
    ]
    assert curves == sorted(curves, reverse=True)
    assert curves[-1] < 1


def test_intervals_resample_patients_where_they_are_told_apart():
    x, y = zoo.data("classes")
    alone, together = (
        cxr_eval.robust_accuracy(zoo.trained(), x, y, 0.04, preset="quick", patients=patients, device="cpu").curve[0]
        for patients in (None, ["one"] * 120)
    )
    assert alone.low < alone.robust_accuracy < alone.high
    assert together.robust_accuracy == alone.robust_accuracy
    assert np.isnan(together.low)  # one patient says nothing about others


def test_arrays_tensors_and_doubles_give_the_same_numbers():
    x, y = zoo.data("classes")
    found = [
        cxr_eval.robust_accuracy(zoo.trained(), images, labels, 0.04, preset="quick", images=30, device="cpu").curve
        for images, labels in ((x, y), (x.numpy(), y.numpy()), (x.double().numpy(), y.to(torch.int32)))
    ]
    assert found[0] == found[1] == found[2]


def test_a_validity_prints_its_verdict_and_every_check():
    x, y = zoo.data("classes")
    found = cxr_eval.check_validity(zoo.Around(after=zoo.one_hot), x, y, "8/255", images=20, device="cpu")
    assert isinstance(found, Validity)
    assert found.verdict == "FAIL"
    assert found["zero_gradients"].verdict == "FAIL"
    lines = repr(found).splitlines()
    assert lines[0] == "FAIL: 20 images, linf radius 8/255"
    assert max(map(len, lines)) <= 120
    assert all(any(check.code in line and line.startswith(check.verdict) for line in lines) for check in found.checks)
    with pytest.raises(KeyError):
        found["no_such_check"]


def test_a_validity_is_as_bad_as_its_worst_check():
    x, y = zoo.data("classes")
    honest = cxr_eval.check_validity(zoo.trained(), x, y, images=40, surrogate=zoo.trained(zoo.linear), device="cpu")
    assert honest.verdict == "PASS"
    assert honest["transfer_beats_white_box"].verdict == "PASS"
    softmax = zoo.Around(after=lambda z: z.softmax(dim=1))
    assert cxr_eval.check_validity(softmax, x, y, images=40, device="cpu").verdict == "WARN"


def test_one_logit_serves_two_classes_and_names_are_taken():
    x, y = zoo.data("two")
    net = zoo.trained(outputs=1, kind="one logit")
    found = cxr_eval.robust_accuracy(net, x, y, 0, preset="quick", classes=["normal", "pneumonia"], device="cpu")
    assert set(found.outcomes["label"]) == {"normal", "pneumonia"}
    assert found.curve[0].robust_accuracy == 1


X, Y = zoo.data("classes")
FINDINGS = zoo.data("findings")[1]


class OneAtATime(torch.nn.Module):
    """Four classes for a batch of one image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(256, 4))

    def forward(self, x):
        if len(x) != 1:
            raise RuntimeError("only one image at a time")
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (X * 255).to(torch.uint8)}, "expected images as floats in [0, 1], got torch.uint8; divide by"),
        ({"x": X * 255}, "expected images in [0, 1], got"),
        ({"x": X * torch.nan}, "expected images in [0, 1], got nan"),
        ({"x": X[:, 0]}, "expected images (N, C, H, W) with N at least 1, got (120, 16, 16)"),
        ({"x": X[:0], "y": Y[:0]}, "expected images (N, C, H, W) with N at least 1, got (0, 1, 16, 16)"),
        ({"x": ["a.png"]}, "expected images as an array or a tensor of numbers, got list"),
        ({"y": Y[:7]}, "expected labels (N,) or (N, K) for 120 images, got (7,)"),
        ({"task": "multilabel"}, "expected labels (N, K) for 120 images, got (120,)"),
        ({"y": Y + 1}, "expected labels from 0 to 3, which the model has logits for, got 4"),
        ({"y": Y - 1}, "expected class indices from 0 on, got -1"),
        ({"y": Y.float()}, "expected class indices as whole numbers, got torch.float32"),
        ({"y": FINDINGS}, "expected labels (120, 4), at least two findings, got (120, 3)"),
        ({"y": FINDINGS * 2}, "expected findings of 0, 1 and NaN (unknown), got other numbers"),
        ({"y": FINDINGS * torch.nan}, "120 of 120 images have no known finding; leave them out"),
        ({"eps": 8}, "eps 8 is in pixel units of [0, 1] and cannot exceed 1; did you mean 8/255?"),
        ({"eps": -0.1}, "expected a radius of at least 0, got -0.1"),
        ({"eps": "a lot"}, "expected a number such as 0.02 or a fraction such as 8/255"),
        ({"norm": "l1"}, "norm 'l1': expected linf or l2"),
        ({"classes": ["a", "b"]}, "expected 4 different class names, got a, b"),
        ({"x": X.expand(-1, 3, -1, -1)}, "the model cannot take images (1, 3, 16, 16): "),
        ({"model": torch.nn.Identity()}, "expected logits (1, K) for one image, the model gives (1, 1, 16, 16)"),
        ({"images": 0}, "got 0"),
        ({"seed": "a"}, "seed: expected a whole number from 0 to 4294967295, got text 'a'"),
        ({"seed": -1}, "seed: expected a whole number from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed: expected a whole number from 0 to 4294967295, got 4294967296"),
        ({"seed": 0.5}, "seed: expected a whole number from 0 to 4294967295, got 0.5"),
        (
            {"model": OneAtATime()},
            "the model cannot take images (2, 1, 16, 16): only one image at a time; attacks change many at once, so let its"
            " forward take a batch of any size",
        ),
        (
            {"model": zoo.Around(after=lambda z: z.mean(dim=0, keepdim=True))},
            "expected logits (2, K) for two images, the model gives (1, 4); attacks change many at once",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(changes, message):
    given = {"model": zoo.trained(), "x": X, "y": Y, "eps": 0.05, "device": "cpu", **changes}
    for function in (cxr_eval.check_validity, cxr_eval.robust_accuracy):
        with pytest.raises(ValueError) as raised:  # noqa: PT011  # the text is compared below
            function(**given)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def test_what_only_one_of_the_functions_cannot_do_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"preset 'hard': expected quick, standard, strong"):
        cxr_eval.robust_accuracy(zoo.trained(), X, Y, preset="hard")
    with pytest.raises(ValueError, match=r"expected at least one radius, got none"):
        cxr_eval.robust_accuracy(zoo.trained(), X, Y, [])
    with pytest.raises(ValueError, match=r"expected a patient for each of 120 images, got 1"):
        cxr_eval.robust_accuracy(zoo.trained(), X, Y, patients=["a"])
    with pytest.raises(ValueError, match=r"has no gradient at all.*see check_validity"):
        cxr_eval.robust_accuracy(zoo.Around(after=zoo.one_hot), X, Y, device="cpu")
    with pytest.raises(ValueError, match=r"expected eps above 0"):
        cxr_eval.check_validity(zoo.trained(), X, Y, 0)
    with pytest.raises(ValueError, match=r"expected images from 1 to 100, got 101"):
        cxr_eval.check_validity(zoo.trained(), X, Y, images=101)


def test_the_package_loads_no_torch_until_a_function_is_asked_for():
    script = (
        "import sys, cxr_eval; assert 'torch' not in sys.modules; assert 'check_validity' in dir(cxr_eval);"
        " cxr_eval.robust_accuracy; assert 'torch' in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False)
    assert ran.returncode == 0, ran.stderr
    with pytest.raises(AttributeError, match="module 'cxr_eval' has no attribute 'robustness_of'"):
        cxr_eval.robustness_of  # noqa: B018
