"""The command line: exact text, exact exit code, and nothing heavy is loaded to print a list."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import jsonschema
import pytest
import yaml
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import cxr_eval
from cxr_eval import describe, registry
from cxr_eval.cli import main
from cxr_eval.cli.families import is_family
from cxr_eval.errors import DataError, ProtocolError, TrainingError
from cxr_eval.events import Event
from cxr_eval.params import Field, Params, Radius
from cxr_eval.plugin import AttackParams
from cxr_eval.store import SCHEMA

PROTOCOL = """name: small
data:
  train: {reader: covid, root: "${COVID_TEST_ROOT}", when_missing: phantom}
models: [resnet18]
trainers: [pgd]
demonstration: {train: {epochs: 2}}
"""


class Network:
    """A network of the zoo."""

    class Params(Params):
        pass


class Zoo:
    """Networks by name."""

    bare = True

    @classmethod
    def names(cls):
        return ("resnet18", "resnet50")

    @classmethod
    def member(cls, name):
        return dict.fromkeys(cls.names(), Network)[name]


class Reader:
    def __init__(self, params):
        self.params = params

    def check(self):
        pass


class Covid(Reader):
    """Folders of X-rays."""

    class Params(Params):
        root: str = Field(description="folder that was downloaded")


class Phantom(Reader):
    """Drawn images."""

    class Params(Params):
        images: int = Field(100, ge=10, le=1000, description="number of images")


class Trainer:
    """Trains on attacked images.

    Every batch is attacked anew.
    """

    source = "Madry et al., ICLR 2018"
    tasks = ("multiclass", "multilabel")
    adversarial = True
    uses_reference = False

    class Params(Params):
        eps: Radius = Field("8/255", description="radius")
        steps: int = Field(7, ge=1, description="steps")
        mode: Literal["a", "b"] = Field("a", description="which way")
        rate: float | None = Field(None, gt=0, lt=1, description="share of images")
        layers: list[int] = Field(default_factory=lambda: [1], description="which layers")
        start: bool = Field(True, description="random start")


class Attack:
    """Searches by gradient."""

    norms = ("linf",)
    transfers = True

    class Params(AttackParams):
        pass


@dataclass(frozen=True)
class Outcome:
    folder: Path
    report: Path
    failed: tuple[str, ...] = ()


@pytest.fixture(autouse=True)
def _installed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COVID_TEST_ROOT", raising=False)
    Path("p.yaml").write_text(PROTOCOL)
    module, points = ModuleType("fake"), []
    package = SimpleNamespace(name="pkg", version="1.0", read_text=lambda name: None)
    for kind, name, cls in (
        ("models", "torchvision", Zoo),
        ("readers", "covid", Covid),
        ("readers", "phantom", Phantom),
        ("trainers", "pgd", Trainer),
        ("attacks", "pgd", Attack),
    ):
        setattr(module, cls.__name__, cls)
        points.append(EntryPoint(name, f"fake:{cls.__name__}", f"cxr_eval.{kind}")._for(package))
    monkeypatch.setitem(sys.modules, "fake", module)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    monkeypatch.setattr(registry, "_sound", lambda kind, point, cls: cls)  # these are only what a name leads to
    registry.installed.cache_clear()
    yield
    registry.forget_files()


@pytest.fixture
def runner(monkeypatch):
    """Stands in for `cxr_eval.runner`; `does` is called with the events' listener, `asked` keeps what was asked for."""
    module = ModuleType("cxr_eval.runner")
    module.asked = {}
    module.does = lambda tell: Outcome(Path("runs/small"), Path("runs/small/report.html"))

    def run(loaded, *, out, device, on_event):
        module.loaded = loaded
        module.asked = {"name": loaded.protocol.name, "epochs": loaded.protocol.train.epochs, "out": out, "device": device}
        return module.does(on_event)

    module.run = run
    monkeypatch.setitem(sys.modules, "cxr_eval.runner", module)
    monkeypatch.setattr(cxr_eval, "runner", module, raising=False)
    return module


def call(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, words, env=environ)


def raises(error: BaseException):
    def does(tell):
        raise error

    return does


PLUGIN_FILE = """import cxr_eval.api as cxr


class QuietTrainer(cxr.Trainer):
    'Says nothing.'

    uses_reference = False
    tasks = ("multilabel",)

    class Params(cxr.Params):
        eps: cxr.Radius = cxr.Field(0.1, description="radius")
        layers: tuple[int, ...] = cxr.Field((1,), description="layers")

    def loss(self, batch):
        return self.criterion(self.model(batch.x), batch.y)
"""
QUIET = f"quiet.py sha256:{hashlib.sha256(PLUGIN_FILE.encode()).hexdigest()[:12]}"

DEMONSTRATION = (
    "+------------------------------------------------------------------------------+\n"
    "| DEMONSTRATION. COVID_TEST_ROOT is not set, so 'phantom' stands in for the    |\n"
    "| images that the protocol names. The numbers say nothing about patients.      |\n"
    "+------------------------------------------------------------------------------+\n"
)


# run ---------------------------------------------------------------------------------------------------------------------


