"""How much faster our ROAD and infidelity are than Quantus', and that they say the same.

Run by hand: `python tests/benchmarks/bench_explanations.py [rounds]`. ResNet-18, 64 x 64 pixels, 1 channel, 16 images, one
thread; a round takes a minute or more, most of it Quantus' infidelity. The two take turns, so that a busy machine slows both;
medians of CPU time. ROAD has Quantus' 50 percentages. Quantus' infidelity puts one patch upon the other and measures the same
ten times; for the values it is asked to take each patch from the whole image, as the paper does and we do.
"""

import statistics
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import quantus
import torch
import torchvision
from scipy.ndimage import gaussian_filter

import cxr_eval.api as cxr
from cxr_eval.explain.infidelity import Infidelity
from cxr_eval.explain.methods import Saliency
from cxr_eval.explain.road import ROAD, imputed

N, SIZE, CLASSES, PATCH = 16, 64, 3, 8
PERCENTAGES = tuple(range(1, 100, 2))  # Quantus' own


def network():
    """A ResNet-18 for grey images, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=CLASSES)
        model.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model.eval()


def explained():
    """Images whose maps are smooth as a class activation map is: large holes, which are the hardest to fill."""
    rng = np.random.default_rng(0)
    x = rng.random((N, 1, SIZE, SIZE), dtype=np.float32)
    model = network()
    with torch.no_grad():
        target = model(torch.from_numpy(x)).argmax(dim=1).numpy()
    maps = np.stack([gaussian_filter(rng.random((SIZE, SIZE)), 3) for _ in range(N)]).astype(np.float32)
    return cxr.Explained(
        model=model,
        x=x,
        target=target,
        maps=maps,
        explain=lambda model, x, target: x[:, 0],
        region=lambda kind: np.zeros((N, SIZE, SIZE), dtype=bool),
        kinds=(),
        classes=CLASSES,
        seed=0,
    )


def by_quantus(metric, case, **call):
    """Quantus' own class with its own defaults but for what the metric is given here."""
    return metric(
        model=case.model,
        x_batch=case.x.copy(),
        y_batch=case.target,
        a_batch=case.maps[:, None].astype(np.float64),
        channel_first=True,
        device="cpu",
        **call,
    )


def from_the_whole_image(x):
    """Quantus' `perturb_func` that begins each patch from the image itself, not from the one before."""

    def perturb(arr, indices, **_):
        whole = x.reshape(len(x), -1).copy()
        whole[np.arange(len(x))[:, None], indices] = 0
        return whole

    return perturb


def imputed_apart(case):
    """Largest difference of grey values between our filling and Quantus', over images and some percentages."""
    order = np.argsort(-case.maps.reshape(N, -1), axis=1)
    worst = 0.0
    for percentage in (1, 25, 50, 75, 99):
        taken = order[:, : int(SIZE * SIZE * percentage / 100)]
        missing = np.zeros((N, SIZE * SIZE), dtype=bool)
        np.put_along_axis(missing, taken, True, axis=1)
        ours = imputed(torch.from_numpy(case.x), torch.from_numpy(missing).view(N, SIZE, SIZE)).numpy()
        fill = quantus.functions.perturb_func.noisy_linear_imputation
        theirs = np.stack([fill(x, pixels, noise=0.0) for x, pixels in zip(case.x, taken, strict=True)])
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


def main(rounds):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Quantus: of percentages that changed nothing
    case = explained()
    quiet = {"disable_warnings": True, "display_progressbar": False}

    smooth = case.maps
    slopes = Saliency(absolute=False).explain(case.model, torch.from_numpy(case.x), torch.from_numpy(case.target)).numpy()
    for name, maps in (("slopes", slopes), ("smooth", smooth)):
        case = replace(case, maps=maps)
        found, times = in_turns(
            rounds,
            lambda case=case: by_quantus(quantus.ROAD(noise=0.0, **quiet), case),
            lambda case=case: ROAD(percentages=PERCENTAGES, noise=0.0).hits(case).mean(axis=0),
        )
        apart = np.abs(np.array(list(found[0].values())) - found[1]).max()
        grey = f"grey values by {imputed_apart(case):.1e} (target 1e-6)"
        print(f"ROAD, {name} maps: {times}; accuracies apart by {apart:.3f}, {grey}", flush=True)

    case = replace(case, maps=slopes)
    settings = {"perturb_patch_sizes": [PATCH], "perturb_func": from_the_whole_image(case.x)}
    found, times = in_turns(
        rounds,
        lambda: by_quantus(quantus.Infidelity(**settings, **quiet), case),
        lambda: Infidelity(patch=PATCH, scale="none").scores(case),
    )
    apart = np.abs(np.asarray(found[0]) / found[1] - 1).max()
    print(f"infidelity: {times}; values apart by {apart:.1e} of them if Quantus too begins from the whole image", flush=True)
    default = by_quantus(quantus.Infidelity(perturb_patch_sizes=[PATCH], n_perturb_samples=1, **quiet), case)
    print(
        f"infidelity as Quantus has it, patch upon patch: {np.median(np.asarray(default) / found[1]):.3g} times ours",
        flush=True,
    )


def in_turns(rounds, theirs, ours):
    """What both last said, and one line about the seconds they took."""
    taken, found = ([], []), [None, None]
    for _ in range(rounds):
        for who, measure in enumerate((theirs, ours)):
            started = time.process_time()
            found[who] = measure()
            taken[who].append(time.process_time() - started)
    ratio = statistics.median(a / b for a, b in zip(*taken, strict=True))
    seconds = f"Quantus {statistics.median(taken[0]):6.2f} s, ours {statistics.median(taken[1]):6.2f} s"
    return found, f"{seconds}, ratio {ratio:.1f} (target >= 5)"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
