"""Our classifier gives ART's attacks what ART's own gives them, restores what it touches, and knows findings and one logit."""

import copy
import logging
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxr_eval.classifier import Classifier, OneLogit, find_device, last_conv
from cxr_eval.criteria import MaskedBCE
from cxr_eval.errors import DeviceError
from cxr_eval.perturb import pgd

from art.attacks import evasion  # isort: skip  # after classifier, which keeps ART off our logging

ATTACKS = [
    # name, settings; every budget is tiny: the images must be equal, not good
    ("FastGradientMethod", {"eps": 0.05, "batch_size": 5}),
    ("FastGradientMethod", {"eps": 0.2, "norm": 2, "batch_size": 5}),
    ("FastGradientMethod", {"eps": 0.5, "minimal": True, "eps_step": 0.05}),
    ("FastGradientMethod", {"eps": 0.3, "num_random_init": 2}),
    ("BasicIterativeMethod", {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "verbose": False}),
    ("MomentumIterativeMethod", {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "verbose": False}),
    ("ProjectedGradientDescent", {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 2, "verbose": False}),
    ("ProjectedGradientDescent", {"eps": 0.3, "eps_step": 0.1, "max_iter": 3, "norm": 2, "verbose": False}),
    ("ProjectedGradientDescentNumpy", {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "verbose": False}),
    ("ProjectedGradientDescent", {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "targeted": True, "verbose": False}),
    ("AutoProjectedGradientDescent", {"eps": 0.1, "max_iter": 4, "nb_random_init": 1, "verbose": False}),
    (
        "AutoProjectedGradientDescent",
        {"eps": 0.1, "max_iter": 4, "nb_random_init": 1, "loss_type": "difference_logits_ratio", "verbose": False},
    ),
    ("AutoConjugateGradient", {"eps": 0.1, "max_iter": 4, "nb_random_init": 1, "loss_type": "cross_entropy", "verbose": False}),
    ("DeepFool", {"max_iter": 4, "verbose": False}),
    ("NewtonFool", {"max_iter": 3, "verbose": False}),
    ("CarliniL2Method", {"max_iter": 10, "binary_search_steps": 2, "initial_const": 10.0, "verbose": False}),
    ("CarliniLInfMethod", {"max_iter": 5, "learning_rate": 0.2, "initial_const": 1.0, "verbose": False}),
    ("ElasticNet", {"max_iter": 10, "binary_search_steps": 2, "initial_const": 10.0, "verbose": False}),
    ("SaliencyMapMethod", {"theta": 0.5, "gamma": 0.5, "verbose": False}),
    ("VirtualAdversarialMethod", {"max_iter": 2, "eps": 0.1, "verbose": False}),
    ("UniversalPerturbation", {"attacker": "fgsm", "max_iter": 2, "eps": 0.3, "verbose": False}),
    ("SquareAttack", {"eps": 0.1, "max_iter": 20, "verbose": False}),
    ("HopSkipJump", {"max_iter": 1, "max_eval": 40, "init_eval": 10, "verbose": False}),
    ("BoundaryAttack", {"max_iter": 3, "targeted": False, "verbose": False}),
    ("SimBA", {"max_iter": 10, "order": "random", "verbose": False}),
    (
        "ZooAttack",
        {
            "max_iter": 10,
            "learning_rate": 0.5,
            "initial_const": 10.0,
            "nb_parallel": 32,
            "use_resize": False,
            "use_importance": False,
            "verbose": False,
        },
    ),
    (
        "SpatialTransformation",
        {"max_translation": 25.0, "num_translations": 3, "max_rotation": 30.0, "num_rotations": 3, "verbose": False},
    ),
]
TARGETED = ("SaliencyMapMethod",)
NEEDS_PROBABILITIES = ("SimBA", "VirtualAdversarialMethod")
NEEDS_A_CAST = ("BoundaryAttack", "HopSkipJump")
"""They make float64 images, which ART's own classifier cannot predict; ours casts them."""
BUILDS_ITS_OWN_CLASSIFIER = ("AutoConjugateGradient", "AutoProjectedGradientDescent")
"""ART wraps the network again when these are given a loss type: what it then leaves behind is not ours to restore."""