def test_run_prints_messages_and_the_reports_path_last(runner):
    def does(tell):
        tell(Event("data: 20 images"))
        tell(Event(step="training", done=1, total=2, cell=0, cells=1))
        return Outcome(Path("runs/small"), Path("runs/small/report.html"))

    runner.does = does
    result = call("run", "p.yaml", COVID_TEST_ROOT="/images")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "data: 20 images\nReport: runs/small/report.html\n"
    assert runner.asked == {"name": "small", "epochs": 20, "out": None, "device": "auto"}


def test_run_hands_over_its_options(runner):
    result = call("run", "p.yaml", "--out", "here", "--device", "cuda:1", "--set", "train.epochs=3", "--set", "name=other")
    assert result.exit_code == 0
    assert runner.asked == {"name": "other", "epochs": 3, "out": Path("here"), "device": "cuda:1"}


def test_a_demonstration_is_said_first_even_if_quiet(runner):
    runner.does = lambda tell: (tell(Event("data")), Outcome(Path("r"), Path("r/report.html")))[1]
    assert call("run", "p.yaml").stdout == DEMONSTRATION + "data\nReport: r/report.html\n"
    assert call("run", "p.yaml", "--quiet").stdout == DEMONSTRATION + "Report: r/report.html\n"


def test_failed_cells_are_named_and_end_with_3(runner):
    runner.does = lambda tell: Outcome(Path("r"), Path("r/report.html"), ("resnet18 / pgd\x1b / seed 0: loss is nan",))
    result = call("run", "p.yaml", COVID_TEST_ROOT="/images")
    assert result.exit_code == 3
    assert result.stderr == "Failed: resnet18 / pgd\\x1b / seed 0: loss is nan\n"
    assert result.stdout == "Report: r/report.html\n"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], "cxr-eval run p.yaml"),
        (
            ["--out", "my runs", "--set", "train.seeds=[0, 1]", "--device", "cpu"],
            "cxr-eval run p.yaml --out 'my runs' --set 'train.seeds=[0, 1]' --device cpu",
        ),
        (
            ["--plugin", "quiet.py", "--set", "trainers=[quiet]"],
            "cxr-eval run p.yaml --set 'trainers=[quiet]' --plugin quiet.py",
        ),
        (
            ["--quiet", "--log-json", "l", "--seed", "0,1", "--only", "seed=0", "--smoke", "--limit", "9", "--gate", "a@b > 1"],
            "cxr-eval run p.yaml --limit 9 --smoke --only seed=0 --seed 0,1 --gate 'a@b > 1' --log-json l --quiet",
        ),
    ],
)
def test_an_interrupt_says_how_to_go_on_and_ends_with_130(runner, words, command):
    Path("quiet.py").write_text(PLUGIN_FILE)
    runner.does = raises(KeyboardInterrupt())
    result = call("run", "p.yaml", *words, COVID_TEST_ROOT="/images")
    assert result.exit_code == 130
    assert result.stderr == f"Interrupted. Finished cells are kept. To go on: {command}\n"


@pytest.mark.parametrize(("error", "code"), [(DataError("no images"), 2), (TrainingError("loss is nan"), 3)])
def test_an_error_is_its_message_and_its_exit_code(runner, error, code):
    runner.does = raises(error)
    result = call("run", "p.yaml", COVID_TEST_ROOT="/images")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"{error}\n")


def test_an_error_of_the_program_itself_is_not_hidden(runner):
    runner.does = raises(ZeroDivisionError())
    assert isinstance(call("run", "p.yaml").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "Missing argument 'PROTOCOL'."),
        (["run", "p.yaml", "--device", "gpu"], "Invalid value for '--device': expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["run", "p.yaml", "--outt", "x"], "No such option"),
        (["rum"], "No such command 'rum'."),
        (["plugins", "list", "trainer"], "Invalid value for '[KIND]'"),
    ],
)
def test_a_wrong_command_ends_with_2(words, message):
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_finished_cell_is_one_line_with_its_scores(runner):
    def does(tell):
        scores = {"accuracy": 0.9125, "robust_accuracy": float("nan"), "seconds": 605.0}
        tell(Event(name="resnet18 / pgd / seed 0", scores=scores, ended="done", cells=2))
        tell(Event("small \x1b[2J\n/ pgd: FAILED: loss is nan", name="small", ended="failed", cell=1, cells=2))
        return Outcome(Path("r"), Path("r/report.html"))

    runner.does = does
    assert call("run", "p.yaml", COVID_TEST_ROOT="/images").stdout == (
        "resnet18 / pgd / seed 0: done: accuracy 0.912, worst case not given, time 10 min\n"
        "small \\x1b[2J\\n/ pgd: FAILED: loss is nan\n"
        "Report: r/report.html\n"
    )


# run, cut short ----------------------------------------------------------------------------------------------------------

TWO = """name: two
data: {train: {reader: covid, root: /images}}
models: [resnet18, resnet50]
train: {seeds: [0, 1]}
trainers: [pgd, {name: pgd, label: strong, steps: 20}]
attacks: [{name: pgd, eps: 0.01}]
"""


