"""How many images a second are prepared, and how much memory and disk that takes.

Run by hand: `python tests/benchmarks/bench_preparing.py [images] [--files N] [--side PIXELS] [--size PIXELS]`. Grey PNGs of
1024 x 1024 pixels, as NIH ChestX-ray14 has, prepared at 224 for three channels, with a lung mask for each. Few files are drawn
and linked under as many names as there are images, so that a large number needs no disk. The second column of the
extrapolation is the 112,120 images of ChestX-ray14.
"""

import argparse
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxr_eval.data.prepared import prepare
from cxr_eval.images import ImageSet

NIH = 112_120
MIB = 2**20


def peak():
    """The most memory this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held_now():
    """Memory that this process holds and could not be taken from it, MiB: without pages of files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


def draw(folder, images, files, side):
    """A manifest of `images` names for `files` pictures and masks."""
    rng = np.random.default_rng(0)
    for number in range(files):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32)).astype(np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"drawn-{number}.png")
        lung = np.zeros((side, side), dtype=np.uint8)
        lung[side // 4 : -side // 4, side // 8 : -side // 8] = 255
        Image.fromarray(lung).save(folder / f"mask-{number}.png")
    rows = []
    for number in range(images):
        os.link(folder / f"drawn-{number % files}.png", folder / f"{number}.png")
        rows.append((str(folder / f"{number}.png"), f"{number}", str(folder / f"mask-{number % files}.png")))
    return pd.DataFrame(rows, columns=["image", "image_id", "mask:lung"], dtype=object)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="?", default=2000)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--size", type=int, default=224)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "drawn").mkdir()
        table = draw(folder / "drawn", chosen.images, chosen.files, chosen.side)
        options = {"size": chosen.size, "channels": 3, "resize": "squash", "colour": True, "reader": "drawn"}
        held, stop = [], threading.Event()

        def watch():
            while not stop.wait(0.2):
                held.append(held_now())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        done = prepare(table, cache=folder / "cache", **options)
        first = time.perf_counter() - started
        stop.set()
        watcher.join()
        started = time.perf_counter()
        done = prepare(table, cache=folder / "cache", **options)
        again = time.perf_counter() - started
        disk = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file()) / MIB
        images = ImageSet(
            done.pixels,
            np.arange(chosen.images),
            np.zeros(chosen.images, int),
            done.table,
            ("a", "b"),
            "train",
            done.regions,
            3,
        )
        started = time.perf_counter()
        for start in range(0, min(chosen.images, 1024), 32):
            images.take(np.arange(start, min(start + 32, chosen.images)))
        took = time.perf_counter() - started
        rate = chosen.images / first
        print(f"{chosen.images} images of {chosen.side} pixels at {chosen.size}, each with a mask")
        print(f"prepared      {first:8.1f} s, {rate:.0f} images/s      {NIH} images: {NIH / rate / 60:.0f} min")
        print(f"found again   {again:8.1f} s                   {NIH} images: {again * NIH / chosen.images:.0f} s")
        print(f"disk          {disk:8.1f} MiB                 {NIH} images: {disk * NIH / chosen.images / 1024:.2f} GiB")
        middle = held[len(held) // 2]
        print(f"memory        {peak():8.1f} MiB at its peak; without files {max(held):.0f} at most, {middle:.0f} half-way")
        print(f"read          {min(chosen.images, 1024) / took:8.0f} images/s in batches of 32")


if __name__ == "__main__":
    main()
