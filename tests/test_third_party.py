"""A stranger's plugin, from the tutorial's first command to a report, in an environment of its own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cxr_eval.store import Run

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
PROTOCOL = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "name: my-study" in block)
TUTORIAL = [
    line
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if "my_" in line or "cxr-eval-my-" in line
]
PIP = ["install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]


class Stranger:
    """A virtual environment that has all heavy packages from ours, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        purelib = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        ours = sysconfig.get_path("purelib")  # with its own .pth files, so that a checkout is found too
        (Path(purelib) / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        self.environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.environ["CXR_EVAL_CACHE"] = str(folder / "cache")

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs one command of the docs with this environment's Python."""
        program, *words = shlex.split(command)
        if program == "pip" and words[0] == "install":  # without a network, and so without what -e needs to build
            words = [*PIP, *(word for word in words[1:] if word != "-e")]
        start = ["-m", "cxr_eval.cli"] if program == "cxr-eval" else ["-m", program]
        return subprocess.run(
            [self.python, *start, *words], cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False
        )

    def done(self, command: str) -> str:
        ran = self(command)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
        return ran.stdout


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    return Stranger(tmp_path)


def origins(folder: Path) -> dict[str, str]:
    return {trainer["label"]: trainer["origin"] for trainer in Run.open(folder).manifest()["trainers"]}


def test_the_tutorial_runs_word_for_word_from_an_empty_folder_to_a_report(stranger: Stranger) -> None:
    new, install, check, test, run, check_file, run_file = TUTORIAL
    stranger.done(new)
    stranger.done(install)
    listed = stranger.done("cxr-eval plugins list trainers")
    assert re.search(r"^  my_method +cxr-eval-my-method 0\.1\.0$", listed, re.MULTILINE)
    assert re.search(r"^\d+ checks: \d+ ok(, \d+ skipped)?$", stranger.done(check).splitlines()[-1])
    assert re.search(r"^\d+ passed", stranger.done(test).splitlines()[-1].strip("= "))

    (stranger.folder / "my_protocol.yaml").write_text(PROTOCOL)
    stranger.done(f"{run} --out packaged --quiet --device cpu --set evaluate.resamples=100")
    assert origins(stranger.folder / "packaged").keys() == {"standard", "my_method(strength=0.05)", "my_method(strength=0.1)"}
    assert origins(stranger.folder / "packaged")["my_method(strength=0.1)"] == "cxr-eval-my-method 0.1.0"
    assert {cell["status"] for cell in Run.open(stranger.folder / "packaged").manifest()["cells"]} == {"done"}

    stranger.done("pip uninstall --yes --quiet cxr-eval-my-method")
    shutil.copy(stranger.folder / "cxr-eval-my-method/cxr_eval_my_method/__init__.py", stranger.folder / "my_method.py")
    stranger.done(check_file)
    stranger.done(f"{run_file} --out single --quiet --device cpu --set evaluate.resamples=100")
    assert re.fullmatch(r"my_method\.py sha256:[0-9a-f]{12}", origins(stranger.folder / "single")["my_method(strength=0.1)"])


def test_a_protocol_is_refused_with_the_nearest_name_once_its_plugin_is_uninstalled(stranger: Stranger) -> None:
    stranger.done("cxr-eval plugins new standards --out standards")
    stranger.done("pip install ./standards")
    text = "name: small\ndata: {train: {reader: phantom}}\nmodels: [small_cnn]\ntrainers: [standards]\n"
    (stranger.folder / "p.yaml").write_text(text)
    stranger.done("cxr-eval validate p.yaml")
    stranger.done("pip uninstall --yes --quiet cxr-eval-standards")
    refused = stranger("cxr-eval validate p.yaml")
    assert refused.returncode == 2
    assert refused.stderr == "p.yaml:4: trainers[0]: no trainer 'standards'; did you mean 'standard'?\n"
