"""Trainers that break one rule each, and sound ones of unusual kinds; what the conformance kit is proved on."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from torch.nn import functional

import cxr_eval.api as cxr

from art.defences.trainer import Trainer as ArtTrainer  # isort: skip  # after ours, for logging


class Sound(cxr.Trainer):
    """The standard loss; all broken trainers are this one but for one thing."""

    source = "none: for tests"

    class Params(cxr.Params):
        weight: float = cxr.Field(1.0, gt=0, le=10, description="factor of the loss; our choice")

    def loss(self, batch):
        return self.params.weight * self.criterion(self.model(batch.x), batch.y)


# unusual, and sound


class Counted(Sound):
    """Images are dropped by turns: all kinds of state that must survive a resume."""

    def on_fit_start(self, n):
        self.visits, self.epochs, self.notes = torch.zeros(n, device=self.device), 0, {"best": float("nan"), "seen": [1, "a"]}

    def on_epoch_end(self, epoch):
        self.epochs += 1
        self.log("visits", self.visits.mean())

    def loss(self, batch):
        self.visits[batch.index] += 1
        weight = 1 / (self.visits[batch.index] + self.epochs)
        return (weight * self.losses(self.model(batch.x), batch.y)).mean()

    def state_dict(self):
        return {"visits": self.visits, "epochs": self.epochs, "notes": self.notes}

    def load_state_dict(self, state):
        self.visits, self.epochs, self.notes = state["visits"], state["epochs"], state["notes"]


class Distilled(Sound):
    """Follows the predictions of a network that was trained before."""

    uses_reference = True

    def loss(self, batch):
        with torch.no_grad():
            taught = self.reference(batch.x)
        return super().loss(batch) + self.divergence(taught, self.model(batch.x))


class FindingsOnly(Sound):
    """Defined for findings alone."""

    tasks = ("multilabel",)


class ClassesOnly(Sound):
    """Defined for one class an image alone."""

    tasks = ("multiclass",)


class OwnStep(Sound):
    """Two steps along the attacked and the clean loss, of which neither is `loss`."""

    def step(self, batch, optimizer):
        with cxr.frozen(self.model):
            gradient = cxr.input_gradient(self.model, batch.x, batch.y, loss=self.criterion)
        for x in (batch.x, (batch.x + 0.01 * gradient.sign()).clamp(0, 1)):
            optimizer.zero_grad(set_to_none=True)
            loss = self.criterion(self.model(x), batch.y)
            loss.backward()
            optimizer.step()
        return loss.detach()


class Masked(Sound):
    """Images changed beyond the radius, which it says."""

    class Params(cxr.Params):
        eps: cxr.Radius = cxr.Field(0.01, description="L-inf radius; our choice")

    @property
    def stays_within_eps(self):
        return False

    def loss(self, batch):
        return self.criterion(self.model(batch.x * (batch.x < 0.9)), batch.y)


class InEuclid(cxr.Trainer):
    """PGD in an L2 ball."""

    source = "none: for tests"
    adversarial = True

    class Params(cxr.Ball):
        eps: cxr.Distance = cxr.Field(0.3, description="radius; our choice")

    reach = 1.0

    def loss(self, batch):
        p = self.params
        moved = cxr.pgd(
            self.model, batch.x, batch.y, eps=self.reach * p.eps, step=p.eps / 2, steps=3, loss=self.criterion, norm=p.norm
        )
        return self.criterion(self.model(moved), batch.y)


# is an ART trainer


class Stranger(ArtTrainer):
    """ART's, not ours."""

    def fit(self, x, y, **keywords):
        self._classifier.fit(x, y)


class OtherKeywords(Sound):
    """Other names for images and labels."""

    def fit(
        self,
        images,
        labels,
        validation_data=None,
        batch_size=None,
        nb_epochs=None,
        *,
        scheduler=None,
        checkpoint=None,
        progress=None,
    ):
        settings = {"scheduler": scheduler, "checkpoint": checkpoint, "progress": progress}
        super().fit(images, labels, validation_data, batch_size, nb_epochs, **settings)


