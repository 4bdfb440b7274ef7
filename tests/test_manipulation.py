"""What is left of a map after a search for an image that changes it and no prediction, on images of 10 x 10 pixels."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.manipulation import ExplanationAttack
from cxr_eval.explain.similarity import map_top_overlap

SIZE, EPS = 10, 0.05


class Sums(torch.nn.Module):
    """Logits of two classes: the brightness of the upper half and of the lower one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, :, : SIZE // 2].mean(dim=(1, 2, 3)), x[:, :, SIZE // 2 :].mean(dim=(1, 2, 3))], dim=1)


def brightness(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A map that is the image: it follows each of its changes."""
    return x.mean(dim=1)


def ramp(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A map that no image changes."""
    return torch.linspace(0, 1, SIZE * SIZE).reshape(1, SIZE, SIZE).expand(len(x), -1, -1)


def explained(count: int = 4, explain: Any = brightness, **about: Any) -> cxr.Explained:
    """Images in whose upper half there is a little more, near 0.5, so that a small change turns the order of pixels round."""
    rng = np.random.default_rng(0)
    x = (0.5 + rng.uniform(-0.02, 0.02, (count, 1, SIZE, SIZE))).astype(np.float32)
    x[:, :, : SIZE // 2] += 0.01
    target = np.zeros(count, dtype=np.int64)
    maps = explain(None, torch.from_numpy(x), torch.from_numpy(target)).numpy()
    settings = {"model": Sums(), "x": x, "target": target, "maps": maps, "explain": explain, "region": None, "kinds": ()}
    return cxr.Explained(**settings | {"classes": 2, "seed": 0, "task": "multiclass"} | about)


def metric(**settings: Any) -> ExplanationAttack:
    return ExplanationAttack(**{"eps": EPS, "queries": 30, "share": 0.1} | settings)


def test_a_map_that_follows_the_image_is_moved_and_one_that_does_not_is_left() -> None:
    moved = metric().measure(explained())["explanation_attack"]
    assert (moved <= 0.5).all()
    left = metric().measure(explained(explain=ramp))["explanation_attack"]
    assert left.tolist() == [1.0] * 4


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_image_found_is_within_eps_keeps_the_prediction_and_leaves_what_the_value_says(task: str) -> None:
    asked = explained(task=task)
    values, worst = metric().search(asked)
    assert np.abs(worst - asked.x).max() <= EPS + 1e-6
    assert (worst >= 0).all()
    assert (worst <= 1).all()
    before, after = (asked.model(torch.from_numpy(x)) for x in (asked.x, worst))
    if task == "multiclass":
        assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    else:
        assert torch.equal(before[:, 0] > 0, after[:, 0] > 0)
    maps = brightness(asked.model, torch.from_numpy(worst), torch.zeros(4)).numpy()
    np.testing.assert_allclose(values, map_top_overlap(asked.maps, maps, share=0.1))


def test_every_step_keeps_the_prediction_and_no_more_are_taken_than_asked() -> None:
    shown: list[torch.Tensor] = []

    def watch(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shown.append(x.clone())
        return brightness(model, x, target)

    asked = explained(1, explain=watch)
    label = int(asked.model(torch.from_numpy(asked.x)).argmax())
    shown.clear()
    metric(queries=25).measure(asked)
    assert 0 < len(shown) < 25  # some squares would turn the prediction, and are not explained
    assert all(int(asked.model(x).argmax()) == label for x in shown)


def test_where_any_change_turns_the_prediction_the_map_is_left() -> None:
    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            same = (x == first).flatten(1).all(dim=1).float()
            return torch.stack([same, 1 - same], dim=1)

    asked = explained(1)
    first = torch.from_numpy(asked.x)
    values, worst = metric().search(explained(1, model=Exact()))
    assert values.tolist() == [1.0]
    assert np.array_equal(worst, asked.x)


def test_more_queries_never_leave_more_of_the_map() -> None:
    class First(ExplanationAttack):
        def _squares(self, x: torch.Tensor, seed: int) -> Any:
            return metric()._squares(x, seed)[: self.params.queries]

    settings = {"eps": EPS, "share": 0.1}
    values = [First(queries=queries, **settings).measure(explained())["explanation_attack"] for queries in (1, 5, 15, 30)]
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(values))
    assert values[-1].mean() < values[0].mean()


def test_an_image_has_the_same_value_alone_and_the_same_each_time() -> None:
    asked = explained()
    together = metric().measure(asked)["explanation_attack"]
    assert np.array_equal(metric().measure(explained())["explanation_attack"], together)
    for k in range(4):
        alone = explained(x=asked.x[k : k + 1], target=asked.target[:1], maps=asked.maps[k : k + 1])
        assert metric().measure(alone)["explanation_attack"] == together[k]


def test_a_map_that_says_nothing_has_no_value_and_one_that_becomes_so_is_not_taken() -> None:
    maps = np.stack([np.full((SIZE, SIZE), 0.3), np.full((SIZE, SIZE), np.nan)]).astype(np.float32)
    assert np.isnan(metric().measure(explained(2, maps=maps))["explanation_attack"]).all()

    def vanishing(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[:, 0])

    asked = explained(2)
    gone = explained(2, explain=vanishing, maps=asked.maps)
    assert metric().measure(gone)["explanation_attack"].tolist() == [1.0, 1.0]
    empty = explained(0, explain=ramp)
    assert metric().measure(empty)["explanation_attack"].shape == (0,)
