"""ART's PyTorchClassifier made right: weights frozen for input gradients, modes restored, multi-label and one-logit heads."""

from __future__ import annotations

import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_eval.criteria import plain_criterion
from cxr_eval.errors import DeviceError
from cxr_eval.perturb import frozen, input_gradient
from cxr_eval.types import Task


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """ART configures logging when it is imported, which closes the handlers of whoever imports us."""
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = configure


with _logging_left_alone():
    from art.estimators.classification import PyTorchClassifier as PyTorchClassifier

logging.getLogger("art").addHandler(logging.NullHandler())


def find_device(name: str) -> torch.device:
    """The torch device for `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: the name is none of these, or there is no such GPU. There is no fallback to the CPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device '{name}': this machine has {torch.cuda.device_count()} GPUs; use auto or cpu")
    return torch.device(name)


def last_conv(model: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """The layer with the last convolutional feature map before pooling, the one that Grad-CAM explains.

    It is the module that finishes last of all that hold a two-dimensional convolution and give a map larger than 1 x 1:
    `layer4` of a ResNet, `features` of a DenseNet, or the last convolution itself where no module gathers it.
    x: any images the model takes, (N, C, H, W); the first is run once.

    Raises:
        ValueError: no such layer runs.
    """
    ran: list[torch.nn.Module] = []

    def remember(module: torch.nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
            ran.append(module)

    hooks = [
        module.register_forward_hook(remember)
        for module in model.modules()
        if any(isinstance(part, torch.nn.Conv2d) for part in module.modules())
    ]
    try:
        with frozen(model), torch.no_grad():
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    attention = any(isinstance(module, torch.nn.MultiheadAttention) for module in model.modules())
    if not ran or (attention and len(hooks) == 1):
        what = "attends to patches" if attention else "runs no convolution with an output larger than 1 x 1"
        raise ValueError(f"{type(model).__name__} {what}; name a layer")
    return ran[-1]


class OneLogit(torch.nn.Module):
    """A network with one logit z for two classes, as logits (-z/2, z/2): their cross-entropy is the BCE of z.

    Halves, not (0, z), so that the logit of the first class can be explained too.
    """

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.net(x).reshape(len(x), 1) / 2
        return torch.cat((-half, half), dim=1)


class _ArtModel(torch.nn.Module):
    """ART's wrapper: a list of outputs, here always one; ART's own lists every child of an nn.Sequential."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self._model(x)]

    @property
    def get_layers(self) -> list[str]:
        return [name for name, _ in self._model.named_children()]


class Classifier(PyTorchClassifier):  # type: ignore[misc]  # ART has no types
    """An ART classifier for images in [0, 1] whose normalisation is the model's first layer.

    Every ART attack runs through it unchanged and gives the images that it gives through ART's own class, faster.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: torch.nn.Module | None = None,
        input_shape: tuple[int, ...] = (),
        nb_classes: int = 0,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        task: Task = "multiclass",
        device: str = "auto",
    ) -> None:
        """Wrap a network that takes images (N, *input_shape) in [0, 1] and gives logits (N, nb_classes).

        A network with one logit z serves two classes and is wrapped as (-z/2, z/2). `loss` is what attacks raise:
        cross-entropy, or for `task="multilabel"` binary cross-entropy over the known labels, if not given.

        Raises:
            ValueError: input_shape or nb_classes is missing, or the network gives logits of another shape.
            DeviceError: there is no such device.
        """
        if len(input_shape) != 3 or nb_classes < 2:
            raise ValueError(f"expected input_shape (C, H, W) and at least 2 classes, got {input_shape} and {nb_classes}")
        target = find_device(device)
        model = model.to(target)
        with frozen(model), torch.no_grad():
            outputs = model(torch.zeros(1, *input_shape, device=target))
        if outputs.numel() == 1 and nb_classes == 2 and task == "multiclass":
            model = OneLogit(model)
        elif outputs.shape != (1, nb_classes):
            raise ValueError(f"expected logits (1, {nb_classes}) for one image, the network gives {tuple(outputs.shape)}")
        super().__init__(
            model=model,
            loss=plain_criterion(task) if loss is None else loss,
            input_shape=input_shape,
            nb_classes=nb_classes,
            optimizer=optimizer,
            clip_values=(0.0, 1.0),
            device_type=target.type if target.type == "cpu" else "gpu",
        )
        self.task = task
        self._device = target
        self._model.to(target)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # ART's own writes the weights into its data folder whenever a classifier is copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _make_model_wrapper(self, model: torch.nn.Module) -> torch.nn.Module:
        return _ArtModel(model)

    def logits(self, x: torch.Tensor, batch_size: int = 128) -> torch.Tensor:
        """Logits (N, K) float32 on the CPU of images (N, C, H, W) in [0, 1], in evaluation mode, restored after."""
        with frozen(self.model), torch.no_grad():
            parts = [self.model(part.to(self.device, torch.float32)).float().cpu() for part in torch.split(x, batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, self.nb_classes)

    def predict(
        self, x: npt.NDArray[Any], batch_size: int = 128, training_mode: bool = False, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Logits (N, K); ART's signature."""
        if training_mode:
            predicted: npt.NDArray[np.float32] = super().predict(x, batch_size, training_mode, **kwargs)
            return predicted
        return self.logits(torch.as_tensor(np.ascontiguousarray(x, dtype=np.float32)), batch_size).numpy()

    def targets(self, y: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """Labels in any form that ART allows (indices, one-hot, probabilities, findings) as the loss takes them."""
        labels = torch.as_tensor(y, device=self.device)
        if self.task == "multilabel":
            return labels.float()
        if labels.ndim == 1:
            return labels.long()
        reduced: torch.Tensor = self.reduce_labels(labels)
        return reduced

    def loss_gradient(
        self,
        x: npt.NDArray[np.float32] | torch.Tensor,
        y: npt.NDArray[Any] | torch.Tensor,
        training_mode: bool = False,
        **kwargs: Any,
    ) -> npt.NDArray[np.float32] | torch.Tensor:
        """Gradient of the loss with respect to x, of x's type and shape; the weights' gradients are left alone."""
        if training_mode:
            trained: npt.NDArray[np.float32] | torch.Tensor = super().loss_gradient(x, y, training_mode, **kwargs)
            return trained
        images = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        with frozen(self.model):
            gradient = input_gradient(self.model, images, self.targets(y), loss=self._loss)
        return gradient if isinstance(x, torch.Tensor) else gradient.cpu().numpy()

    def class_gradient(self, x: npt.NDArray[np.float32], *args: Any, **kwargs: Any) -> npt.NDArray[np.float32]:
        """ART's class gradients, with frozen weights and the model's mode restored."""
        with frozen(self.model):
            gradients: npt.NDArray[np.float32] = super().class_gradient(x, *args, **kwargs)
        return gradients

    def compute_loss(
        self, x: npt.NDArray[np.float32] | torch.Tensor, y: npt.NDArray[Any] | torch.Tensor, *args: Any, **kwargs: Any
    ) -> npt.NDArray[np.float32] | torch.Tensor:
        """ART's losses, one an image by default, with the model's mode restored."""
        with frozen(self.model):
            losses: npt.NDArray[np.float32] | torch.Tensor = super().compute_loss(x, y, *args, **kwargs)
        return losses