class OtherClassifier(Sound):
    """Gives a copy of the classifier."""

    def get_classifier(self):
        return copy.copy(self._classifier)


class TakesOursAlone(Sound):
    """Takes no stock classifier."""

    def fit(self, x, y, validation_data=None, batch_size=None, nb_epochs=None, **keywords):
        if type(self._classifier) is not cxr.Classifier:
            raise TypeError("ours, please")
        super().fit(x, y, validation_data, batch_size, nb_epochs, **keywords)


class PredictsOneNumber(Sound):
    """One logit an image, of three."""

    def predict(self, x, **keywords):
        return super().predict(x, **keywords)[:, :1]


# describes itself and its settings


class NoDocstring(Sound):
    pass


class NoSource(Sound):
    """A trainer of unknown origin."""

    source = " "


class Undescribed(Sound):
    """A setting without a word."""

    class Params(cxr.Params):
        weight: float = 1.0


class BadDefault(Sound):
    """A default out of its own bounds."""

    class Params(cxr.Params):
        weight: float = cxr.Field(20.0, gt=0, le=10, description="factor of the loss; our choice")


# refuses unknown settings


class TakesAnything(Sound):
    """Settings that are not there are dropped."""

    class Params(cxr.Params, extra="ignore"):
        weight: float = cxr.Field(1.0, description="factor of the loss; our choice")


class OwnSettings(Sound):
    """Settings are read by hand."""

    def __init__(self, classifier, *, training=None, seed=0, weight=1.0):
        super().__init__(classifier, training=training, seed=seed, weight=weight)


# the loss is a finite scalar with gradient


class LossPerImage(Sound):
    """One loss an image."""

    def loss(self, batch):
        return self.losses(self.model(batch.x), batch.y)


class NumberForALoss(Sound):
    """A loss that is no tensor."""

    def loss(self, batch):
        return float(super().loss(batch).detach())


class InfiniteLoss(Sound):
    """A loss over zero."""

    def loss(self, batch):
        return super().loss(batch) / 0


class DetachedLoss(Sound):
    """A loss without gradient."""

    def loss(self, batch):
        return super().loss(batch).detach()


class LossOfTheImages(Sound):
    """A gradient that reaches no weight."""

    def loss(self, batch):
        return super().loss(batch).detach() + torch.zeros((), device=self.device, requires_grad=True)


class LeavesEvaluationMode(Sound):
    """The loss leaves the network in evaluation mode, so that BatchNorm never learns."""

    def loss(self, batch):
        self.model.eval()
        return super().loss(batch)


class FreezesInTheLoss(Sound):
    """The loss leaves a weight without gradient."""

    def loss(self, batch):
        loss = super().loss(batch)
        next(self.model.parameters()).requires_grad_(False)
        return loss


class BackwardInTheLoss(Sound):
    """The loss fills the gradients of the weights, and the step adds its own."""

    def loss(self, batch):
        loss = super().loss(batch)
        loss.backward(retain_graph=True)
        return loss


class StepWithoutALoss(Sound):
    """A step that gives one loss an image."""

    def step(self, batch, optimizer):
        super().step(batch, optimizer)
        return torch.zeros(len(batch.x))


# shows the network valid images only


class Unclamped(Sound):
    """Noise that leaves [0, 1]."""

    def loss(self, batch):
        noise = torch.randn(batch.x.shape, generator=self.rng, device=self.device)
        return self.criterion(self.model(batch.x + 0.05 * noise), batch.y)


class NotANumber(Sound):
    """One pixel that is none, which ReLU and dropout may hide."""

    def loss(self, batch):
        hidden = batch.x.clone()
        hidden[0, 0, 0, 0] = float("nan")
        with cxr.frozen(self.model), torch.no_grad():
            self.model(hidden)
        return super().loss(batch)