def test_limit_and_seed_are_overrides(runner):
    result = call("run", "p.yaml", "--limit", "40", "--seed", "3", "--seed", "4,5", "--set", "data.limit=7")
    assert result.exit_code == 0, result.output
    assert (runner.loaded.protocol.data.limit, runner.loaded.protocol.train.seeds) == (40, (3, 4, 5))
    assert runner.loaded.sets == ("data.limit=7", "data.limit=40", "train.seeds=[3, 4, 5]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "1"], "Invalid value for '--limit': 1 is not in the range x>=2."),
        (["--seed", "one"], "Invalid value for '--seed': expected whole numbers such as 0 or 0,1,2, got 'one'"),
        (["--seed", "0,,1"], "Invalid value for '--seed': expected whole numbers such as 0 or 0,1,2, got ''"),
        (["--log-json", "no/log"], "Invalid value for '--log-json': no/log cannot be written: No such file or directory"),
    ],
)
def test_a_wrong_number_of_images_or_seed_is_refused(runner, words, message):
    result = call("run", "p.yaml", *words)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, f"Error: {message}")


def test_a_smoke_run_says_what_it_changed(runner):
    result = call("run", "p.yaml", "--smoke", "--quiet", "--set", "train.epochs=5")
    assert result.exit_code == 0, result.output
    assert result.stdout == DEMONSTRATION + (
        "Smoke run: train.epochs=5; data.limit=16; evaluate.resamples=100; evaluate.validity.images=8;\n"
        "  evaluate.validity.steps=4; evaluate.validity.restarts=1; evaluate.anatomy.images=4;\n"
        "  evaluate.anatomy.steps=1; report.gallery=1; trainers.0.steps=1\n"
        "Report: runs/small/report.html\n"
    )
    assert runner.loaded.smoke
    assert runner.loaded.protocol.train.epochs == 5
    assert runner.loaded.protocol.trainers[0].settings == {"steps": 1}


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (["--only", "trainer=strong"], "two: 2 models x 1 trainer x 2 seeds = 4 cells\n"),
        (["--only", "trainer=pgd"], "two: 2 models x 2 trainers x 2 seeds = 8 cells\n"),  # both are the plugin pgd
        (
            ["--only", "trainer=strong", "--only", "model=resnet50", "--only", "seed=1"],
            "two: 1 model x 1 trainer x 1 seed = 1 cell\n",
        ),
        (["--only", "seed=0", "--only", "seed=1"], "two: 2 models x 2 trainers x 2 seeds = 8 cells\n"),
    ],
)
def test_only_some_cells_are_run(words, cells):
    Path("two.yaml").write_text(TWO)
    result = call("validate", "two.yaml", *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(cells)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainr=pgd"], "--only trainr=pgd: expected model=LABEL, trainer=LABEL or seed=NUMBER; did you mean 'trainer'?\n"),
        (["pgd"], "--only pgd: expected model=LABEL, trainer=LABEL or seed=NUMBER\n"),
        (["trainer=stong"], "--only trainer=stong: no trainer of this protocol is called 'stong'; did you mean 'strong'?\n"),
        (["model=x"], "--only model=x: no model of this protocol is called 'x'; it has resnet18, resnet50\n"),
        (["seed=7"], "--only seed=7: no seed of this protocol is 7; it has 0, 1\n"),
    ],
)
def test_a_cell_that_is_not_there_is_refused_with_the_nearest_name(words, message):
    Path("two.yaml").write_text(TWO)
    result = call("validate", "two.yaml", "--only", *words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_cells_that_no_trainer_fits_are_refused():
    Path("two.yaml").write_text(TWO.replace("steps: 20", "steps: 20, models: [resnet18]"))
    result = call("validate", "two.yaml", "--only", "trainer=strong", "--only", "model=resnet50")
    assert result.exit_code == 2
    assert result.stderr == (
        "--only trainer=strong --only model=resnet50: no cell of this protocol is all of these; leave one out\n"
    )


# run, gates --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def acceptance(monkeypatch):
    """Stands in for `cxr_eval.acceptance`: a requirement is met if its text says so."""
    module = ModuleType("cxr_eval.acceptance")

    def parse(text):
        if "?" in text:
            raise ProtocolError(f"--gate {text}: expected METRIC@CONDITION OP VALUE")
        return text

    module.parse = parse
    module.judge = lambda run, texts: [SimpleNamespace(met="yes" in text, line=f"{run.folder}: {text}") for text in texts]
    monkeypatch.setitem(sys.modules, "cxr_eval.acceptance", module)
    monkeypatch.setattr(cxr_eval, "acceptance", module, raising=False)
    Path("small").mkdir()
    Path("small/manifest.json").write_text(json.dumps({"schema": SCHEMA}))


@pytest.mark.parametrize(
    ("gates", "failed", "code"),
    [(["yes"], (), 0), (["yes", "no"], (), 1), (["no"], ("resnet18 / pgd / seed 0: loss is nan",), 3)],
)
def test_gates_are_judged_after_the_run_and_failed_cells_weigh_more(runner, acceptance, gates, failed, code):
    runner.does = lambda tell: Outcome(Path("small"), Path("small/report.html"), failed)
    words = [word for gate in gates for word in ("--gate", gate)]
    result = call("run", "p.yaml", *words, COVID_TEST_ROOT="/images")
    assert result.exit_code == code
    assert result.stdout == "".join(f"small: {gate}\n" for gate in gates) + "Report: small/report.html\n"


def test_a_gate_that_cannot_be_read_is_refused_before_anything_runs(runner, acceptance):
    result = call("run", "p.yaml", "--gate", "yes", "--gate", "?")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "--gate ?: expected METRIC@CONDITION OP VALUE\n"
    assert runner.asked == {}


# run, log ----------------------------------------------------------------------------------------------------------------


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_log_alone_on_stdout_holds_every_event_and_the_exit_code(runner, acceptance):
    def does(tell):
        tell(Event("data: 20 images"))
        tell(Event(step="training", done=1, total=9, name="a / b / seed 0", cells=1))
        tell(Event(step="training", done=2, total=9, name="a / b / seed 0", cells=1))  # within a second
        tell(Event(step="training", done=9, total=9, name="a / b / seed 0", cells=1, scores={"val_loss": 0.5}))
        tell(Event(name="a / b / seed 0", scores={"accuracy": 0.9, "robust_accuracy": float("nan")}, ended="done", cells=1))
        return Outcome(Path("small"), Path("small/report.html"))

    runner.does = does
    result = call("run", "p.yaml", "--log-json", "-", "--gate", "no")
    assert result.exit_code == 1
    logged = objects(result.stdout)
    assert all(datetime.fromisoformat(each.pop("time")).utcoffset() == timedelta(0) for each in logged)
    message, end = {key: value for key, value in logged[1].items() if key != "message"}, logged.pop()
    assert message == {"kind": "message", "name": "", "cell": 0, "cells": 0, "step": "", "done": 0, "total": 0, "scores": {}}
    assert [each["message"] for each in logged if each["kind"] == "message"] == [
        "DEMONSTRATION. COVID_TEST_ROOT is not set, so 'phantom' stands in for the images that the protocol names. The numbers"
        " say nothing about patients.",
        "data: 20 images",
        "small: no",
    ]
    assert [(each["done"], each["scores"]) for each in logged if each["kind"] == "progress"] == [
        (1, {}),
        (9, {"val_loss": 0.5}),
    ]
    assert [each["scores"] for each in logged if each["kind"] == "cell"] == [{"accuracy": 0.9, "robust_accuracy": None}]
    assert end == {"kind": "end", "exit_code": 1, "folder": "small", "report": "small/report.html"}


@pytest.mark.parametrize(
    ("does", "code"),
    [
        (raises(DataError("no images")), 2),
        (raises(TrainingError("loss is nan")), 3),
        (raises(KeyboardInterrupt()), 130),
        (raises(PermissionError(13, "Permission denied", "/cache")), 2),
        (raises(ZeroDivisionError()), 1),
        (lambda tell: Outcome(Path("r"), Path("r/report.html"), ("a: b",)), 3),
    ],
)
def test_a_log_ends_with_the_exit_code_however_the_run_ends(runner, does, code):
    runner.does = does
    result = call("run", "p.yaml", "--log-json", "log.jsonl", COVID_TEST_ROOT="/images")
    assert result.exit_code == code
    assert objects(Path("log.jsonl").read_text())[-1]["exit_code"] == code


def test_a_log_of_a_protocol_that_is_refused_ends_with_2(runner):
    result = call("run", "no.yaml", "--log-json", "log.jsonl")
    assert (result.exit_code, result.stderr) == (2, "no.yaml: there is no such file\n")
    assert [(each["kind"], each["exit_code"]) for each in objects(Path("log.jsonl").read_text())] == [("end", 2)]


def test_a_log_in_a_file_changes_nothing_on_the_terminal_and_is_written_anew(runner):
    Path("log.jsonl").write_text('{"time": "2026-01-01T00:00:00.000+00:00", "kind": "end"}\n')
    runner.does = lambda tell: (tell(Event("data")), Outcome(Path("r"), Path("r/report.html")))[1]
    result = call("run", "p.yaml", "--log-json", "log.jsonl", COVID_TEST_ROOT="/images")
    assert result.stdout == "data\nReport: r/report.html\n"
    assert [each["kind"] for each in objects(Path("log.jsonl").read_text())] == ["message", "end"]


def test_a_log_does_not_overwrite_what_is_no_log(runner):
    before = Path("p.yaml").read_text()
    result = call("run", "p.yaml", "--log-json", "p.yaml")
    assert result.exit_code == 2
    assert "p.yaml is there and is no log, so it is not overwritten; name another file" in result.stderr
    assert Path("p.yaml").read_text() == before


# completion --------------------------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    complete = ShellComplete(main, {}, "cxr-eval", "_CXR_EVAL_COMPLETE")
    return [
        item.value if item.type == "plain" else f"<{item.type}>" for item in complete.get_completions([*words[:-1]], words[-1])
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_the_program(shell):
    result = call("completion", shell)
    assert result.exit_code == 0
    assert f"_CXR_EVAL_COMPLETE={shell}_complete" in result.stdout
    assert "cxr-eval" in result.stdout


def test_completion_knows_three_shells():
    result = call("completion", "tcsh")
    assert result.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'." in result.stderr


def test_words_are_completed():
    Path("protocols").mkdir()
    for name in ("protocols/a.yaml", "protocols/b.yml", "protocols/c.csv", "protocols/.hidden.yaml"):
        Path(name).write_text("")
    assert completed("ru") == ["run"]
    assert completed("plugins", "list", "t") == ["trainers"]
    assert completed("plugins", "describe", "p") == ["pgd", "phantom"]
    assert completed("plugins", "check", "p") == ["pgd"]
    assert completed("plugins", "describe", "--kind", "expla") == ["explainers", "explanation_metrics"]
    assert completed("run", "p") == ["p.yaml", "protocols/a.yaml", "protocols/b.yml"]
    assert completed("validate", "protocols/") == ["protocols/a.yaml", "protocols/b.yml"]
    assert completed("run", "protocols/b") == ["protocols/b.yml"]
    assert completed("run", "nothing") == ["<file>"]
    assert completed("run", "no/such/folder/") == ["<file>"]


# validate, schema, report ------------------------------------------------------------------------------------------------


def test_validate_says_what_would_run():
    result = call("validate", "p.yaml", "--set", "trainers.0.eps=[0.01, 0.02]", COVID_TEST_ROOT="/images")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "small: 1 model x 2 trainers x 1 seed = 2 cells\n"
        "data         covid, 224 x 224 pixels, grey\n"
        "models       resnet18\n"
        "trainers     pgd(eps=0.01), pgd(eps=0.02)\n"
        "seeds        0\n"
        "training     at most 20 epochs, batches of 64, adam, lr 0.001\n"
    )


def test_validate_says_a_demonstration_first():
    assert call("validate", "p.yaml").stdout.startswith(DEMONSTRATION + "small: ")


def test_validate_refuses_a_wrong_protocol_on_stderr():
    result = call("validate", "p.yaml", "--set", "trainers.0.epsilon=1")
    assert (result.exit_code, result.stderr) == (
        2,
        "--set trainers.0.epsilon=1: trainers[0]: pgd has no setting 'epsilon'; did you mean 'eps'?\n",
    )
    missing = call("validate", "no.yaml")
    assert (missing.exit_code, missing.stderr) == (2, "no.yaml: there is no such file\n")


def test_schema_prints_a_schema_that_the_protocol_fits():
    result = call("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    jsonschema.validate(yaml.safe_load(PROTOCOL), schema)
    assert schema["properties"]["models"]["anyOf"][0]["items"]["anyOf"][0]["examples"] == ["resnet18", "resnet50"]


@pytest.fixture
def render(monkeypatch):
    """Stands in for `cxr_eval.report.render`."""
    module = ModuleType("cxr_eval.report.render")
    module.render = lambda run, formats, *, out=None: {name: run.folder / f"report.{name}" for name in formats}
    monkeypatch.setitem(sys.modules, "cxr_eval.report.render", module)
    Path("small").mkdir()
    Path("small/manifest.json").write_text(json.dumps({"schema": SCHEMA}))
    return module


def test_report_is_written_again_in_every_format_from_the_run_folder(render):
    result = call("report", "small")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Report: small/report.html\nReport: small/report.md\nReport: small/report.csv\n"


def test_report_refuses_a_folder_that_is_no_run(render):
    result = call("report", "other")
    assert (result.exit_code, result.stderr) == (2, "other: no such folder; expected a run folder\n")


def test_an_interrupted_report_ends_with_130(render):
    render.render = lambda run, formats, *, out=None: raises(KeyboardInterrupt())(None)
    result = call("report", "small")
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


# plugins -----------------------------------------------------------------------------------------------------------------


def test_plugins_are_listed_by_kind_with_their_package():
    assert call("plugins", "list", "readers").stdout == "readers\n  covid    pkg 1.0\n  phantom  pkg 1.0\n"
    assert call("plugins", "list").stdout.splitlines()[:2] == ["trainers", "  pgd  pkg 1.0"]


def test_listing_imports_no_plugin(monkeypatch):
    monkeypatch.delitem(sys.modules, "fake")
    assert call("plugins", "list").exit_code == 0


def test_families_are_marked_in_the_list(monkeypatch):
    monkeypatch.undo()  # with what is installed
    registry.installed.cache_clear()
    listed = [line.split()[0] for line in call("plugins", "list").stdout.splitlines() if line.startswith("  ")]
    assert [name for name in listed if name.endswith("/...")] == [
        *("art/...", "monai/...", "timm/...", "torchvision/...", "art/..."),
    ]


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("class Zoo:\n    def member(cls, name): ...\n", True),
        ("class Base:\n    def member(cls, name): ...\nclass Zoo(Base): ...\n", True),
        ("class Zoo(Zoo): member = 1\n", False),
        ("class Other:\n    def member(cls, name): ...\nclass Zoo: ...\n", False),
        ("def member(: not Python", False),
    ],
)
@pytest.mark.parametrize("module", ["zoo_of_test", "zoo_of_test.inner.networks"])
def test_a_family_is_known_from_its_source_which_is_not_run(monkeypatch, tmp_path, text, family, module):
    file = tmp_path / "lib" / Path(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True)
    if "." in module:
        (tmp_path / "lib" / "zoo_of_test" / "__init__.py").write_text("raise SystemExit")
    file.write_text(f"raise SystemExit\n{text}")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert is_family(EntryPoint("zoo", f"{module}:Zoo", "cxr_eval.models")) is family
    assert not is_family(EntryPoint("zoo", "not_there_of_test:Zoo", "cxr_eval.models"))