def logits_of(model, x):
    with torch.no_grad():
        return model.eval()(torch.as_tensor(x))


class Softmax(torch.nn.Module):
    """A network that gives probabilities, which some attacks insist on."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).softmax(dim=1)


@pytest.fixture(scope="module")
def learned(toys):
    """State of a network that knows the toy images, so that an attack has something to break."""
    x, y = (torch.as_tensor(v) for v in toys.images(60))
    model = toys.build(toys.Bumpy)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(40):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert bool((logits_of(model, x).argmax(dim=1) == y).all())
    return toys.state(model)


@pytest.mark.parametrize(("name", "settings"), ATTACKS, ids=[f"{name}-{k}" for k, (name, _) in enumerate(ATTACKS)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ART divides by zero in some attacks, with either classifier
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # ART's conversion of tensors, likewise
def test_an_art_attack_gives_the_same_images_through_our_classifier(toys, learned, monkeypatch, name, settings):
    x, y = toys.images(6)
    y = np.eye(3, dtype=np.float32)[(y + 1) % 3 if name in TARGETED or settings.get("targeted") else y]
    found = []
    # some attacks make generators of their own, without a seed
    monkeypatch.setattr(np.random, "RandomState", lambda make=np.random.RandomState: make(0))
    for wrap in (toys.arts, toys.ours):
        model = toys.build(toys.Bumpy)
        model.load_state_dict(learned)
        model = Softmax(model) if name in NEEDS_PROBABILITIES else model
        model.train()
        before, flags = toys.state(model), toys.flags(model)
        classifier = wrap(model)
        if wrap is toys.arts and name in NEEDS_A_CAST:
            monkeypatch.setattr(classifier, "predict", lambda x, p=classifier.predict, **kw: p(np.float32(x), **kw))
        state, drawn = np.random.get_state(), random.getstate()
        np.random.seed(0)  # ART draws from the global generators
        random.seed(0)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found.append(getattr(evasion, name)(classifier, **settings).generate(x, y))
        finally:
            np.random.set_state(state)
            random.setstate(drawn)
        if wrap is toys.ours:
            assert toys.same(toys.state(model), before)  # BatchNorm's buffers too
            if not (name in BUILDS_ITS_OWN_CLASSIFIER and "loss_type" in settings):
                assert toys.flags(model) == flags  # modes, requires_grad, no gradient left
    np.testing.assert_array_equal(found[1], found[0])
    assert not np.array_equal(found[0], x)


@pytest.mark.parametrize("form", ["indices", "one-hot", "probabilities"])
@pytest.mark.parametrize("tensor", [False, True])
def test_a_loss_gradient_equals_arts_in_every_form_of_labels(toys, form, tensor):
    x, y = toys.images(5)
    if form == "one-hot":
        y = np.eye(3, dtype=np.float32)[y]
    if form == "probabilities":
        y = np.random.default_rng(0).dirichlet(np.ones(3), size=5).astype(np.float32)
    model = toys.build(toys.Bumpy)
    rows = np.eye(3, dtype=np.float32)[y] if form == "indices" else y  # ART's own cannot take indices here
    expected = toys.arts(toys.build(toys.Bumpy)).loss_gradient(x, rows)
    found = toys.ours(model).loss_gradient(*(torch.as_tensor(v) if tensor else v for v in (x, y)))
    assert isinstance(found, torch.Tensor if tensor else np.ndarray)
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_class_gradients_losses_and_predictions_equal_arts(toys):
    x, y = toys.images(5)
    art, ours = toys.arts(toys.build(toys.Bumpy)), toys.ours(toys.build(toys.Bumpy))
    np.testing.assert_array_equal(ours.predict(x, batch_size=2), art.predict(x, batch_size=2))
    np.testing.assert_array_equal(ours.compute_loss(x, y), art.compute_loss(x, y))
    np.testing.assert_array_equal(ours.compute_loss(x, y, reduction="mean"), art.compute_loss(x, y, reduction="mean"))
    np.testing.assert_array_equal(ours.class_gradient(x), art.class_gradient(x))
    np.testing.assert_array_equal(ours.class_gradient(x, label=1), art.class_gradient(x, label=1))
    np.testing.assert_array_equal(ours.class_gradient(x, label=y), art.class_gradient(x, label=y))


@pytest.mark.parametrize("training", [True, False])
def test_every_question_to_the_classifier_leaves_the_network_as_it_was(toys, training):
    x, y = toys.images(5)
    model = toys.build(toys.Bumpy)
    classifier = toys.ours(model)
    model.train(training)
    model.drop.train(not training)
    before, flags, pixels = toys.state(model), toys.flags(model), x.copy()
    classifier.predict(x)
    classifier.logits(torch.as_tensor(x))
    classifier.loss_gradient(x, y)
    classifier.loss_gradient(torch.as_tensor(x), torch.as_tensor(y))
    classifier.class_gradient(x)
    classifier.compute_loss(x, y)
    last_conv(model, torch.as_tensor(x))
    assert toys.same(toys.state(model), before)
    assert toys.flags(model) == flags
    np.testing.assert_array_equal(x, pixels)


def test_training_mode_is_arts_own(toys):
    x, y = toys.images(5)
    model = toys.build(toys.Bumpy)
    classifier = toys.ours(model)
    before = toys.state(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not np.array_equal(classifier.predict(x, training_mode=True), classifier.predict(x))  # dropout
        classifier.loss_gradient(x, np.eye(3)[y], training_mode=True)
    assert not toys.same(toys.state(model), before)  # BatchNorm learned


def test_logits_are_float32_in_any_batch_size_and_empty_for_no_images(toys):
    x, _ = toys.images(7)
    classifier = toys.ours(toys.build(toys.plain))
    whole = classifier.logits(torch.as_tensor(x))
    assert whole.dtype == torch.float32
    assert whole.device.type == "cpu"
    torch.testing.assert_close(classifier.logits(torch.as_tensor(x), batch_size=3), whole, rtol=1e-5, atol=1e-6)  # float32
    assert classifier.logits(torch.empty(0, 1, 8, 8)).shape == (0, 3)
    assert classifier.predict(x.astype(np.float64)).dtype == np.float32  # ART's own raises here


def test_a_sequential_network_has_one_output_not_one_a_layer(toys):
    classifier = toys.ours(toys.build(toys.plain))
    outputs = classifier._model(torch.zeros(2, 1, 8, 8))
    assert len(outputs) == 1
    assert outputs[0].shape == (2, 3)
    assert classifier.layer_names == [name for name, _ in classifier.model.named_children()]


# findings


def bce_gradient(model, x, y):
    """Mean binary cross-entropy over the known labels, term by term."""
    x = torch.as_tensor(x).requires_grad_(True)
    z = model.eval()(x)
    terms = [functional.softplus(-z[i, k]) if y[i, k] else functional.softplus(z[i, k]) for i, k in np.argwhere(~np.isnan(y))]
    return torch.autograd.grad(sum(terms) / len(terms), x)[0].numpy()


def test_a_loss_gradient_over_findings_counts_known_labels_only(toys):
    x, _ = toys.images(6)
    y = toys.findings(6)
    y[2] = np.nan
    model = toys.build(toys.Bumpy)
    found = toys.ours(model, task="multilabel").loss_gradient(x, y)
    np.testing.assert_allclose(found, bce_gradient(model, x, y), rtol=1e-4, atol=1e-7)  # float32, sums in another order
    assert not found[2].any()
    assert np.isfinite(found).all()


def test_an_image_without_any_known_label_has_no_gradient(toys):
    x, _ = toys.images(3)
    found = toys.ours(toys.build(toys.Bumpy), task="multilabel").loss_gradient(x, np.full((3, 3), np.nan, dtype=np.float32))
    np.testing.assert_array_equal(found, np.zeros_like(x))


def test_losses_of_findings_are_one_an_image(toys):
    x, _ = toys.images(6)
    y = toys.findings(6)
    model = toys.build(toys.Bumpy)
    losses = toys.ours(model, task="multilabel").compute_loss(x, y)
    z = logits_of(model, x).double().numpy()
    expected = np.where(np.isnan(y), 0, np.logaddexp(0, z) - np.nan_to_num(y) * z).sum(axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)  # float32


def test_arts_pgd_attacks_findings_as_ours_does(toys):
    x, _ = toys.images(6)
    y = toys.findings(6)
    model = toys.build(toys.Bumpy)
    classifier = toys.ours(model, task="multilabel")
    attack = evasion.ProjectedGradientDescent(classifier, eps=0.05, eps_step=0.02, max_iter=4, batch_size=6, verbose=False)
    ours = pgd(model, torch.as_tensor(x), torch.as_tensor(y), eps=0.05, step=0.02, steps=4, loss=MaskedBCE())
    np.testing.assert_array_equal(attack.generate(x, y), ours.numpy())


# one logit


def one_logit(toys):
    return toys.build(toys.plain, classes=1)


def test_a_network_with_one_logit_is_served_as_two_whose_loss_is_bce(toys):
    x, y = toys.images(8, classes=2)
    net = one_logit(toys)
    z = logits_of(net, x)[:, 0].double()
    classifier = toys.ours(net, classes=2)
    assert isinstance(classifier.model, OneLogit)
    np.testing.assert_array_equal(classifier.predict(x)[:, 0], -classifier.predict(x)[:, 1])
    np.testing.assert_allclose(classifier.predict(x)[:, 1], z.numpy() / 2, rtol=1e-6)
    expected = functional.binary_cross_entropy_with_logits(z, torch.as_tensor(y).double(), reduction="none")
    np.testing.assert_allclose(classifier.compute_loss(x, y), expected.numpy(), rtol=1e-5)  # float32
    pixels = torch.as_tensor(x).requires_grad_(True)
    loss = functional.binary_cross_entropy_with_logits(net(pixels)[:, 0], torch.as_tensor(y).float())
    (gradient,) = torch.autograd.grad(loss, pixels)
    np.testing.assert_allclose(classifier.loss_gradient(x, y), gradient.numpy(), rtol=1e-4, atol=1e-7)  # float32
    np.testing.assert_array_equal(classifier.loss_gradient(x, np.eye(2)[y]), classifier.loss_gradient(x, y))


@pytest.mark.parametrize("name", ["FastGradientMethod", "ProjectedGradientDescent", "DeepFool", "SquareAttack"])
def test_arts_attacks_run_on_a_network_with_one_logit(toys, name):
    x, y = toys.images(4, classes=2)
    classifier = toys.ours(one_logit(toys), classes=2)
    settings = {"verbose": False} if name != "FastGradientMethod" else {}
    with torch.random.fork_rng(devices=[]):
        moved = getattr(evasion, name)(classifier, **settings).generate(x, y)
    assert moved.shape == x.shape
    assert not np.array_equal(moved, x)


class Squeezed(torch.nn.Module):
    """A one-logit network that gives (N,) in place of (N, 1)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[:, 0]