class DoublePrecision(Sound):
    """Looks at the images in double precision, through a copy of the network."""

    def loss(self, batch):
        with torch.no_grad():
            copy.deepcopy(self.model).eval().double()(batch.x.double())
        return super().loss(batch)


class TooFar(Sound):
    """Steps of twice the radius."""

    class Params(cxr.Params):
        eps: cxr.Radius = cxr.Field(0.02, description="L-inf radius; our choice")

    def loss(self, batch):
        with cxr.frozen(self.model):
            gradient = cxr.input_gradient(self.model, batch.x, batch.y, loss=self.criterion)
        return self.criterion(self.model((batch.x + 2 * self.params.eps * gradient.sign()).clamp(0, 1)), batch.y)


class TooFarInEuclid(InEuclid):
    """An L2 ball of more than the radius."""

    reach = 1.1


class LargestFirst(Sound):
    """Radii in the wrong order."""

    def eps_range(self):
        return 0.2, 0.1


# BatchNorm learns in training passes only


class AttacksInTrainingMode(Sound):
    """FGSM by hand, in training mode."""

    def loss(self, batch):
        x = batch.x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.criterion(self.model(x), batch.y), x)
        return self.criterion(self.model((batch.x + 0.01 * gradient.sign()).clamp(0, 1)), batch.y)


class StepsInTrainingMode(OwnStep):
    """FGSM by hand, in training mode, in a step of its own."""

    def step(self, batch, optimizer):
        x = batch.x.clone().requires_grad_(True)
        torch.autograd.grad(self.criterion(self.model(x), batch.y), x)
        return super().step(batch, optimizer)


class MeasuresInTrainingMode(Sound):
    """Looks at the clean loss in training mode."""

    def loss(self, batch):
        with torch.no_grad():
            self.log("clean", self.criterion(self.model(batch.x), batch.y))
        return super().loss(batch)


class TrainsInEvaluationMode(Sound):
    """The predictions of the loss are taken in evaluation mode, and nothing shows it afterwards."""

    def loss(self, batch):
        self.model.eval()
        loss = super().loss(batch)
        self.model.train()
        return loss


class MeasuresBetweenEpochs(Sound):
    """Looks at all images in training mode after each epoch."""

    def on_epoch_end(self, epoch):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(epoch)
            for batch in self.clean_batches():
                self.model(batch.x)


# leaves the caller's data alone


class WritesOnImages(Sound):
    """Scales the validation images in place."""

    def fit(self, x, y, validation_data=None, batch_size=None, nb_epochs=None, **keywords):
        if validation_data is not None:
            validation_data[0][:] *= 0.5
        super().fit(x, y, validation_data, batch_size, nb_epochs, **keywords)


class WritesOnLabels(WritesOnImages):
    """Sorts the validation labels in place."""

    def fit(self, x, y, validation_data=None, batch_size=None, nb_epochs=None, **keywords):
        if validation_data is not None:
            validation_data[1][:] = validation_data[1][::-1].copy()
        Sound.fit(self, x, y, validation_data, batch_size, nb_epochs, **keywords)


class Borrows(Sound):
    """Writes on the validation images and puts back what was there."""

    def fit(self, x, y, validation_data=None, batch_size=None, nb_epochs=None, **keywords):
        if validation_data is not None:
            validation_data[0][:] = validation_data[0].copy()
        super().fit(x, y, validation_data, batch_size, nb_epochs, **keywords)


# same seed, same weights


class NumpysNoise(Sound):
    """A loss with numpy's global random numbers."""

    def loss(self, batch):
        return super().loss(batch) * (1 + 0.1 * np.random.rand())


class PythonsNoise(Sound):
    """A loss with Python's global random numbers."""

    def loss(self, batch):
        return super().loss(batch) * (1 + 0.1 * random.random())


class TorchsNoise(Sound):
    """A loss with torch's global random numbers, which move dropout."""

    def loss(self, batch):
        return self.criterion(self.model((batch.x + 0.05 * torch.randn_like(batch.x)).clamp(0, 1)), batch.y)


