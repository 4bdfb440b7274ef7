"""Plugins are found by entry point: names without an import, classes when they are asked for."""

import hashlib
import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

import cxr_eval.api as cxr
from cxr_eval import errors, registry
from cxr_eval.cli import main
from cxr_eval.errors import PluginError


class Plain:
    """A plugin."""


class Zoo:
    """A family whose members need no prefix."""

    bare = True

    @classmethod
    def names(cls):
        return ("resnet18", "resnet50")

    @classmethod
    def member(cls, name):
        return {"resnet18": Plain, "resnet50": Plain}[name]


class Art(Zoo):
    """A family whose members need its prefix."""

    bare = False


@pytest.fixture
def install(monkeypatch):
    """Makes (kind, name, value, package) the only entry points; `fake:NAME` stands for the classes of this file."""
    module = ModuleType("fake")
    module.Plain, module.Zoo, module.Art = Plain, Zoo, Art
    monkeypatch.setitem(sys.modules, "fake", module)

    def install(*points):
        made = [
            EntryPoint(name, value, f"cxr_eval.{kind}")._for(
                SimpleNamespace(name=package, version="1.0", read_text=lambda name: None)
            )
            for kind, name, value, package in points
        ]
        monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in made if point.group == group])
        monkeypatch.setattr(registry, "_sound", lambda kind, point, cls: cls)  # these are only what a name leads to
        registry.installed.cache_clear()

    yield install
    registry.installed.cache_clear()


@pytest.fixture
def zoo(install):
    install(
        ("models", "torchvision", "fake:Zoo", "pkg-a"),
        ("models", "small", "fake:Plain", "pkg-b"),
        ("attacks", "art", "fake:Art", "pkg-a"),
        ("attacks", "fgsm", "fake:Plain", "pkg-b"),
    )


def test_names_are_listed_without_an_import(install):
    install(("models", "b", "no_such_module:X", "pkg"), ("models", "a", "no_such_module:X", "pkg"))
    assert list(registry.installed("models")) == ["a", "b"]
    assert registry.installed("trainers") == {}


def test_a_plugin_is_found_by_its_name(zoo):
    assert registry.find("models", "small") is Plain
    assert registry.origin("models", "small") == "pkg-b 1.0"


def test_a_member_is_found_with_its_family_and_without_it_where_the_family_is_bare(zoo):
    assert registry.find("models", "torchvision/resnet18") is Plain
    assert registry.find("models", "resnet18") is Plain
    assert registry.find("attacks", "art/resnet50") is Plain
    assert registry.origin("models", "resnet18") == "pkg-a 1.0"
    assert registry.origin("attacks", "art/resnet50") == "pkg-a 1.0"


def test_all_names_of_a_kind_are_those_that_a_protocol_may_write(zoo):
    assert set(registry.names("models")) == {"small", "resnet18", "resnet50"}
    assert set(registry.names("attacks")) == {"fgsm", "art/resnet18", "art/resnet50"}


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("models", "resnet19", "no model 'resnet19'; did you mean 'resnet18'?"),
        ("models", "zzz", "no model 'zzz'; see: cxr-eval plugins list models"),
        ("models", "torchvison/resnet18", "no model family 'torchvison'; did you mean 'torchvision'?"),
        ("models", "torchvision/resnet51", "no model 'torchvision/resnet51'; did you mean 'resnet50'?"),
        ("models", "small/x", "model 'small' has no members; write 'small' alone"),
        ("attacks", "art", "'art' is a family of attacks; name one of its members: art/NAME"),
        ("attacks", "resnet18", "no attack 'resnet18'; did you mean 'art/resnet18'?"),
        ("explanation_metrics", "x", "no explanation metric 'x'; see: cxr-eval plugins list explanation_metrics"),
    ],
)
def test_an_unknown_plugin_is_refused_with_the_nearest_name(zoo, kind, name, message):
    with pytest.raises(PluginError) as caught:
        registry.find(kind, name)
    assert str(caught.value) == message


