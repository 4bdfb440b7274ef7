"""Small runs on drawn images, whole and real, for tests of what reads run folders."""

from __future__ import annotations

from pathlib import Path

from cxr_eval import runner
from cxr_eval.protocol_file import load
from cxr_eval.store import Run

PROTOCOL = """
name: small
data:
  train: {reader: phantom, patients: 45, size: 48, seed: 3}
  outside:
    elsewhere: {reader: phantom, site: outside, patients: 12, size: 48, seed: 4}
  size: 32
models: [{name: small_cnn, widths: [4, 8, 8, 8]}]
train: {epochs: 4, batch_size: 16, optimizer: {name: adam, lr: 3.0e-3}, select: {metric: last}, seeds: [0, 1]}
trainers:
  - standard
  - {name: fgsm, eps: 0.02}
attacks:
  - {name: fgsm, eps: [0.01, 0.02]}
  - {name: pgd, eps: [0.01, 0.02], steps: 3, after: fgsm}
  - {name: pgd, label: borrowed, eps: 0.02, steps: 3, transfer_from: standard}
  - {name: pgd, label: long, norm: l2, eps: 0.5, steps: 3}
corruptions:
  - {name: gaussian_noise, severity: [1, 5]}
explain:
  methods: [gradcam, saliency]
  metrics: [relevance_mass, {name: pixel_flipping, label: flipping, steps: 4}, localisation_auc]
  conditions: [clean, {name: fgsm, eps: 0.02}]
  images: 6
evaluate:
  resamples: 100
  min_patients: 2
  validity: {images: 8, steps: 4, restarts: 1}
  anatomy: {images: 6, steps: 2}
report: {formats: [html, md], gallery: 1}
"""


def finished_run(folder: Path, *sets: str, text: str = PROTOCOL) -> Run:
    """The run of a protocol in `folder`/run; prepared images go where CXR_EVAL_CACHE says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "protocol.yaml"
    path.write_text(text, encoding="utf-8")
    return Run.open(runner.run(load(path, sets=sets), out=folder / "run", device="cpu").folder)
