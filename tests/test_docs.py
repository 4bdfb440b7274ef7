"""README and docs say what is true: commands run, code is the plugin's, tables follow from the code.

`python tests/test_docs.py` writes the tables of protocol keys and of a trainer's rules anew.
"""

import inspect
import re
import shlex
from pathlib import Path
from typing import get_args

import pydantic
import pytest
from click.testing import CliRunner

from cxr_eval.cli import main
from cxr_eval.params import Params
from cxr_eval.protocol import FINDINGS, Protocol
from cxr_eval.testing import CHECKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "datasets").glob("*.md"))]
LINKED = [*PAGES, *sorted((DOCS / "results").glob("*.md")), *sorted((ROOT / "plugins").glob("*/README.md"))]
KEYS = re.compile(r"(?<=<!-- keys -->\n).*?(?=<!-- end -->)", re.DOTALL)
RULES = re.compile(r"(?<=<!-- rules -->\n).*?(?=<!-- end -->)", re.DOTALL)


def nested(annotation: object) -> type[Params] | None:
    """The record of settings inside a field's type, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested(part))), None)


def described(model: type[Params], prefix: str = "") -> list[str]:
    """Lines `| key | default | meaning |` of all settings, those inside records too."""
    lines = []
    for name, field in model.model_fields.items():
        inner = nested(field.annotation)
        required = field.is_required()
        default = "" if required or inner else f"`{field.get_default(call_default_factory=True)!r}`"
        lines.append(f"| `{prefix}{name}` | {'required' if required else default} | {field.description or ''} |")
        if inner is not None:
            lines += described(inner, f"{prefix}{name}.")
    return lines


def keys_table() -> str:
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *described(Protocol)]) + "\n"


def rules_table() -> str:
    lines = [f"| {check.rule} | {' '.join((inspect.getdoc(check) or '').split())} |" for check in CHECKS]
    return "\n".join(["| rule | what is checked |", "| --- | --- |", *lines]) + "\n"


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found += [(page.name, line.strip()) for line in block.splitlines() if line.strip()]
    return found


def test_the_table_of_protocol_keys_follows_from_the_code() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    match = KEYS.search(page)
    assert match is not None
    assert match.group() == keys_table(), "run: python tests/test_docs.py"


def test_the_table_of_a_trainers_rules_follows_from_the_code() -> None:
    match = RULES.search((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))
    assert match is not None
    assert match.group() == rules_table(), "run: python tests/test_docs.py"


def test_the_plugin_in_the_docs_is_the_plugin_byte_for_byte() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    source = ROOT / "plugins" / "noise" / "cxr_eval_noise" / "__init__.py"
    block = re.search(r"<!-- plugins/noise/cxr_eval_noise/__init__.py -->\n```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    assert block.group(1) == source.read_text(encoding="utf-8")


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in LINKED:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_finding_of_the_audit_is_listed() -> None:
    page = (DOCS / "protocols.md").read_text(encoding="utf-8")
    listed = re.search(r"Codes: (.*?)\.\n", page, re.DOTALL)
    assert listed is not None
    assert sorted(re.split(r",\s+", listed.group(1))) == sorted(FINDINGS)


def is_quick(command: str) -> bool:
    return (
        command.startswith("cxr-eval ")
        and " run " not in command
        and "my_protocol" not in command
        and "my_method" not in command  # the tutorial of plugins, which tests/test_third_party.py runs
        and " report " not in command
    )


@pytest.mark.parametrize(("page", "command"), [pair for pair in commands() if is_quick(pair[1])])
def test_commands_in_the_docs_work(page: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("COVID_QU_EX", raising=False)
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_the_quickstart_runs_word_for_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # one epoch and few images: the words are what is tested, not the networks
    short = "--set train.epochs=1 --set explain.images=3 --set 'explain.methods=[saliency]' --set attacks.3.images=3"
    monkeypatch.setenv("CXR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COVID_QU_EX", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "protocols").symlink_to(ROOT / "protocols")
    lines = [line for page, line in commands() if page == "quickstart.md" and line.startswith("cxr-eval run")]
    assert len(lines) == 2
    for line in lines:
        result = CliRunner().invoke(main, [*shlex.split(line)[1:], *shlex.split(short)])
        assert result.exit_code == 0, result.output
        assert result.output.rstrip().endswith("report.html")
    again = CliRunner().invoke(main, ["report", "runs/first"])
    assert again.exit_code == 0, again.output


def test_a_record_that_is_not_a_setting_has_no_keys() -> None:
    assert nested(int) is None
    assert nested(tuple[pydantic.BaseModel, ...]) is None


if __name__ == "__main__":
    for path, place, table in (("protocols.md", KEYS, keys_table()), ("plugins.md", RULES, rules_table())):
        page = ROOT / "docs" / path
        page.write_text(place.sub(lambda _, table=table: table, page.read_text(encoding="utf-8")), encoding="utf-8")