def test_a_plugin_that_cannot_be_imported_is_named_with_its_package_and_reason(install):
    install(("trainers", "broken", "no_such_module:X", "pkg"))
    with pytest.raises(PluginError) as caught:
        registry.find("trainers", "broken")
    assert str(caught.value) == (
        "trainer 'broken' of pkg 1.0 cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_two_packages_with_one_name_are_an_error_that_names_both(install):
    install(("trainers", "pgd", "a:X", "pkg-a"), ("trainers", "pgd", "b:X", "pkg-b"))
    with pytest.raises(PluginError) as caught:
        registry.installed("trainers")
    assert str(caught.value) == "two packages register the trainer 'pgd': pkg-a 1.0 and pkg-b 1.0; uninstall one of them"


def test_one_package_seen_twice_is_no_clash(install):
    install(("trainers", "pgd", "fake:Plain", "pkg"), ("trainers", "pgd", "fake:Plain", "pkg"))
    assert registry.find("trainers", "pgd") is Plain


def test_an_entry_point_without_a_package_says_so():
    assert registry.package_of(EntryPoint("x", "a:B", "cxr_eval.trainers")) == "an unknown package"


@pytest.mark.parametrize(
    ("name", "hint"), [("FGSM", "; did you mean 'fgsm'?"), ("fgms", "; did you mean 'fgsm'?"), ("zzz", ""), ("", "")]
)
def test_the_nearest_name_ignores_case_and_is_silent_when_nothing_is_near(name, hint):
    assert errors.nearest(name, ["fgsm", "pgd"]) == hint


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_plugin_of_this_package_can_be_found(kind):
    for name, point in registry.installed(kind).items():
        if point.dist is not None and point.dist.name == "cxr-eval":
            plugin = point.load()
            assert hasattr(plugin, "member") or registry.find(kind, name) is plugin


def test_listing_plugins_loads_no_heavy_package():
    code = (
        "import sys, cxr_eval.registry as r; [r.installed(k) for k in r.KINDS];"
        " print([m for m in ('torch', 'art', 'monai', 'pandas', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# a plugin that is broken stands in no other's way ------------------------------------------------------------------------


def test_a_broken_plugin_hides_no_member_of_a_family(install):
    install(("models", "a", "no_such_module:X", "pkg"), ("models", "zoo", "fake:Zoo", "pkg"))
    assert registry.find("models", "resnet18") is Plain
    assert registry.origin("models", "resnet18") == "pkg 1.0"
    assert registry.names("models") == ("a", "resnet18", "resnet50")


def test_no_other_package_is_imported_for_a_member_of_our_own_family(install, monkeypatch, tmp_path):
    (tmp_path / "loud.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    install(("models", "a", "loud:X", "pkg"), ("models", "zoo", "fake:Zoo", "cxr-eval"))
    assert registry.find("models", "resnet18") is Plain
    assert "loud" not in sys.modules


def test_a_name_that_nothing_is_near_to_says_which_plugins_could_not_be_asked(install):
    install(("models", "a", "no_such_module:X", "pkg"), ("models", "zoo", "fake:Zoo", "pkg"))
    for what, message in (
        ("vit", "no model 'vit'; 'a' of pkg 1.0 cannot be imported, so what may be in there is not known"),
        ("resnet19", "no model 'resnet19'; did you mean 'resnet18'?"),
    ):
        with pytest.raises(PluginError) as caught:
            registry.find("models", what)
        assert str(caught.value) == message


def test_a_name_that_is_not_there_has_no_origin(zoo):
    with pytest.raises(PluginError, match=r"^no model 'resnet19'; did you mean 'resnet18'\?$"):
        registry.origin("models", "resnet19")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ValueError('two\\n  lines')", "ValueError: two lines"),
        ("import sys; sys.exit('stop')", "SystemExit: stop"),
        ("X = 1 +", "SyntaxError: invalid syntax (bad_plugin.py, line 1)"),
        ("", "AttributeError: module 'bad_plugin' has no attribute 'X'"),
    ],
)
def test_however_a_plugin_breaks_it_is_one_line(install, monkeypatch, tmp_path, code, why):
    (tmp_path / "bad_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_plugin", raising=False)
    install(("trainers", "bad", "bad_plugin:X", "pkg"))
    with pytest.raises(PluginError) as caught:
        registry.find("trainers", "bad")
    assert str(caught.value) == f"trainer 'bad' of pkg 1.0 cannot be imported: {why}"
    sys.modules.pop("bad_plugin", None)


@pytest.fixture
def broken_package(monkeypatch, tmp_path):
    """An installed package whose trainer, model and reader cannot be imported, beside all others that are installed."""
    info = tmp_path / "site" / "cxr_eval_broken-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cxr-eval-broken\nVersion: 0.3\n")
    groups = ("trainers", "models", "readers")
    (info / "entry_points.txt").write_text("".join(f"[cxr_eval.{group}]\naa_broken = no_such_module:X\n" for group in groups))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    registry.installed.cache_clear()
    yield
    registry.installed.cache_clear()


def test_a_broken_package_is_listed_and_described_by_what_is_wrong_with_it(broken_package):
    listed = CliRunner().invoke(main, ["plugins", "list"])
    assert listed.exit_code == 0
    assert listed.stdout.count("  aa_broken") == 3
    assert "cxr-eval-broken 0.3\n" in listed.stdout
    described = CliRunner().invoke(main, ["plugins", "describe", "aa_broken"])
    assert described.exit_code == 2
    assert described.stderr == (
        "trainer 'aa_broken' of cxr-eval-broken 0.3 cannot be imported: ModuleNotFoundError: No module named 'no_such_module'\n"
    )