def test_a_plugin_is_described_with_settings_bounds_defaults_source_and_an_example():
    result = call("plugins", "describe", "pgd", "--kind", "trainers")
    assert result.exit_code == 0
    assert (
        result.stdout
        == """trainer pgd (pkg 1.0)

Trains on attacked images.

Every batch is attacked anew.
Source: Madry et al., ICLR 2018

Tasks: multiclass, multilabel
Adversarial: yes
Reference: none

Settings
  eps: radius, 0 to 1 (0.02 or 8/255); default 8/255
      radius
  steps: whole number at least 1; default 7
      steps
  mode: a or b; default a
      which way
  rate: number above 0 and below 1, or nothing; default none
      share of images
  layers: list of whole numbers; default [1]
      which layers
  start: true or false; default true
      random start

In a protocol
  trainers:
    - {name: pgd, eps: 8/255}
"""
    )


def test_a_setting_of_several_values_says_that_one_is_enough():
    text = call("plugins", "describe", "pgd", "--kind", "attacks").stdout
    assert "  eps: radius, at least 0 (0.02 or 8/255), or a list of such; required\n" in text
    assert "  splits: text, or a list of such; default [test]\n" in text
    assert "\n  attacks:\n    - {name: pgd, eps: 8/255}\n" in text


def test_a_name_of_two_kinds_is_described_in_both():
    heads = [line for line in call("plugins", "describe", "pgd").stdout.splitlines() if line.endswith("(pkg 1.0)")]
    assert heads == ["trainer pgd (pkg 1.0)", "attack pgd (pkg 1.0)"]


