"""`cxr-eval completion`: what a shell needs to complete words, and the words themselves, found without loading a plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from cxr_eval.registry import Kind

_VARIABLE = "_CXR_EVAL_COMPLETE"
_MOST_FOLDERS = 50  # a home folder has thousands, and a shell waits for the answer

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets SHELL complete the words of cxr-eval.

    \b
    bash   eval "$(cxr-eval completion bash)"          in ~/.bashrc
    zsh    eval "$(cxr-eval completion zsh)"           in ~/.zshrc, after compinit
    fish   cxr-eval completion fish > ~/.config/fish/completions/cxr-eval.fish
    """
    root = click.get_current_context().find_root().command
    made = get_completion_class(shell)
    assert made is not None  # click brings all three
    script = made(root, {}, "cxr-eval", _VARIABLE)
    click.echo(script.source_template % script.source_vars())  # `source` would first ask which bash this is


def plugin_names(*kinds: str) -> Complete:
    """Completes names of plugins of these kinds, of all without one."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from cxr_eval import registry

        known = {name for kind in kinds or registry.KINDS for name in registry.installed(cast("Kind", kind))}
        return [CompletionItem(name) for name in sorted(known) if name.startswith(incomplete)]

    return complete


def protocol_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes YAML files here and one folder deeper; where there is none, any file."""
    head, slash, word = incomplete.rpartition("/")
    folder = Path(head + slash)
    try:
        entries = [each for each in _entries(folder) if each.name.startswith(word)]
        folders = [each for each in entries if each.is_dir()][:_MOST_FOLDERS]
        files = [*entries, *(file for each in folders for file in _entries(each))]
    except OSError:
        files = []
    found = [str(file.relative_to(folder)) for file in files if file.suffix in (".yaml", ".yml")]
    if not found:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(f"{head}{slash}{name}") for name in found]


def _entries(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
