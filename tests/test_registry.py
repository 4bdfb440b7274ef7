"""Plugins are found by entry point: names without an import, classes when they are asked for."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest

from cxr_eval import registry
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
            EntryPoint(name, value, f"cxr_eval.{kind}")._for(SimpleNamespace(name=package, version="1.0"))
            for kind, name, value, package in points
        ]
        monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in made if point.group == group])
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
        ("models", "zzz", "no model 'zzz'"),
        ("models", "torchvison/resnet18", "no model family 'torchvison'; did you mean 'torchvision'?"),
        ("models", "torchvision/resnet51", "no model 'torchvision/resnet51'; did you mean 'resnet50'?"),
        ("models", "small/x", "model 'small' has no members; write 'small' alone"),
        ("attacks", "art", "'art' is a family of attacks; name one of its members: art/NAME"),
        ("attacks", "resnet18", "no attack 'resnet18'; did you mean 'art/resnet18'?"),
        ("explanation_metrics", "x", "no explanation metric 'x'"),
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
    assert registry.nearest(name, ["fgsm", "pgd"]) == hint


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
