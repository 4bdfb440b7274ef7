"""The networks of the papers' protocols: the list of 21, and a logit a finding from every family."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import cxr_eval.api as cxr
from cxr_eval.classifier import Classifier
from cxr_eval.models.small_cnn import SmallCNN
from cxr_eval.models.timm_zoo import Timm
from cxr_eval.models.truncated_densenet import TruncatedDenseNet121
from cxr_eval.models.weights import last_layer
from cxr_eval.models.zoo import Monai, Torchvision

LIST = Path(__file__).parents[1] / "protocols" / "models" / "covid_21.yaml"
COVID_21 = yaml.safe_load(LIST.read_text(encoding="utf-8"))


def test_the_21_networks_are_torchvisions_and_their_weights_are_known_by_name() -> None:
    names = [entry["name"] for entry in COVID_21]
    assert len(names) == len(set(names)) == 21
    assert "efficientnet_v2_s" in names  # the one confirmed name
    assert {family for family in ("vgg", "resnet", "densenet", "efficientnet") if any(n.startswith(family) for n in names)} == {
        "vgg",
        "resnet",
        "densenet",
        "efficientnet",
    }
    for entry in COVID_21:
        assert Torchvision.member(entry["name"])(weights=entry["weights"]).params.weights == "IMAGENET1K_V1"


def test_the_networks_of_timm_that_the_list_speaks_of_are_there() -> None:
    spoken = set(re.findall(r"timm/(\w+)", LIST.read_text(encoding="utf-8")))
    assert len(spoken) == 8
    assert spoken <= set(Timm.names())


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry["name"] for entry in COVID_21])
def test_each_of_the_21_networks_learns_a_step(name: str) -> None:
    torch.manual_seed(0)
    net = Torchvision.member(name)().build(channels=3, classes=3, size=96)
    torch.nn.functional.cross_entropy(net.train()(torch.rand(2, 3, 96, 96)), torch.tensor([0, 2])).backward()
    gradients = [weight.grad for weight in net.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients if gradient is not None)


MULTILABEL: dict[str, type[cxr.ModelBuilder]] = {
    "resnet18": Torchvision.member("resnet18"),
    "googlenet": Torchvision.member("googlenet"),
    "mobilenet_v3_small": Torchvision.member("mobilenet_v3_small"),
    "monai/DenseNet121": Monai.member("DenseNet121"),
    "monai/resnet10": Monai.member("resnet10"),
    "timm/resnetv2_18": Timm.member("resnetv2_18"),
    "timm/tf_efficientnetv2_b0": Timm.member("tf_efficientnetv2_b0"),
    "truncated_densenet121": TruncatedDenseNet121,
    "small_cnn": SmallCNN,
}


@pytest.mark.parametrize("name", MULTILABEL)
def test_networks_of_every_family_give_a_logit_a_finding_and_learn_them(name: str) -> None:
    torch.manual_seed(0)
    net = MULTILABEL[name]().build(channels=1, classes=14, size=32)
    before = {key: value.clone() for key, value in net.named_parameters()}
    classifier = Classifier(
        net,
        input_shape=(1, 32, 32),
        nb_classes=14,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.01),
        task="multilabel",
        device="cpu",
    )
    x = torch.rand(4, 1, 32, 32)
    y = (torch.rand(4, 14) < 0.3).float()
    y[0, 3] = float("nan")  # not known
    assert classifier.logits(x).shape == (4, 14)
    net.train()
    classifier.optimizer.zero_grad()
    loss = classifier._loss(classifier.model(x), y)
    loss.backward()
    classifier.optimizer.step()
    assert loss.isfinite()
    after = dict(net.named_parameters())
    assert all(value.isfinite().all() for value in after.values())
    head = last_layer(net)
    assert not torch.equal(after[f"{head}.weight"], before[f"{head}.weight"])
