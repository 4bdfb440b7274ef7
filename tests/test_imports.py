"""What is loaded by what, each time in a fresh process; and that loading leaves no trace."""

import subprocess
import sys

import pytest

HEAVY = ("art", "captum", "monai", "quantus", "sklearn", "torch", "torchvision")


def in_a_fresh_process(script):
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize(
    "modules",
    [
        "cxr_eval.store, cxr_eval.stats.rows, cxr_eval.protocol",
        "cxr_eval.protocol_file, cxr_eval.registry, cxr_eval.training",
        "cxr_eval.cli",
    ],
)
def test_protocol_store_rows_and_command_line_load_no_heavy_library(modules):
    script = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_a_fresh_process(script) == "[]"


def test_the_plugin_interface_loads_neither_quantus_nor_monai():
    script = f"import sys, cxr_eval.api; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = in_a_fresh_process(script)
    assert "quantus" not in loaded
    assert "monai" not in loaded


def test_importing_draws_no_random_number_and_sets_no_thread_or_device_default():
    script = """
import numpy as np, torch
torch.manual_seed(1); np.random.seed(1)
before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads(), torch.get_default_dtype()
import cxr_eval.api, cxr_eval.trainers.pgd, cxr_eval.trainers.fgsm, cxr_eval.trainers.standard, cxr_eval_noise
assert torch.equal(torch.get_rng_state(), before[0])
assert (np.random.get_state()[1] == before[1]).all()
assert torch.get_num_threads() == before[2]
assert torch.get_default_dtype() == before[3]
"""
    in_a_fresh_process(script)


def test_every_public_name_of_the_interface_is_there():
    import cxr_eval.api as cxr

    assert cxr.__all__ == sorted(cxr.__all__)
    assert all(hasattr(cxr, name) for name in cxr.__all__)
    assert isinstance(cxr.API_VERSION, int)