class Unseeded(Sound):
    """A loss with random numbers of no seed."""

    def loss(self, batch):
        return super().loss(batch) * (1 + 0.1 * np.random.default_rng().random())


# labels in every form, same weights


class OneHotOnly(Sound):
    """Labels taken as rows, whatever they are."""

    def fit(self, x, y, *arguments, **keywords):
        if y.ndim == 1:
            y = (0 * y) if isinstance(y, torch.Tensor) else y
        super().fit(x, y, *arguments, **keywords)


class ArraysOnly(Sound):
    """Labels that must be an array."""

    def fit(self, x, y, *arguments, **keywords):
        super().fit(x, y.astype(y.dtype), *arguments, **keywords)


# trains on a batch of one image


class Deviates(Sound):
    """Divides by the deviation over the batch, which one image does not have."""

    def loss(self, batch):
        deviation = batch.x.var(dim=0, correction=0).sum().sqrt()
        return super().loss(batch) * deviation / deviation


class Halves(Sound):
    """Looks at the first half of the batch, which is empty for one image."""

    def loss(self, batch):
        half = len(batch.x) // 2
        return self.criterion(self.model(batch.x[:half]), batch.y[:half])


# findings with unknown labels train


class CrossEntropyAlways(Sound):
    """A loss for one class an image, said to be for both tasks."""

    def loss(self, batch):
        return functional.cross_entropy(self.model(batch.x), batch.y)


class NotMasked(Sound):
    """A loss that unknown findings make NaN."""

    def loss(self, batch):
        if self.task == "multiclass":
            return super().loss(batch)
        return functional.binary_cross_entropy_with_logits(self.model(batch.x), batch.y)


class UnknownGradient(Sound):
    """In the last of four steps, a finite loss whose gradient is NaN where a finding is unknown."""

    def on_fit_start(self, n):
        self.calls = 0

    def loss(self, batch):
        self.calls += 1
        loss = super().loss(batch)
        if self.task == "multilabel" and self.calls == 4:
            loss = loss + torch.where(batch.y.isnan(), 0, batch.y * self.model(batch.x)).mean()
        return loss


class DeafToFindings(Sound):
    """A loss without gradient for findings."""

    def loss(self, batch):
        loss = super().loss(batch)
        return loss if self.task == "multiclass" else 0 * loss


class TakesFindings(Sound):
    """Not defined for findings, and yet made for them."""

    tasks = ("multiclass",)

    def __init__(self, classifier, **settings):
        self.tasks = ("multiclass", "multilabel")
        super().__init__(classifier, **settings)


class RefusesWithoutAWord(Sound):
    """Not defined for findings, which it says badly."""

    tasks = ("multiclass",)

    def __init__(self, classifier, **settings):
        if getattr(classifier, "task", "multiclass") == "multilabel":
            raise ValueError("no")
        super().__init__(classifier, **settings)


# leaves the network ready to use


class LeavesTrainingMode(Sound):
    """The network is in training mode after a fit."""

    def fit(self, *arguments, **keywords):
        super().fit(*arguments, **keywords)
        self.model.train()


class LeavesFrozen(Sound):
    """The network's first weight can no longer be trained after a fit."""

    def fit(self, *arguments, **keywords):
        super().fit(*arguments, **keywords)
        next(self.model.parameters()).requires_grad_(False)


class SwapsTheNetwork(Sound):
    """The classifier has another network after a fit."""

    def fit(self, *arguments, **keywords):
        super().fit(*arguments, **keywords)
        self._classifier._model = copy.deepcopy(self._classifier._model)


# resumes to the same weights


class Forgets(Sound):
    """A weight that grows with the epochs that were trained since the process began."""

    def on_fit_start(self, n):
        self.growth = 1.0

    def on_epoch_end(self, epoch):
        self.growth *= 3

    def loss(self, batch):
        return super().loss(batch) * self.growth