def test_a_broken_package_hurts_no_protocol_that_does_without_it(broken_package, tmp_path):
    text = "name: small\ndata: {train: {reader: phantom}}\nmodels: [resnet18]\ntrainers: [standard, %s]\n"
    (tmp_path / "p.yaml").write_text(text % "fgsm")
    good = CliRunner().invoke(main, ["validate", "p.yaml"])
    assert good.exit_code == 0, good.stderr
    (tmp_path / "p.yaml").write_text(text % "aa_broken")
    bad = CliRunner().invoke(main, ["validate", "p.yaml"])
    assert bad.exit_code == 2
    assert bad.stderr.startswith("p.yaml:4: trainers[1]: trainer 'aa_broken' of cxr-eval-broken 0.3 cannot be imported: ")
    assert CliRunner().invoke(main, ["plugins", "describe", "resnet18"]).exit_code == 0
    assert CliRunner().invoke(main, ["schema"]).exit_code == 0


# a single file -----------------------------------------------------------------------------------------------------------

ONE = """
import cxr_eval.api as cxr


class {name}(cxr.Trainer):
    def loss(self, batch):
        return self.criterion(self.model(batch.x), batch.y)
"""


@pytest.fixture
def file(monkeypatch, tmp_path):
    """Writes a file of the given name and code."""
    monkeypatch.chdir(tmp_path)

    def file(code, name="mine.py"):
        path = tmp_path / name
        path.write_bytes(code if isinstance(code, bytes) else code.encode())
        return path

    yield file
    registry.forget_files()


def test_a_file_is_a_plugin_by_its_class_until_it_is_forgotten(file):
    path = file(ONE.format(name="MyNoiseTrainer"))
    registry.register_file(path)
    assert registry.find("trainers", "my_noise").__name__ == "MyNoiseTrainer"
    assert registry.origin("trainers", "my_noise") == f"mine.py sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    modules = [name for name in sys.modules if name.startswith("cxr_eval_file_")]
    assert len(modules) == 1
    registry.forget_files()
    assert "my_noise" not in registry.installed("trainers")
    assert not [name for name in sys.modules if name.startswith("cxr_eval_file_")]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("MyNoiseTrainer", "my_noise"),
        ("PGD7Trainer", "pgd7"),
        ("DPAATLikeTrainer", "dpaat_like"),
        ("Soft", "soft"),
        ("Trainer", "trainer"),
    ],
)
def test_a_class_gives_its_name_without_the_word_for_its_kind(file, title, name):
    registry.register_file(file(ONE.format(name=title)))
    assert registry.find("trainers", name)


def test_a_file_may_hold_plugins_of_all_kinds_and_their_bases(file):
    registry.register_file(
        file(
            """
from __future__ import annotations

import cxr_eval.api as cxr
from cxr_eval_noise import NoiseTrainer


class _Base(cxr.Trainer):
    def loss(self, batch): ...


class _Halfway(cxr.Trainer):
    "Has no loss yet."


class FirstTrainer(_Base):
    class Params(cxr.Params):
        eps: cxr.Radius = 0.1


Alias = FirstTrainer


class OwnReader(cxr.Reader):
    def read(self, cache): ...


class TinyModelBuilder(cxr.ModelBuilder):
    def build(self, *, channels, classes, size): ...


class LuckAttack(cxr.Attack):
    def perturb(self, classifier, x, y, *, eps, seed): ...


class FogCorruption(cxr.Corruption):
    def corrupt(self, x, *, severity, seed): ...


class EdgeExplainer(cxr.Explainer):
    def explain(self, model, x, target): ...


class AreaMetric(cxr.ExplanationMetric):
    def measure(self, explained): ...
"""
        )
    )
    mine = {kind: [n for n, p in registry.installed(kind).items() if p.dist.name == "mine.py"] for kind in registry.KINDS}
    assert mine == {
        "trainers": ["first"],
        "readers": ["own"],
        "models": ["tiny"],
        "attacks": ["luck"],
        "corruptions": ["fog"],
        "explainers": ["edge"],
        "explanation_metrics": ["area"],
    }
    assert registry.find("trainers", "first").Params().eps == 0.1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (\n", "{path}:1: is not Python: '(' was never closed"),
        (b"\x00", "{path}: is not Python: source code string cannot contain null bytes"),
        ("import no_such_module", "{path}: cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "{path}: cannot be imported: SystemExit: 3"),
        ("x = 1", "{path}: there is no plugin in it; expected a class such as MyTrainer(cxr_eval.api.Trainer)"),
        (
            "from cxr_eval_noise import NoiseTrainer",
            "{path}: there is no plugin in it; expected a class such as MyTrainer(cxr_eval.api.Trainer)",
        ),
        (
            ONE.format(name="SoftTrainer").replace("def loss", "def los"),
            "{path}: SoftTrainer lacks loss; write it, or start the name with _ if the class is only a base",
        ),
        (
            ONE.format(name="SoftTrainer") + ONE.format(name="Soft"),
            "{path}: SoftTrainer and Soft would both be the trainer 'soft'; rename one of them",
        ),
        (
            ONE.format(name="PGDTrainer"),
            "{path}: the trainer 'pgd' is registered by {ours} already; rename the class PGDTrainer",
        ),
    ],
)
def test_a_file_that_is_no_plugin_is_refused_in_one_line_and_leaves_no_trace(file, code, message):
    path = file(code)
    with pytest.raises(PluginError) as caught:
        registry.register_file(path)
    ours = registry.package_of(registry.installed("trainers")["pgd"])
    assert str(caught.value) == message.format(path=path, ours=ours)
    assert not [name for name in sys.modules if name.startswith("cxr_eval_file_")]
    assert all(point.dist.name != "mine.py" for point in registry.installed("trainers").values())


