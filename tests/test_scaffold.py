"""A new plugin is a package that holds what it says, and writes over nothing."""

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from cxr_eval import registry
from cxr_eval.cli import main
from cxr_eval.errors import PluginError
from cxr_eval.scaffold import new_trainer


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    yield
    registry.forget_files()


def call(*words):
    return CliRunner().invoke(main, ["plugins", "new", *words])


def test_a_new_trainer_is_a_package_with_an_entry_point_a_readme_and_a_test():
    files = new_trainer("soft_light")
    folder = Path("cxr-eval-soft-light")
    assert sorted(folder.rglob("*.*")) == sorted(files)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "cxr-eval-soft-light"
    assert project["dependencies"] == [f"cxr-eval>={version('cxr-eval')}"]
    assert project["entry-points"]["cxr_eval.trainers"] == {"soft_light": "cxr_eval_soft_light:SoftLightTrainer"}
    assert "from cxr_eval_soft_light import SoftLightTrainer\n" in (folder / "tests/test_soft_light.py").read_text()
    assert "{name: soft_light, strength: 0.1}" in (folder / "README.md").read_text()


def test_no_word_of_the_template_is_left():
    assert not [file for file in new_trainer("soft") if "$" in file.read_text()]


def test_the_plugin_of_a_new_package_is_the_trainer_that_it_is_named_after():
    code = new_trainer("soft_light")[0]
    registry.register_file(code)
    cls = registry.find("trainers", "soft_light")
    assert cls.__name__ == "SoftLightTrainer"
    assert cls.Params().strength == 0.1
    imported = [
        alias.name for node in ast.walk(ast.parse(code.read_text())) if isinstance(node, ast.Import) for alias in node.names
    ]
    assert imported == ["torch", "cxr_eval.api"]


def test_the_command_says_what_it_wrote_and_how_to_go_on():
    result = call("soft", "--out", "my plugins/soft")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "Wrote\n"
        "  my plugins/soft/cxr_eval_soft/__init__.py\n"
        "  my plugins/soft/tests/test_soft.py\n"
        "  my plugins/soft/pyproject.toml\n"
        "  my plugins/soft/README.md\n"
        "Next\n"
        "  pip install -e './my plugins/soft'\n"
        "  cxr-eval plugins check soft\n"
        "  pytest './my plugins/soft'\n"
    )


def test_a_folder_elsewhere_is_named_in_full(tmp_path):
    result = call("soft", "--out", str(tmp_path / "away"))
    assert result.stdout.endswith(
        f"  pip install -e {tmp_path}/away\n  cxr-eval plugins check soft\n  pytest {tmp_path}/away\n"
    )


def test_an_empty_folder_is_taken():
    Path("mine").mkdir()
    new_trainer("soft", Path("mine"))
    assert Path("mine/pyproject.toml").is_file()


def test_nothing_is_written_over():
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("cxr-eval-soft").write_text("a file")
    assert call("soft", "--out", "mine").stderr == "mine: is there already; name a new folder with --out\n"
    assert call("soft").stderr == "cxr-eval-soft: is there already; name a new folder with --out\n"
    assert call("soft").exit_code == 2
    assert sorted(Path("mine").iterdir()) == [Path("mine/notes.txt")]


def test_a_folder_that_cannot_be_written_is_named():
    Path("file").write_text("")
    with pytest.raises(PluginError, match=r"^file/in: cannot be written: Not a directory; name another folder with --out$"):
        new_trainer("soft", Path("file/in"))


@pytest.mark.parametrize(
    "name", ["", "My", "9lives", "with-dash", "with space", "_hidden", "end_", "two__lines", "grün", "a/b", "../x"]
)
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(PluginError) as caught:
        new_trainer(name)
    assert str(caught.value) == f"expected a name in lower case such as my_method, got '{name}'"
    assert not list(Path().iterdir())


def test_a_word_of_python_is_refused():
    with pytest.raises(PluginError, match=r"^'lambda' is a word of Python; choose another name$"):
        new_trainer("lambda")


def test_a_name_that_is_taken_is_refused_with_its_package():
    result = call("pgd")
    assert result.exit_code == 2
    assert result.stderr == f"the trainer 'pgd' is registered by cxr-eval {version('cxr-eval')} already; choose another name\n"


def test_only_trainers_can_be_started():
    result = call("soft", "--kind", "reader")
    assert result.exit_code == 2
    assert "Invalid value for '--kind'" in result.stderr
