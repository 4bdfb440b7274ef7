"""The command line: reads arguments, prints, exits. What it does is done elsewhere, and imported only when it is asked for."""

from __future__ import annotations

import errno
import json
from typing import Any

import click

from cxr_eval.cli.completion import completion
from cxr_eval.cli.data import data
from cxr_eval.cli.plugins import plugins
from cxr_eval.cli.reports import compare, report, verify
from cxr_eval.cli.run import run, validate
from cxr_eval.cli.start import init, plan
from cxr_eval.errors import CxrEvalError

_EXIT_CODES = """
\b
Exit codes:
  0    done
  1    done, but a gate is not met, a plugin did not pass its checks, or a run is not as it was written
  2    the protocol, the data or the command is wrong
  3    done, but some cells failed
  130  interrupted; the same command goes on from there
"""


class _Group(click.Group):
    """Every error of ours is one message and its exit code, and an interrupt says how to go on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CxrEvalError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly where nobody reads on
                raise
            where = f"{error.filename}: " if error.filename else ""
            told = (
                f"{where}{error.strerror or error}; make it readable or writable, or free the disk. Prepared images are kept in"
            )
            click.echo(f"{told} CXR_EVAL_CACHE", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


@click.group(cls=_Group, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-eval", message="cxr-eval %(version)s")
def main() -> None:
    """Robustness and interpretability of chest X-ray classifiers: one protocol, one command, one report."""


@main.command()
def schema() -> None:
    """Print the JSON Schema of a protocol, for editors that complete YAML."""
    from cxr_eval import protocol_file

    click.echo(json.dumps(protocol_file.json_schema(), indent=2))


main.add_command(init)
main.add_command(plan)
main.add_command(run)
main.add_command(validate)
main.add_command(data)
main.add_command(plugins)
main.add_command(report)
main.add_command(compare)
main.add_command(verify)
main.add_command(completion)