def test_one_logit_without_its_own_axis_is_understood(toys):
    x, _ = toys.images(4, classes=2)
    flat, column = toys.ours(Squeezed(one_logit(toys)), classes=2), toys.ours(one_logit(toys), classes=2)
    np.testing.assert_array_equal(flat.predict(x), column.predict(x))


# construction


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"expected input_shape (C, H, W) and at least 2 classes, got () and 0"),
        ({"input_shape": (1, 8), "nb_classes": 3}, r"expected input_shape (C, H, W) and at least 2 classes, got (1, 8) and 3"),
        (
            {"input_shape": (1, 8, 8), "nb_classes": 1},
            "expected input_shape (C, H, W) and at least 2 classes, got (1, 8, 8) and 1",
        ),
        ({"input_shape": (1, 8, 8), "nb_classes": 4}, "expected logits (1, 4) for one image, the network gives (1, 3)"),
    ],
)
def test_a_classifier_that_cannot_be_is_refused(toys, settings, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        Classifier(toys.build(toys.plain), device="cpu", **settings)
    assert str(caught.value) == message


def test_a_map_in_place_of_logits_is_refused(toys):
    with pytest.raises(ValueError, match=r"expected logits \(1, 384\) for one image, the network gives \(1, 6, 8, 8\)"):
        toys.ours(torch.nn.Conv2d(1, 6, 3, padding=1), classes=384)


def test_one_finding_is_not_two_classes(toys):
    with pytest.raises(ValueError, match=r"expected logits \(1, 2\) for one image, the network gives \(1, 1\)"):
        toys.ours(one_logit(toys), classes=2, task="multilabel")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cuda:x", "cuda:-1", "cuda:", "CPU", "cuda:²"])
def test_a_device_of_an_unknown_name_is_refused(name):
    with pytest.raises(DeviceError) as caught:
        find_device(name)
    assert str(caught.value) == f"device '{name}': expected auto, cpu, cuda or cuda:N"


def test_a_gpu_that_is_not_there_is_refused_and_never_replaced():
    count = torch.cuda.device_count()
    with pytest.raises(DeviceError, match=rf"device 'cuda:{count}': this machine has {count} GPUs; use auto or cpu"):
        find_device(f"cuda:{count}")
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if count else "cpu")