def test_a_family_is_described_by_its_members_and_a_member_as_a_plugin():
    assert call("plugins", "describe", "torchvision").stdout == (
        "model family torchvision (pkg 1.0)\n\nNetworks by name.\n\nMembers, each written NAME:\n  resnet18\n  resnet50\n"
    )
    assert call("plugins", "describe", "resnet18").stdout == (
        "model resnet18 (pkg 1.0)\n\nA network of the zoo.\n\nIt has no settings.\n\nIn a protocol\n  models:\n    - resnet18\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet19"], "no plugin 'resnet19'; did you mean 'resnet18'?\n"),
        (["pgd", "--kind", "models"], "no model 'pgd'\n"),
        (["torchvision/resnt18"], "no model 'torchvision/resnt18'; did you mean 'resnet18'?\n"),
    ],
)
def test_an_unknown_plugin_is_refused_with_the_nearest_name(words, message):
    result = call("plugins", "describe", *words)
    assert (result.exit_code, result.stderr) == (2, message)


def test_a_member_is_described_in_the_kind_that_has_it_where_families_of_two_kinds_share_a_name(monkeypatch):
    monkeypatch.undo()  # with what is installed
    registry.installed.cache_clear()
    trainer, attack = "art/DPInstaHideTrainer", "art/SquareAttack"
    assert call("plugins", "describe", trainer).stdout.startswith(f"trainer {trainer} (cxr-eval ")
    assert call("plugins", "describe", attack).stdout.startswith(f"attack {attack} (cxr-eval ")
    for name in ("art/GeoDA", "art/AdversarialTrainerOAATPyTorch"):  # one of each kind
        refused = call("plugins", "describe", name)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"{name}: left out, because it ")
    neither = call("plugins", "describe", "art/SquareAtack")
    assert (neither.exit_code, neither.stderr) == (2, f"no plugin 'art/SquareAtack'; did you mean '{attack}'?\n")