class CountsCalls(Sound):
    """A history that depends on when the process began."""

    def on_fit_start(self, n):
        self.calls = 0

    def loss(self, batch):
        self.calls += 1
        self.log("calls", self.calls)
        return super().loss(batch)


class DropsTheCheckpoint(Sound):
    """Takes a checkpoint and writes none."""

    def fit(self, *arguments, checkpoint=None, **keywords):
        super().fit(*arguments, **keywords)


class ReadsBackwards(Counted):
    """A state that is missing when it is read."""

    def load_state_dict(self, state):
        raise KeyError("radii")


# its state survives saving and loading


class StateOfNothing(Sound):
    """A state that is no dict."""

    def state_dict(self):
        return None

    def load_state_dict(self, state):
        pass


class StateOfCode(Sound):
    """A state that only code can restore."""

    def state_dict(self):
        return {"generator": np.random.default_rng(0)}


class TakesNothingBack(Sound):
    """A state that is given and not taken back."""

    def on_fit_start(self, n):
        self.seen = torch.zeros(n)

    def loss(self, batch):
        self.seen[batch.index.cpu()] += 1
        return super().loss(batch)

    def state_dict(self):
        return {"seen": [self.seen]}


class Drifts(Sound):
    """A state that is the first of two values until it is loaded, and then the second."""

    between = (0, 0)

    def state_dict(self):
        return {"radii": self.between[0]}

    def load_state_dict(self, state):
        self.between = self.between[1:]


# a scheduler steps once an epoch


class StepsEachBatch(Sound):
    """The learning rate falls batch by batch."""

    def step(self, batch, optimizer):
        taken = super().step(batch, optimizer)
        if self.scheduler is not None:
            self.scheduler.step()
        return taken

    def fit(self, *arguments, scheduler=None, **keywords):
        self.scheduler = scheduler
        super().fit(*arguments, scheduler=scheduler, **keywords)


class DropsTheScheduler(Sound):
    """Takes a scheduler and never steps it."""

    def fit(self, *arguments, scheduler=None, **keywords):
        super().fit(*arguments, **keywords)


# never trains on validation images


class TrainsOnAll(Sound):
    """Validation images are training images."""

    def fit(self, x, y, validation_data=None, batch_size=None, nb_epochs=None, **keywords):
        if validation_data is not None:
            x, y = np.concatenate([x, validation_data[0]]), np.concatenate([y, validation_data[1]])
        super().fit(x, y, validation_data, batch_size, nb_epochs, **keywords)


class LearnsFromTheirNumber(Sound):
    """The mean of the validation images is in the loss."""

    mean = 1.0

    def fit(self, x, y, validation_data=None, batch_size=None, nb_epochs=None, **keywords):
        if validation_data is not None:
            self.mean = float(np.mean(validation_data[0]))
        super().fit(x, y, validation_data, batch_size, nb_epochs, **keywords)

    def loss(self, batch):
        return super().loss(batch) + self.mean * self.model(batch.x).square().mean()


# learns a separable task


class Unlearns(Sound):
    """The loss with the wrong sign."""

    def loss(self, batch):
        return -super().loss(batch)


# withstands attacks if it says so


class Pretends(Sound):
    """The standard loss, said to withstand attacks."""

    adversarial = True


class Saturates(Pretends):
    """Standard training whose last weights are so large that the cross-entropy has no gradient: masked, not robust."""

    def on_epoch_end(self, epoch):
        if epoch == self.training.epochs - 1:
            *_, head = (module for module in self.model.modules() if isinstance(module, torch.nn.Linear))
            with torch.no_grad():
                head.weight.mul_(1e5)
                head.bias.mul_(1e5)


# works on the GPU


class OnTheProcessor(Sound):
    """New tensors on the CPU, whatever the network is on."""

    def loss(self, batch):
        noise = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0))
        return self.criterion(self.model((batch.x + 0.01 * noise).clamp(0, 1)), batch.y)
