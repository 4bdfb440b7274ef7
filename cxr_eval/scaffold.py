"""The files of a new plugin: a trainer in a distribution of its own, which passes its checks as it is written."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import version
from pathlib import Path
from string import Template

from cxr_eval.errors import PluginError
from cxr_eval.registry import installed, package_of

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "The trainer $name for cxr-eval."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["cxr-eval>=$cxr_eval"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points."cxr_eval.trainers"]
$name = "$package:$cls"

[tool.hatch.build.targets.wheel]
packages = ["$package"]
"""

_CODE = '''\
"""The trainer $name: one loss, and cxr-eval does the rest."""

import torch

import cxr_eval.api as cxr


class $cls(cxr.Trainer):
    """Cross-entropy on images that are each made brighter or darker at random.

    An example that works; put your method in its place.
    """

    source = "an example; name the paper and its equation here"

    class Params(cxr.Params):
        strength: float = cxr.Field(0.1, ge=0, le=1, description="largest change of brightness, in [0, 1] (our choice)")

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        draw = torch.rand(len(batch.x), 1, 1, 1, generator=self.rng, device=self.device)
        change = self.params.strength * (2 * draw - 1)
        return self.criterion(self.model((batch.x + change).clamp(0, 1)), batch.y)
'''

_TEST = '''\
"""$cls keeps the contract of a trainer; what is particular to the method has its own tests here."""

from $package import $cls
from cxr_eval.testing import parametrize_with_checks


@parametrize_with_checks($cls)
def test_is_a_sound_trainer(check):
    check()
'''

_README = """\
# $distribution

The trainer `$name` for cxr-eval.

```console
pip install -e ".[test]"
cxr-eval plugins check $name
pytest
```

In a protocol:

```yaml
trainers:
  - standard
  - {name: $name, strength: 0.1}
```
"""


def new_trainer(name: str, folder: Path | None = None) -> list[Path]:
    """The files of a new trainer plugin, written; the first is the one to edit.

    name: as a protocol will write it. folder: new or empty, `cxr-eval-NAME` in this folder if not given.

    Raises:
        PluginError: the name cannot be one or is taken; the folder holds something or cannot be written.
    """
    _check_name(name)
    words = name.split("_")
    distribution = "-".join(["cxr-eval", *words])
    package, cls = f"cxr_eval_{name}", "".join(word.capitalize() for word in words) + "Trainer"
    folder = Path(distribution) if folder is None else folder
    texts = {
        f"{package}/__init__.py": _CODE,
        f"tests/test_{name}.py": _TEST,
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
    }
    values = {"name": name, "distribution": distribution, "package": package, "cls": cls, "cxr_eval": version("cxr-eval")}
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PluginError(f"{folder}: is there already; name a new folder with --out")
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(values), encoding="utf-8")
    except OSError as error:
        raise PluginError(f"{folder}: cannot be written: {error.strerror}; name another folder with --out") from None
    return [folder / path for path in texts]


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise PluginError(f"expected a name in lower case such as my_method, got '{name}'")
    if keyword.iskeyword(name):
        raise PluginError(f"'{name}' is a word of Python; choose another name")
    point = installed("trainers").get(name)
    if point is not None:
        raise PluginError(f"the trainer '{name}' is registered by {package_of(point)} already; choose another name")