@pytest.mark.parametrize("name", ["pgd", "covid", "phantom", "resnet18"])
def test_the_example_of_every_page_is_a_protocol_that_can_be_planned(name):
    base = yaml.safe_load(PROTOCOL.replace("${COVID_TEST_ROOT}", "/images"))
    for page in call("plugins", "describe", name).stdout.split("In a protocol\n")[1:]:
        example = yaml.safe_load(page.split("\n\n")[0])
        base.update(example)
        base.pop("demonstration", None)
        Path("example.yaml").write_text(yaml.safe_dump(base))
        result = call("validate", "example.yaml")
        assert result.exit_code == 0, result.output


def test_a_trainer_says_its_tasks_and_that_it_needs_a_reference():
    Path("quiet.py").write_text(PLUGIN_FILE.replace("uses_reference = False", "uses_reference = True"))
    page = call("plugins", "describe", "quiet", "--plugin", "quiet.py").stdout
    assert page.partition("\n\n")[2].startswith(
        "Says nothing.\n\nTasks: multilabel\nAdversarial: no\nReference: needs a network that was trained before\n\nSettings\n"
    )
    assert page.endswith("\n  trainers:\n    - standard\n    - {name: quiet, reference: standard, eps: 0.1}\n")


# plugins in a file -------------------------------------------------------------------------------------------------------


