"""What files do to pictures: compression, few grey levels, few pixels."""

from __future__ import annotations

import io

import numpy as np
import torch

from cxr_eval.attacks.corruptions.single import SingleImage

QUALITY = (80, 50, 25, 15, 10)
"""Quality of the JPEG file, by severity. 80 is usual on web pages; 25, 15 and 10 are severities 1, 3 and 4 of ImageNet-C (25,
18, 15, 10, 7)."""

BITS = (7, 6, 5, 4, 3)
"""Bits a pixel, by severity; ours. Half of the 256 levels are not missed by anyone; below 8 levels an opacity and the lung
around it fall into one."""

RESOLUTION = (0.75, 0.6, 0.5, 0.35, 0.25)
"""Share of the pixels along a side that is left, by severity; ours up to ImageNet-C's last (pixelate: 0.6, 0.5, 0.4, 0.3,
0.25); a quarter of 224 is 56."""


class JPEG(SingleImage):
    """Stored as a JPEG file of 8 bits and read again, by Pillow.

    At severity 5 the blocks of 8 pixels are seen and lung texture is gone; heart, diaphragm, effusions and opacities larger
    than two or three blocks are plain.
    """

    source = "ISO/IEC 10918-1; Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (kind); qualities are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture as read from its file; nothing in it is random. Three channels are one coloured picture."""
        pixels = (255 * image).round().byte().numpy()
        if len(pixels) == 3:
            read = _through_file(pixels.transpose(1, 2, 0), QUALITY[severity - 1]).transpose(2, 0, 1)
        else:
            read = np.stack([_through_file(channel, QUALITY[severity - 1]) for channel in pixels])
        return torch.from_numpy(read.astype(np.float32) / 255)


class BitDepth(SingleImage):
    """Few grey levels: 2**bits from black to white, each value at the nearest.

    At severity 5 eight greys are left and smooth places show steps like a map's height lines; heart, bones and dense opacities
    are plain, faint ones may be a step or none.
    """

    source = "rounding to 2**bits levels; bits 7, 6, 5, 4, 3 are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture in few levels; nothing in it is random."""
        steps = (1 << BITS[severity - 1]) - 1
        return (image * steps).round() / steps


class Resize(SingleImage):
    """Made smaller, with neighbours averaged, and back to its size, bilinear.

    At severity 5 a quarter of the pixels of each side is left, 56 of 224: heart, effusions and opacities of 2 cm are plain,
    lines and nodules below 1 cm are gone.
    """

    source = "Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (pixelate, here bilinear); shares are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture after both changes of size; nothing in it is random."""
        height, width = image.shape[-2:]
        fewer = [max(1, round(RESOLUTION[severity - 1] * length)) for length in (height, width)]
        small = torch.nn.functional.interpolate(image[None], fewer, mode="bilinear", antialias=True)
        back: torch.Tensor = torch.nn.functional.interpolate(small, [height, width], mode="bilinear")[0]
        return back


def _through_file(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Pixels, uint8 (H, W) or (H, W, 3), written to a JPEG file in memory and read again."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=quality)
    file.seek(0)
    with Image.open(file) as image:
        return np.asarray(image)