def test_a_file_that_cannot_be_read_is_refused(file, tmp_path):
    with pytest.raises(PluginError) as caught:
        registry.register_file(tmp_path / "no.py")
    assert str(caught.value) == f"{tmp_path / 'no.py'}: there is no such file; --plugin takes a Python file"
    with pytest.raises(PluginError) as caught:
        registry.register_file(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory; --plugin takes a Python file"


def test_two_files_with_one_name_are_an_error_that_names_both_and_one_file_given_twice_is_none(file):
    first, second = file(ONE.format(name="SoftTrainer"), "first.py"), file(ONE.format(name="SoftTrainer"), "second.py")
    registry.register_file(first)
    registry.register_file(first)
    with pytest.raises(PluginError) as caught:
        registry.register_file(second)
    origin = registry.origin("trainers", "soft")
    assert origin.startswith("first.py sha256:")
    assert str(caught.value) == (
        f"{second}: the trainer 'soft' is registered by {origin} already; rename the class SoftTrainer"
    )


def test_what_runs_is_what_was_hashed_and_no_compiled_file_is_left(file, tmp_path):
    registry.register_file(file(ONE.format(name="SoftTrainer")))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert "class SoftTrainer" in inspect.getsource(registry.find("trainers", "soft"))


def test_another_content_is_another_origin(file):
    origins = set()
    for code in (ONE, ONE + "\n# another\n"):
        registry.register_file(file(code.format(name="SoftTrainer")))
        origins.add(registry.origin("trainers", "soft"))
        registry.forget_files()
    assert len(origins) == 2


def test_a_class_that_is_not_of_its_kind_is_refused_with_its_package(monkeypatch):
    """What `find` asks of every plugin, here without the fixture that lets bare classes pass."""
    monkeypatch.undo()
    point = EntryPoint("mine", "mine:Mine", "cxr_eval.trainers")._for(SimpleNamespace(name="pkg", version="1.0"))

    class Bare:
        pass

    class WithOtherSettings(cxr.Trainer):
        class Params:
            eps = 1

        def loss(self, batch):
            return batch.x

    class WithoutAComma(WithOtherSettings):
        Params = cxr.Params
        tasks = "multiclass"

    start = "trainer 'mine' of pkg 1.0: "
    for cls, message in (
        (Bare, "Bare is not a subclass of cxr_eval.api.Trainer"),
        (
            WithOtherSettings,
            "WithOtherSettings.Params is not a subclass of cxr_eval.api.Params; write class Params(cxr.Params)",
        ),
        (WithoutAComma, "WithoutAComma.tasks: expected a tuple of 'multiclass' and 'multilabel', got 'multiclass'"),
    ):
        with pytest.raises(PluginError) as caught:
            registry._sound("trainers", point, cls)
        assert str(caught.value) == start + message
    standard = registry.find("trainers", "standard")
    assert registry._sound("trainers", point, standard) is standard


def test_the_origin_of_an_editable_plugin_changes_with_its_code(tmp_path, monkeypatch):
    package = tmp_path / "edited_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = '{"url": "file:///x", "dir_info": {"editable": true}}'
    dist = SimpleNamespace(name="pkg", version="1.0", read_text=lambda name: told)
    point = EntryPoint("mine", "edited_plugin:Mine", "cxr_eval.trainers")._for(dist)
    first = registry._edited(point)
    (package / "more.py").write_text("B = 2\n")
    second = registry._edited(point)
    assert first.startswith(" edited sha256:")
    assert second != first
    fixed = SimpleNamespace(name="pkg", version="1.0", read_text=lambda name: None)
    assert registry._edited(EntryPoint("mine", "edited_plugin:Mine", "cxr_eval.trainers")._for(fixed)) == ""