def test_a_file_is_a_plugin_for_one_command():
    Path("quiet.py").write_text(PLUGIN_FILE)
    assert (
        call("plugins", "list", "trainers", "--plugin", "quiet.py").stdout == f"trainers\n  pgd    pkg 1.0\n  quiet  {QUIET}\n"
    )
    assert call("plugins", "list", "trainers").stdout == "trainers\n  pgd  pkg 1.0\n"
    use = ("validate", "p.yaml", "--set", "trainers=[quiet]")
    assert "\ntrainers     quiet\n" in call(*use, "--plugin", "quiet.py").stdout
    assert (call(*use).exit_code, call(*use).stderr) == (
        2,
        "--set trainers=[quiet]: trainers[0]: no trainer 'quiet'; see: cxr-eval plugins list trainers\n",
    )


def test_a_run_takes_the_plugins_of_several_files(runner):
    Path("quiet.py").write_text(PLUGIN_FILE)
    Path("loud.py").write_text(PLUGIN_FILE.replace("Quiet", "Loud"))
    seen = []
    runner.does = lambda tell: (seen.extend(registry.installed("trainers")), Outcome(Path("r"), Path("r/report.html")))[1]
    result = call("run", "p.yaml", "--plugin", "quiet.py", "--plugin", "loud.py", "--quiet")
    assert result.exit_code == 0, result.output
    assert seen == ["loud", "pgd", "quiet"]


def test_a_file_that_is_no_plugin_is_one_line_and_nothing_is_run(runner):
    result = call("run", "p.yaml", "--plugin", "no.py")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"{Path('no.py').resolve()}: there is no such file; --plugin takes a Python file\n"


def test_completing_a_word_in_the_shell_runs_no_plugin():
    Path("loud.py").write_text("raise SystemExit('was run')")
    main.make_context("cxr-eval", ["validate", "--plugin", "loud.py"], resilient_parsing=True)
    command = main.get_command(None, "validate")
    assert command.make_context("validate", ["p.yaml", "--plugin", "loud.py"], resilient_parsing=True).params["files"]


# plugins check -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """Stands in for an outcome of the kit."""

    rule: str
    status: str
    message: str = ""


@pytest.fixture
def kit(monkeypatch):
    """Stands in for `cxr_eval.testing`; `outcomes` are what it finds, `asked` keeps what it was asked."""
    Path("quiet.py").write_text(PLUGIN_FILE)
    module = ModuleType("cxr_eval.testing")
    module.outcomes = [Checked("same seed, same weights", "ok"), Checked("works on the GPU", "skipped", "there is none")]

    def check_trainer(cls, settings=None, device="cpu"):
        module.asked = cls.__name__, settings, device
        return module.outcomes

    module.check_trainer = check_trainer
    monkeypatch.setitem(sys.modules, "cxr_eval.testing", module)
    monkeypatch.setattr(cxr_eval, "testing", module, raising=False)
    return module


def check(*words: str) -> Result:
    return call("plugins", "check", "quiet", "--plugin", "quiet.py", *words)


def test_a_check_is_one_line_a_rule_and_a_count(kit):
    result = check()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "ok       same seed, same weights\nskipped  works on the GPU\n         there is none\n2 checks: 1 ok, 1 skipped\n"
    )
    assert kit.asked == ("QuietTrainer", {}, "cpu")


def test_a_failed_check_says_why_and_ends_with_1(kit):
    kit.outcomes += [
        Checked("learns", "failed", "expected 0.9, got 0.5"),
        Checked("resumes", "failed", "expected 0.9, got 0.5"),
    ]
    result = check()
    assert result.exit_code == 1
    assert result.stdout.endswith(
        "failed   learns\n         expected 0.9, got 0.5\nfailed   resumes\n         as above\n"
        "4 checks: 1 ok, 2 failed, 1 skipped\n"
    )


def test_settings_are_checked_as_a_protocol_would_write_them(kit):
    assert check("--set", "eps=1/4", "--set", "layers=[2, 3]").exit_code == 0
    assert kit.asked == ("QuietTrainer", {"eps": 0.25, "layers": (2, 3)}, "cpu")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epps=0.1", "--set: quiet has no setting 'epps'; did you mean 'eps'?\n"),
        ("eps=8", "--set: eps: is in pixel units of [0, 1] and cannot exceed 1; did you mean 8/255?\n"),
        ("eps", "--set eps: expected KEY=VALUE, such as eps=8/255\n"),
        ("=1", "--set =1: expected KEY=VALUE, such as eps=8/255\n"),
        ("eps=on", "--set eps=on: YAML reads on as true; write it in quotes, or write true\n"),
    ],
)
def test_a_setting_that_the_trainer_does_not_take_is_refused(kit, setting, message):
    result = check("--set", setting)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phantom", "the reader 'phantom' cannot be checked; only trainers can, so far\n"),
        ("torchvision/resnet18", "the model 'torchvision/resnet18' cannot be checked; only trainers can, so far\n"),
        ("pdg", "no trainer 'pdg'; did you mean 'pgd'?\n"),
    ],
)
def test_what_is_no_trainer_cannot_be_checked(kit, name, message):
    result = call("plugins", "check", name)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