def test_a_classifier_can_be_copied_and_pickled_without_touching_the_disk(toys, monkeypatch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    classifier = toys.ours(model, task="multilabel")
    monkeypatch.setattr(Classifier, "save", lambda *_: pytest.fail("wrote to the disk"))
    x, _ = toys.images(3)
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_array_equal(other.predict(x), classifier.predict(x))
        assert other.task == "multilabel"
        assert other.model is not classifier.model


# last_conv


def test_the_last_convolution_is_the_last_that_runs_with_more_than_one_pixel(toys):
    model = toys.build(toys.Bumpy)
    x = torch.zeros(2, 1, 8, 8)
    assert last_conv(model, x) is model.conv2
    squeeze = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(2, 3, 1))
    assert last_conv(squeeze, x) is squeeze[0]
    assert not any(module._forward_hooks for module in squeeze.modules())


def test_a_network_without_a_map_has_no_last_convolution():
    with pytest.raises(ValueError, match="Linear runs no convolution with an output larger than 1 x 1; name a layer"):
        last_conv(torch.nn.Linear(8, 2), torch.zeros(1, 1, 8, 8))


# logging


def test_importing_the_classifier_leaves_logging_alone():
    script = """
import io, logging
stream = io.StringIO()
handler = logging.StreamHandler(stream)
logging.basicConfig(level=logging.WARNING, handlers=[handler])
mine = logging.getLogger("mine")
mine.setLevel(logging.DEBUG)
before = (list(logging.root.handlers), logging.root.level, mine.level, mine.disabled)
import logging.config
configure = logging.config.dictConfig
import cxr_eval.classifier
assert logging.config.dictConfig is configure
assert (list(logging.root.handlers), logging.root.level, mine.level, mine.disabled) == before
mine.warning("heard")
assert "heard" in stream.getvalue(), stream.getvalue()
logging.getLogger("art.attacks").warning("ART speaks through our handler")
assert "ART speaks" in stream.getvalue()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert logging.getLogger("art").handlers
