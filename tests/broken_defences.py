"""Networks that look robust and are not, each by one known trick, and honest ones; what the validity checks are proved on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.criteria import MaskedBCE
from cxr_eval.models.small_cnn import SmallCNN

SIZE = 16
EPS = 0.05
COUNT = 120


def images(classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey noise with one brighter band a class, (120, 1, 16, 16), and class indices."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(COUNT) % classes)
    x = rng.uniform(0.3, 0.6, size=(COUNT, 1, SIZE, SIZE)).astype(np.float32)
    for k in range(classes):
        x[y == k, :, 3 * k + 1 : 3 * k + 4, :] += np.float32(0.15)
    return torch.from_numpy(x), torch.from_numpy(y)


def findings(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The same noise with any of three bands, (120, 1, 16, 16), and findings (120, 3), one in ten unknown."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, size=(COUNT, 3)).astype(np.float32)
    x = rng.uniform(0.3, 0.6, size=(COUNT, 1, SIZE, SIZE)).astype(np.float32)
    for k in range(3):
        x[y[:, k] == 1, :, 4 * k + 1 : 4 * k + 4, :] += np.float32(0.15)
    y[rng.random(y.shape) < 0.1] = np.nan
    return torch.from_numpy(x), torch.from_numpy(y)


def cnn(outputs: int) -> torch.nn.Module:
    """Two convolutions and a linear head, in the manner of small_cnn but with places kept."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * SIZE * SIZE // 16, outputs),
    )


def small_cnn(outputs: int) -> torch.nn.Module:
    """Trained as long as the others it becomes so sure that its cross-entropy is rounded."""
    return SmallCNN(widths=[8, 8, 16, 16]).build(channels=1, classes=outputs, size=SIZE)


def linear(outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIZE * SIZE, outputs))


def one_logit_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())


@cache
def trained(
    make: Callable[[int], torch.nn.Module] = cnn, outputs: int = 4, kind: str = "classes", eps: float = 0.0, steps: int = 60
) -> torch.nn.Module:
    """A network trained on other images than those it is judged on; with eps, on PGD images within it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make(outputs)
    x, y = findings(seed=1) if kind == "findings" else images(max(outputs, 2), seed=1)
    loss = {"findings": MaskedBCE(), "one logit": one_logit_loss, "classes": functional.cross_entropy}[kind]
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        shown = cxr.pgd(net, x, y, eps=eps, step=eps / 2, steps=5, loss=loss, rng=rng) if eps else x
        optimizer.zero_grad()
        loss(net(shown), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


class Around(torch.nn.Module):
    """A trained network with something before and after it."""

    def __init__(
        self, before: Callable = lambda x: x, after: Callable = lambda z: z, net: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = trained() if net is None else net, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.net(self.before(x)))


class Detached(torch.nn.Module):
    """The answer comes by a way without gradient; a second head, far too small to matter, has one that leads elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.decoy = linear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.detach()) + 1e-3 * self.decoy(x)