class Inner(Params):
    depth: int = Field(1, ge=1, description="depth")


class Everything(Params):
    """A setting of every kind that has no default."""

    count: int = Field(ge=3, description="count")
    above: int = Field(gt=3, description="above")
    share: float = Field(gt=0, le=1, description="share")
    flag: bool = Field(description="flag")
    mode: Literal["no", "yes"] = Field(description="mode")
    either: int | str = Field(description="either")
    several: list[float] = Field(min_length=2, description="several")
    group: Inner = Field(description="group")
    free: dict[str, int] = Field(description="free")
    shown: int = Field(description="shown", examples=[7])
    radius: Radius = Field(description="radius")


def test_the_example_of_settings_without_defaults_is_accepted_by_them():
    written = describe.example("trainers", "all", Everything)
    settings = yaml.safe_load(written)["trainers"][0]
    assert settings.pop("name") == "all"
    assert Everything.model_validate(settings).mode == "no"
    assert settings["shown"] == 7


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (1e-05, "1.0e-05"),
        (2.5e-07, "2.5e-07"),
        ("no", '"no"'),
        ("two words", '"two words"'),
        ({"a": [1, True]}, "{a: [1, true]}"),
    ],
)
def test_defaults_are_shown_as_a_protocol_writes_them(monkeypatch, default, shown):
    class Defaults(Params):
        x: type(default) = Field(default, description="x")

    monkeypatch.setattr(Network, "Params", Defaults)
    text = call("plugins", "describe", "resnet18").stdout
    assert f"; default {shown}\n" in text
    assert yaml.safe_load(text.split("In a protocol\n")[1])["models"][0]["x"] == default


def test_a_group_of_settings_is_called_so(monkeypatch):
    class Grouped(Params):
        inner: Inner = Field(Inner(), description="inner")

    monkeypatch.setattr(Network, "Params", Grouped)
    assert "  inner: group of settings; default {depth: 1}\n" in call("plugins", "describe", "resnet18").stdout


# The program itself ------------------------------------------------------------------------------------------------------


def program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cxr_eval.cli", *words], capture_output=True, text=True, check=False)


def test_help_names_every_command_and_exit_code():
    text = call("--help").stdout
    for word in ("run", "validate", "schema", "report", "plugins", "data", "completion"):
        assert f"\n  {word} " in text
    assert text.endswith(
        "\n  Exit codes:\n"
        "    0    done\n"
        "    1    done, but a gate is not met, a plugin did not pass its checks, or a run is not as it was written\n"
        "    2    the protocol, the data or the command is wrong\n"
        "    3    done, but some cells failed\n"
        "    130  interrupted; the same command goes on from there\n"
    )


def test_the_program_runs_and_ends_as_in_this_process():
    listed = program("plugins", "list", "trainers")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "\n  standard  cxr-eval " in listed.stdout
    missing = program("validate", "no.yaml")
    assert (missing.returncode, missing.stdout, missing.stderr) == (2, "", "no.yaml: there is no such file\n")
    assert program("--version").stdout.startswith("cxr-eval ")


@pytest.mark.parametrize("words", ["", "--help", "run --help", "plugins --help", "plugins list", "completion zsh", "COMPLETE"])
def test_the_command_line_answers_without_a_heavy_package(words):
    code = f"""
import sys
from cxr_eval.cli import main
if {words!r} == "COMPLETE":
    from click.shell_completion import ShellComplete
    for before in (["run"], ["plugins", "describe"], ["plugins", "list"]):
        assert ShellComplete(main, {{}}, "cxr-eval", "X").get_completions(before, "")
elif {words!r}:
    main({words!r}.split(), standalone_mode=False)
print([name for name in ("torch", "art", "monai", "pandas", "numpy", "pydantic", "rich", "yaml") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_protocol_is_read_without_torch():
    code = (
        "import sys, pathlib, cxr_eval.protocol_file as f; f.load(pathlib.Path('p.yaml'));"
        " print([m for m in ('torch', 'art', 'monai', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_disk_or_folder_that_cannot_be_used_is_one_line(runner):
    told = "make it readable or writable, or free the disk. Prepared images are kept in CXR_EVAL_CACHE\n"
    runner.does = raises(PermissionError(13, "Permission denied", "/cache/file-digests.json"))
    result = call("run", "p.yaml")
    assert (result.exit_code, result.stderr) == (2, f"/cache/file-digests.json: Permission denied; {told}")
    runner.does = raises(OSError(28, "No space left on device"))
    assert call("run", "p.yaml").stderr == f"No space left on device; {told}"
