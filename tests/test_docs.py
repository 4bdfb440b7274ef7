"""README and docs say what is true: commands run, code is the plugin's, tables follow from the code.

`python tests/test_docs.py` writes all that follows from the code anew: the protocol's keys, the plugins' settings, the commands
and the log's words, and a trainer's rules.
"""

import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_origin

import click
import pydantic
import pytest
from click.testing import CliRunner

from cxr_eval import describe
from cxr_eval.cli import main
from cxr_eval.cli.families import is_family
from cxr_eval.cli.log import Log
from cxr_eval.params import Params
from cxr_eval.protocol import FINDINGS, Protocol
from cxr_eval.protocol_file import SettingsSchema
from cxr_eval.registry import KINDS, SINGULAR, find, installed, load
from cxr_eval.testing import CHECKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "datasets").glob("*.md"))]
LINKED = [*PAGES, *sorted((DOCS / "results").glob("*.md")), *sorted((ROOT / "plugins").glob("*/README.md"))]
GROUP = "group of settings"


def nested(annotation: object) -> type[Params] | None:
    """The record of settings inside a field's type, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested(part))), None)


def row(*cells: str) -> str:
    """A line of a table; a bar inside a cell does not end it."""
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split())) for cell in cells) + " |"


def settings(model: type[Params], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of all settings, those inside records too."""
    schema = model.model_json_schema(schema_generator=SettingsSchema)
    for name, field in model.model_fields.items():
        inner = nested(field.annotation)
        words = describe._words(schema["properties"][name], schema).replace(" (0.02 or 8/255)", "")  # the pages say it once
        if inner is None:
            words = words.replace(GROUP, "pairs")  # of names that are the user's own, as in `rename: {OLD: NEW}`
        elif schema["properties"][name].get("type") == "array":
            words = words.replace("list of text, or", "list of names, or of").replace(f"of {GROUP}", "of groups of settings")
        default = "required" if field.is_required() else "" if inner else f"`{describe._default(name, model, schema)}`"
        yield f"`{prefix}{name}`", words, default, field.description or inspect.getdoc(inner) or ""
        if inner is not None:
            yield from settings(inner, f"{prefix}{name}.{'NAME.' if get_origin(field.annotation) is dict else ''}")


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    return "\n".join([row(*head), row(*["---"] * len(head)), *(row(*line) for line in lines)]) + "\n"


def keys_table() -> str:
    return table(("key", "type", "default", "meaning"), list(settings(Protocol)))


def rules_table() -> str:
    rules: list[tuple[str, ...]] = [(check.rule, inspect.getdoc(check) or "") for check in CHECKS]
    return table(("rule", "what is checked"), rules)


def plugin_pages() -> str:
    """A section a kind, a heading a plugin: what it does, whence, its settings."""
    parts = []
    for kind in KINDS:
        parts.append(f"## {kind.replace('_', ' ').capitalize()}\n")
        for name, point in installed(kind).items():
            loaded = load(kind, point)
            if hasattr(loaded, "member"):
                written = "NAME" if loaded.bare else f"{name}/NAME"
                told = f"A family; a member is written `{written}`, and `cxr-eval plugins describe {name}` lists them all."
                parts.append(f"### {SINGULAR[kind]} {name}/...\n\n{inspect.getdoc(loaded)}\n\n{told}\n")
                continue
            cls = find(kind, name)
            whence = f"\nSource: {cls.source}\n" if getattr(cls, "source", "") else ""
            parts.append(f"### {SINGULAR[kind]} {name}\n\n{inspect.getdoc(cls)}\n{whence}")
            lines = list(settings(cls.Params))
            parts.append(table(("setting", "type", "default", "meaning"), lines) if lines else "It has no settings.\n")
    return "\n" + "\n".join(parts) + "\n"


def helps(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Each command with its help, as a terminal of 100 columns shows it."""
    name = path.rpartition(" ")[2]
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, **command.context_settings)
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from helps(found, f"{path} {name}", context)


def command_pages() -> str:
    return "".join(f"\n## {path}\n\n```text\n{told}\n```\n" for path, told in helps(main, "cxr-eval")) + "\n"


def log_page() -> str:
    """The log's docstring, what it says of each name as a list."""
    names = r"(?:^|(?<=\.) )(?=[a-z]+(?:, [a-z]+)*: )"
    paragraphs = [" ".join(each.split()) for each in (inspect.getdoc(Log) or "").split("\n\n")]
    told = [re.split(names, each) for each in paragraphs]
    listed = ["\n".join(f"- **{part.replace(': ', '**: ', 1)}" for part in parts if part) for parts in told]
    return (
        "\n"
        + "\n\n".join(
            made if len(parts) > 1 else paragraph for made, parts, paragraph in zip(listed, told, paragraphs, strict=True)
        )
        + "\n\n"
    )


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "keys": ("protocols.md", keys_table),
    "rules": ("plugins.md", rules_table),
    "plugins": ("settings.md", plugin_pages),
    "commands": ("command-line.md", command_pages),
    "log": ("command-line.md", log_page),
}


def place(mark: str) -> re.Pattern[str]:
    """Where a page holds what is written by this program."""
    return re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- end -->)", re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each page's commands but the quickstart's, which tests/test_quickstart.py runs."""
    found = []
    for page in PAGES:
        if page.name == "quickstart.md":
            continue
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found += [(page.name, line.strip()) for line in block.splitlines() if line.strip()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mark", GENERATED)
def test_what_follows_from_the_code_is_up_to_date(mark: str) -> None:
    path, made = GENERATED[mark]
    match = place(mark).search((DOCS / path).read_text(encoding="utf-8"))
    assert match is not None
    assert match.group() == made(), "run: python tests/test_docs.py"


def test_every_setting_says_what_it_is() -> None:
    plugins = [find(kind, name) for kind in KINDS for name, point in installed(kind).items() if not is_family(point)]
    silent = [
        (model.__qualname__, key)
        for model in (Protocol, *(plugin.Params for plugin in plugins))
        for key, _, _, meaning in settings(model)
        if not meaning
    ]
    assert silent == []


def test_a_bar_inside_a_cell_does_not_end_it() -> None:
    assert row("a | b", "c\nd") == r"| a \| b | c d |"


def test_every_exit_code_is_told() -> None:
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    assert told == re.findall(r"^  (\d+)  ", main.epilog or "", re.MULTILINE)


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
def test_the_main_job_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # one epoch and few images: the words are what is tested, not the networks
    short = "--set train.epochs=1 --set explain.images=3 --set 'explain.methods=[saliency]' --set attacks.3.images=3"
    monkeypatch.setenv("CXR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COVID_QU_EX", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "protocols").symlink_to(ROOT / "protocols")
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    line = re.search(r"<!-- run-command -->\n```console\n.*&& cxr-eval (run .*)\n```", page)
    assert line is not None
    result = CliRunner().invoke(main, [*shlex.split(line.group(1)), *shlex.split(short), "--out", "runs/main"])
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith("report.html")


def test_a_record_that_is_not_a_setting_has_no_keys() -> None:
    assert nested(int) is None
    assert nested(tuple[pydantic.BaseModel, ...]) is None


if __name__ == "__main__":
    for mark, (path, made) in GENERATED.items():
        page = DOCS / path
        found = place(mark).search(text := page.read_text(encoding="utf-8"))
        assert found is not None, f"{path}: <!-- {mark} --> is missing"
        page.write_text(text[: found.start()] + made() + text[found.end() :], encoding="utf-8")
