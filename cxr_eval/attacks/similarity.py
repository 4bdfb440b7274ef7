"""How alike two pictures look: structural similarity."""

from __future__ import annotations

import torch

_GAUSSIAN_WINDOW = 11
_UNIFORM_WINDOW = 7


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image to its partner, float32 (N,): 1 if equal, around 0 if nothing is alike, at least -1.

    a, b: images, (N, C, H, W) in [0, 1]. The mean over channels and all windows that lie in the picture; the windows are
    Gaussian, 11 pixels with standard deviation 1.5, or, where a side has fewer, even, of 7 pixels or all that the shorter side
    has. Two even pictures of grey m and n have (2mn + c) / (m**2 + n**2 + c), c = 0.0001. Computed in float32.

    Raises:
        ValueError: the shapes differ, or are not (N, C, H, W).

    Source: Wang et al., IEEE Transactions on Image Processing 2004, doi:10.1109/TIP.2003.819861, equation 13; MONAI's.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"expected two batches of images of one shape (N, C, H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
    if len(a) == 0:
        return a.new_zeros(0, dtype=torch.float32)
    shorter = min(a.shape[-2:])
    gaussian = shorter >= _GAUSSIAN_WINDOW
    window = _GAUSSIAN_WINDOW if gaussian else min(_UNIFORM_WINDOW, shorter)
    values, _ = compute_ssim_and_cs(
        a.detach(),
        b.detach(),
        spatial_dims=2,
        kernel_size=(window, window),
        kernel_sigma=(1.5, 1.5),
        kernel_type="gaussian" if gaussian else "uniform",
    )
    similar: torch.Tensor = values.flatten(1).mean(dim=1)
    return similar