class StraightThrough(torch.autograd.Function):
    """Eight grey levels, whose gradient pretends that nothing was rounded."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return (x * 7).round() / 7

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


STRIPES = torch.where(torch.arange(SIZE) % 2 == 0, 1.0, -1.0).expand(1, SIZE, SIZE)


class MeetsOneStep(torch.nn.Module):
    """Two classes by a plane; along the plane's normal the answer swings back just where one full step arrives.

    The margin is 10 cos(2 pi m), where m is the distance from the plane in L-inf radii: a step of one radius passes one whole
    swing, a step of half a radius ends on the wrong side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(STRIPES / (EPS * SIZE * SIZE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = 10 * torch.cos(2 * torch.pi * (x * self.weight).flatten(1).sum(dim=1))
        return torch.stack((-margin / 2, margin / 2), dim=1)


def striped() -> tuple[torch.Tensor, torch.Tensor]:
    """Grey noise, half of it with stripes of half a radius, (120, 1, 16, 16), and class indices: 0 with stripes, 1 without."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.permutation(np.arange(COUNT) % 2))
    x = torch.from_numpy(rng.uniform(0.3, 0.6, size=(COUNT, 1, SIZE, SIZE)).astype(np.float32))
    # all at the same distance from the plane, and on no crest of the wave, where there is no gradient
    x += (0.1 * EPS - (x * STRIPES).mean(dim=(1, 2, 3), keepdim=True)) * STRIPES
    return x + (y == 0)[:, None, None, None] * EPS / 2 * STRIPES, y


def one_hot(z: torch.Tensor) -> torch.Tensor:
    return (z == z.amax(dim=1, keepdim=True)).float()


def noisy(z: torch.Tensor) -> torch.Tensor:
    return z + z.detach().abs().amax(dim=1, keepdim=True) * torch.randn_like(z)


def in_company(z: torch.Tensor) -> torch.Tensor:
    """Whoever stands in the same batch matters."""
    return z - 5 * z.mean(dim=0, keepdim=True)


@dataclass(frozen=True)
class Broken:
    """One trick: the network, the images it is judged on, and what each check that must speak says."""

    make: Callable[[], torch.nn.Module]
    says: dict[str, str]
    images: str = "classes"


BLIND = {"zero_gradients": "FAIL", "quantised_input": "FAIL", "large_eps_not_zero": "FAIL"}

DEFENCES: dict[str, Broken] = {
    "logits x 1e4": Broken(lambda: Around(after=lambda z: 1e4 * z), {"vanishing_gradients": "FAIL"}),
    "temperature 1e-3": Broken(lambda: Around(after=lambda z: z / 1e-3), {"vanishing_gradients": "FAIL"}),
    "far too sure": Broken(lambda: trained(small_cnn), {"vanishing_gradients": "WARN"}),
    "saturated sigmoid": Broken(
        lambda: Around(after=lambda z: 20 * torch.sigmoid(200 * z)), {**BLIND, "black_box_beats_white_box": "FAIL"}
    ),
    "eight grey levels": Broken(
        lambda: Around(before=lambda x: (x * 7).round() / 7), {**BLIND, "black_box_beats_white_box": "FAIL"}
    ),
    "eight grey levels, straight-through": Broken(lambda: Around(before=StraightThrough.apply), {"quantised_input": "WARN"}),
    "detached branch": Broken(Detached, {"black_box_beats_white_box": "FAIL", "large_eps_not_zero": "FAIL"}),
    "noise in the answer": Broken(lambda: Around(after=noisy), {"random_predictions": "FAIL"}),
    "other images matter": Broken(lambda: Around(after=in_company), {"random_predictions": "FAIL"}),
    "one-hot answer": Broken(lambda: Around(after=one_hot), {**BLIND, "softmax_outputs": "WARN"}),
    "rounded logits": Broken(lambda: Around(after=torch.round), BLIND),
    "gradients that are no numbers": Broken(
        lambda: Around(after=lambda z: z + 0 * (z * 0).abs().sqrt()), {"zero_gradients": "FAIL"}
    ),
    "softmax answer": Broken(lambda: Around(after=lambda z: z.softmax(dim=1)), {"softmax_outputs": "WARN"}),
    "sigmoid of one logit": Broken(
        lambda: Around(after=torch.sigmoid, net=trained(outputs=1, kind="one logit")), {"softmax_outputs": "FAIL"}, "two"
    ),
    "sigmoids of findings": Broken(
        lambda: Around(after=torch.sigmoid, net=trained(outputs=3, kind="findings")), {"softmax_outputs": "FAIL"}, "findings"
    ),
    "meets one step only": Broken(MeetsOneStep, {"single_step_only": "WARN"}, "striped"),
    "waits for [0, 255]": Broken(lambda: Around(before=lambda x: x / 255), {"preprocessing_outside": "FAIL"}),
    "waits for ImageNet's normalisation": Broken(
        lambda: Around(before=lambda x: x * 0.226 + 0.449), {"preprocessing_outside": "FAIL"}
    ),
}
"""Those that hide gradients must fail."""

HONEST: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    # name: (network, images)
    "standard": (trained, "classes"),
    "adversarially trained": (lambda: trained(eps=EPS, steps=100), "classes"),
    "linear": (lambda: trained(linear), "classes"),
    "one logit": (lambda: trained(outputs=1, kind="one logit"), "two"),
    "two classes": (lambda: trained(outputs=2), "two"),
    "three classes": (lambda: trained(outputs=3), "three"),
    "several findings": (lambda: trained(outputs=3, kind="findings"), "findings"),
}


def data(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images to judge a network on, and their labels."""
    makers = {"classes": images, "three": lambda: images(3), "two": lambda: images(2), "findings": findings, "striped": striped}
    return makers[kind]()


def classifier(net: torch.nn.Module, y: torch.Tensor) -> cxr.Classifier:
    """Our classifier around the network, on the CPU."""
    task = "multiclass" if y.ndim == 1 else "multilabel"
    classes = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
    return cxr.Classifier(net, input_shape=(1, SIZE, SIZE), nb_classes=classes, task=task, device="cpu")
