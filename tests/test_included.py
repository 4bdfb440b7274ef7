"""A protocol may take a part from another file, which keeps its own lines in messages."""

from pathlib import Path

import pytest

from cxr_eval.errors import ProtocolError
from cxr_eval.protocol_file import load

PROTOCOL = """name: small
data: {train: {reader: phantom}}
models: {file: parts/models.yaml}
trainers: [standard, {file: parts/robust.yaml}]
report: {published: [{file: parts/published.yaml}]}
"""
PARTS = {
    "models.yaml": "# two networks\n- small_cnn\n- {name: resnet18, label: deep}\n",
    "robust.yaml": "name: fgsm\neps: 8/255\n",
    "published.yaml": "source: A paper\nshort: Paper\ndata: theirs\nnumbers:\n  - values: {auroc: 0.5}\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "p.yaml").write_text(PROTOCOL, encoding="utf-8")
    for name, text in PARTS.items():
        (tmp_path / "parts" / name).write_text(text, encoding="utf-8")
    return tmp_path


def refusal(folder: Path, *sets: str) -> list[str]:
    with pytest.raises(ProtocolError) as refused:
        load(folder / "p.yaml", sets=sets)
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def test_the_content_of_a_file_stands_where_it_is_named(folder):
    protocol = load(folder / "p.yaml").protocol
    assert [model.name for model in protocol.models] == ["small_cnn", "resnet18"]
    assert [trainer.name for trainer in protocol.trainers] == ["standard", "fgsm"]
    assert protocol.trainers[1].settings == {"eps": "8/255"}
    assert protocol.report.published[0].numbers[0].values == {"auroc": 0.5}


def test_what_is_included_is_part_of_what_is_resolved(folder):
    assert load(folder / "p.yaml").resolved["models"][1]["label"] == "deep"


def test_overrides_reach_into_included_files(folder):
    protocol = load(folder / "p.yaml", sets=("models.1.label=deeper", "trainers.1.eps=2/255")).protocol
    assert protocol.models[1].label == "deeper"
    assert protocol.trainers[1].settings == {"eps": "2/255"}


def test_a_fault_in_an_included_file_names_that_file_and_its_line(folder):
    (folder / "parts" / "models.yaml").write_text("- small_cnn\n- {label: deep}\n", encoding="utf-8")
    assert refusal(folder) == ["parts/models.yaml:2: models[1] needs 'name'"]


def test_yaml_that_is_misread_in_an_included_file_names_that_file_and_its_line(folder):
    (folder / "parts" / "robust.yaml").write_text("name: fgsm\neps: 1e-3\n", encoding="utf-8")
    assert refusal(folder) == ["parts/robust.yaml:2: YAML reads 1e-3 as text; write 1.0e-3, or in quotes if text is meant"]


def test_a_file_that_is_not_there_is_named_with_the_line_that_asks_for_it(folder):
    (folder / "parts" / "models.yaml").unlink()
    assert refusal(folder) == ["p.yaml:3: file: parts/models.yaml: there is no such file"]


def test_files_may_include_files_but_not_themselves(folder):
    (folder / "parts" / "robust.yaml").write_text("{file: deeper.yaml}\n", encoding="utf-8")
    (folder / "parts" / "deeper.yaml").write_text("name: noise\n", encoding="utf-8")
    assert load(folder / "p.yaml").protocol.trainers[1].name == "noise"
    (folder / "parts" / "deeper.yaml").write_text("{file: robust.yaml}\n", encoding="utf-8")
    assert refusal(folder) == ["parts/deeper.yaml:1: parts/robust.yaml includes itself; take one of the two out"]


def test_the_portable_protocol_is_the_same_wherever_it_is_taken_with_its_files(folder, tmp_path):
    (folder / "parts" / "robust.yaml").write_text("{file: 'deeper.yaml'}\n", encoding="utf-8")
    (folder / "parts" / "deeper.yaml").write_text("name: noise\n", encoding="utf-8")
    loaded, elsewhere = load(folder / "p.yaml"), tmp_path / "elsewhere"
    (elsewhere / "included").mkdir(parents=True)
    (elsewhere / "p.yaml").write_text(loaded.portable, encoding="utf-8")
    for name, text in loaded.included.items():
        (elsewhere / "included" / name).write_text(text, encoding="utf-8")
    for part in (folder / "parts").iterdir():
        part.unlink()
    again = load(elsewhere / "p.yaml")
    assert again.resolved == loaded.resolved
    assert again.protocol.trainers[1].name == "noise"


@pytest.mark.parametrize("value", ["7", "[a, b]", "{a: b}"])
def test_a_file_needs_a_name(folder, value):
    (folder / "p.yaml").write_text(PROTOCOL.replace("parts/models.yaml", value), encoding="utf-8")
    assert refusal(folder) == ["p.yaml:3: file: expected the name of a YAML file"]


def test_a_setting_called_file_beside_others_is_a_setting(folder):
    text = PROTOCOL.replace("{file: parts/robust.yaml}", "{name: fgsm, file: x.yaml}")
    (folder / "p.yaml").write_text(text, encoding="utf-8")
    assert load(folder / "p.yaml").protocol.trainers[1].settings == {"file": "x.yaml"}
