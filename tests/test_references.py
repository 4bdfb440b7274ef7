"""Maps that know nothing of the network, and explainers that are no better."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from cxr_eval.explain.references import Centre, Constant, Edges, Random
from cxr_eval.explanation_doubts import beaten
from cxr_eval.stats.intervals import Resampling


def drawn(reference: Any, x: torch.Tensor) -> torch.Tensor:
    maps: torch.Tensor = reference.explain(torch.nn.Identity(), x, torch.zeros(len(x), dtype=torch.int64))
    return maps


@pytest.mark.parametrize("kind", [Random, Centre, Edges, Constant])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_reference_gives_an_image_the_same_map_alone_and_in_any_order(kind: Any, channels: int) -> None:
    x = torch.rand((5, channels, 9, 7), generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    together, backwards = drawn(kind(), x), drawn(kind(), x.flip(0)).flip(0)
    assert together.shape == (5, 9, 7)
    assert together.dtype == torch.float32
    assert (together >= 0).all()
    torch.testing.assert_close(together, backwards)  # a convolution may sum in another order
    torch.testing.assert_close(together[2:3], drawn(kind(), x[2:3]))
    assert drawn(kind(), x[:0]).shape == (0, 9, 7)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_edges_are_the_size_of_scipys_sobel_gradient() -> None:
    x = torch.rand((2, 1, 12, 9), generator=torch.Generator().manual_seed(0))
    for image, found in zip(x[:, 0].numpy(), drawn(Edges(), x).numpy(), strict=True):
        expected = np.hypot(*(ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)))
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32, 18 additions of numbers up to 4
    assert (drawn(Edges(), torch.full((1, 1, 8, 8), 0.3)) < 1e-6).all()


def test_a_step_of_one_is_an_edge_of_four_on_either_side_of_it() -> None:
    x = torch.zeros((1, 1, 6, 6))
    x[..., 3:] = 1
    # 1 + 2 + 1 rows times a difference of 1
    assert drawn(Edges(), x)[0, 2].tolist() == [0, 0, 4, 4, 0, 0]


def test_the_blob_is_largest_in_the_middle_and_alike_on_all_sides() -> None:
    blob = drawn(Centre(), torch.zeros((1, 1, 9, 9)))[0]
    assert blob.argmax() == 4 * 9 + 4
    torch.testing.assert_close(blob, blob.flip(0))
    torch.testing.assert_close(blob, blob.T)
    # the border is half a side away: two standard deviations of a quarter
    assert blob[0, 4] == pytest.approx(np.exp(-2), rel=1e-6)


def test_noise_differs_from_image_to_image_and_from_seed_to_seed() -> None:
    x = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    first, other = drawn(Random(seed=1), x), drawn(Random(seed=2), x)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert float(first.mean()) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 512))  # four standard errors


def table(explainer: str, values: list[float], metric: str = "relevance_mass[lesion]") -> pd.DataFrame:
    count = len(values)
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(count)],
            "patient": [f"p{k}" for k in range(count)],
            "target": "a",
            "explainer": explainer,
            "metric": metric,
            "value": values,
        }
    )


BETTER = {"relevance_mass[lesion]": "higher", "pixel_flipping": "lower", "relevance_mass[heart]": "neither"}
ASKED: dict[str, Any] = {
    "better": BETTER,
    "scope": "cell, test, clean",
    "resampling": Resampling(resamples=200, min_patients=1),
}


def found(*tables: pd.DataFrame) -> list[tuple[str, str]]:
    warnings = beaten(pd.concat(tables, ignore_index=True), explainers=["gradcam"], **ASKED)
    return [(warning.code, warning.scope) for warning in warnings]


def test_an_explainer_that_is_better_on_every_image_is_not_flagged() -> None:
    edges = [0.1, 0.2, 0.3, 0.4]
    good = table("gradcam", [0.5, 0.6, 0.8, 0.9])
    assert found(good, table("edges", edges), table("randomised(gradcam)", edges)) == []


def test_an_explainer_that_is_worse_or_the_same_is_flagged_once_for_each_reference_and_metric() -> None:
    edges = [0.1, 0.2, 0.3, 0.4]
    scope = "cell, test, clean, gradcam, relevance_mass[lesion]"
    both = [("not_better_than_edges", scope), ("not_better_than_random_network", scope)]
    for values in (edges, [0.0, 0.1, 0.1, 0.2]):
        assert found(table("gradcam", values), table("edges", edges), table("randomised(gradcam)", edges)) == both
    assert found(table("gradcam", edges), table("edges", edges)) == both[:1]


def test_where_lower_is_better_the_lower_value_wins() -> None:
    low, high = [0.1, 0.2, 0.1, 0.2], [0.5, 0.6, 0.7, 0.8]
    named = {"metric": "pixel_flipping"}
    assert found(table("gradcam", low, **named), table("edges", high, **named)) == []
    assert len(found(table("gradcam", high, **named), table("edges", low, **named))) == 1


def test_what_is_neither_better_or_undefined_or_of_one_patient_is_not_judged() -> None:
    worse, edges, nothing = [0.0] * 4, [0.5] * 4, [float("nan")] * 4
    assert found(table("gradcam", worse, "relevance_mass[heart]"), table("edges", edges, "relevance_mass[heart]")) == []
    assert found(table("gradcam", worse, "complexity"), table("edges", edges, "complexity")) == []
    assert found(table("gradcam", nothing), table("edges", edges)) == []
    assert found(table("gradcam", worse), table("edges", nothing)) == []
    assert found(table("gradcam", worse).assign(patient="p"), table("edges", edges).assign(patient="p")) == []


def test_the_warning_names_the_metric_and_is_the_same_for_every_network() -> None:
    said = set()
    for value in (0.25, 0.3):
        tables = [
            table("gradcam", [value] * 4), table("edges", [0.5] * 4),
            table("gradcam", [0.1] * 4, "pixel_flipping"), table("edges", [0.5] * 4, "pixel_flipping"),
        ]  # fmt: skip
        (warning,) = beaten(pd.concat(tables), explainers=["gradcam"], **ASKED)
        assert warning.level == "warn"
        said.add(warning.message)
    assert said == {
        "gradcam is not better than the edges of the image by relevance_mass[lesion]: image by image, the 95% interval over"
        " patients of the difference does not lie on the good side of 0, so by this measure its maps do not show what the"
        " network learned."
    }
