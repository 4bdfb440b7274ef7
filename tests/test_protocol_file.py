"""A protocol file is read with its lines, or refused with one plain line a fault."""

import dataclasses
import json
import random
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_eval import protocol_file
from cxr_eval.errors import ProtocolError
from cxr_eval.protocol import Protocol
from cxr_eval.protocol_file import LoadedProtocol, json_schema, load

BASE = """name: small
data:
  train: {reader: phantom}
models: [resnet18]
trainers: [standard]
"""
"""Five lines; what a test adds starts on line 6."""

WITH_ROOT = BASE.replace("{reader: phantom}", '{reader: covid, root: "${COVID}", when_missing: phantom}')

FULL = """name: covid-robust
cite: arXiv:2311.14227
data:
  train: {reader: covid_qu_ex, root: "${COVID_QU_EX}", when_missing: phantom}
  outside: {nih: {reader: table, root: "${NIH:-/nowhere}"}}
  classes: [covid, normal]
  size: 224
  augment: {rotate: 10, shift: 0.1, shear: 10, flip: true}
models: [resnet18, {name: densenet121, label: dense}]
train:
  epochs: 30
  optimizer: {name: adam, lr: 1.0e-4}
  select: {metric: robust_accuracy, patience: 5, eps: 4/255}
  seeds: [0, 1, 2]
trainers:
  - standard
  - {name: fgsm, eps: 8/255}
  - {name: sga, k: 0.1, lam: 1.0}
attacks:
  - {name: pgd, eps: [0.005, 8/255], steps: 20}
corruptions: [contrast]
explain:
  methods: [gradcam]
  metrics: [relevance_mass]
  conditions: [clean, {name: pgd, eps: 0.02}]
report: {formats: [html, csv], gallery: 4}
demonstration:
  data: {train: {patients: 200}, size: 64, outside: {}}
  train: {epochs: 2, seeds: [0]}
  models: [small_cnn]
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a text as `p.yaml` with an environment of its own."""
    monkeypatch.chdir(tmp_path)

    def read(text: str | bytes, *sets: str, **environ: str) -> LoadedProtocol:
        Path("p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(Path("p.yaml"), sets=sets, environ=environ)

    return read


@pytest.fixture
def refusal(read):
    """The message with which a text is refused."""

    def refusal(text: str | bytes, *sets: str, **environ: str) -> str:
        with pytest.raises(ProtocolError) as caught:
            read(text, *sets, **environ)
        return str(caught.value)

    return refusal


def test_a_short_protocol_is_read_with_its_defaults(read):
    loaded = read(BASE)
    assert loaded.protocol.name == "small"
    assert loaded.protocol.data.size == 224
    assert [use.name for use in loaded.protocol.models] == ["resnet18"]
    assert not loaded.demonstration
    assert loaded.unset == ()
    assert loaded.text == BASE
    assert loaded.path == Path("p.yaml")
    assert read(BASE, "train.epochs=3").sets == ("train.epochs=3",)


def test_a_full_protocol_keeps_the_settings_of_plugins_as_written(read):
    loaded = read(FULL, COVID_QU_EX="/data")
    assert loaded.protocol.trainers[1].settings == {"eps": "8/255"}
    assert loaded.protocol.models[1].label == "dense"
    assert loaded.protocol.data.train.settings == {"root": "/data"}
    assert loaded.protocol.train.select.eps == 4 / 255
    assert loaded.protocol.data.outside["nih"][0].settings == {"root": "/nowhere"}


def test_every_value_knows_its_line(read):
    sources = read(FULL, COVID_QU_EX="/data").sources
    assert sources["train", "optimizer", "lr"] == "p.yaml:12"
    assert sources["trainers", 1, "eps"] == "p.yaml:17"
    assert sources["trainers", 2] == "p.yaml:18"


def test_resolved_is_plain_data_with_the_defaults_and_without_the_demonstration(read):
    resolved = read(FULL, COVID_QU_EX="/data").resolved
    assert json.loads(json.dumps(resolved, allow_nan=False)) == resolved
    assert resolved["train"]["batch_size"] == 64
    none = {"label": None, "models": None, "warm_start": None, "reference": None}
    assert resolved["trainers"][1] == {"name": "fgsm", **none, "eps": "8/255"}
    assert "demonstration" not in resolved


def test_a_loaded_protocol_is_frozen(read):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(BASE).demonstration = True


# What is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("trian: {epochs: 3}", "p.yaml:6: a protocol has no setting 'trian'; did you mean 'train'?"),
        ("train: {epoch: 3}", "p.yaml:6: train has no setting 'epoch'; did you mean 'epochs'?"),
        (
            "train:\n  epochs: 3\n  select: {patient: 3}",
            "p.yaml:8: train.select has no setting 'patient'; did you mean 'patience'?",
        ),
        ("evaluate: {resample: 3}", "p.yaml:6: evaluate has no setting 'resample'; did you mean 'resamples'?"),
        (
            "evaluate: {subgroups: [sxe]}",
            "p.yaml:6: evaluate.subgroups: expected sex, age, view, site, got 'sxe'; did you mean 'sex'?",
        ),
        (
            "evaluate: {net_benefit: [0.1, 2.0]}",
            "p.yaml:6: evaluate.net_benefit: expected probabilities between 0 and 1, got 2",
        ),
        ("evaluate: {age_bands: [65.0, 18.0]}", "p.yaml:6: evaluate.age_bands: expected ages above 0 from small to large"),
        ("train: {epochs: abc}", "p.yaml:6: train.epochs: expected a whole number, got text 'abc'"),
        ("train: {epochs: 3.5}", "p.yaml:6: train.epochs: expected a whole number, got 3.5"),
        ("train: {epochs: true}", "p.yaml:6: train.epochs: expected a whole number, got true"),
        ("train: {epochs: 0}", "p.yaml:6: train.epochs: expected a number of at least 1, got 0"),
        ("train: {epochs: ~}", "p.yaml:6: train.epochs: expected a whole number, got nothing"),
        ("train: {epochs: [3]}", "p.yaml:6: train.epochs: expected a whole number, got a list of 1"),
        ("train: {epochs: {a: 3}}", "p.yaml:6: train.epochs: expected a whole number, got a group of settings"),
        ("train: {label_smoothing: 1}", "p.yaml:6: train.label_smoothing: expected a number below 1, got 1"),
        ("train: {optimizer: {lr: 0}}", "p.yaml:6: train.optimizer.lr: expected a number above 0, got 0"),
        ("train: {optimizer: {lr: high}}", "p.yaml:6: train.optimizer.lr: expected a number, got text 'high'"),
        ("train: {channels_last: 1}", "p.yaml:6: train.channels_last: expected true or false, got 1"),
        ("train:", "p.yaml:6: train: expected a group of 'key: value' settings, got nothing"),
        ("train: {seeds: [0, a]}", "p.yaml:6: train.seeds[1]: expected a whole number, got text 'a'"),
        ("train: {seeds: []}", "p.yaml:6: train.seeds: expected a list of at least 1, got a list of 0"),
        (
            "train: {optimizer: {name: adma}}",
            "p.yaml:6: train.optimizer.name: expected 'adam', 'adamw' or 'sgd', got text 'adma'; did you mean 'adam'?",
        ),
        (
            "train: {select: {eps: 8}}",
            "p.yaml:6: train.select.eps: is in pixel units of [0, 1] and cannot exceed 1; did you mean 8/255?",
        ),
        (
            "train: {select: {eps: big}}",
            "p.yaml:6: train.select.eps: expected a number such as 0.02 or a fraction such as 8/255",
        ),
        ("cite: 3", "p.yaml:6: cite: expected text, got 3"),
        (
            "report: {formats: jsn}",
            "p.yaml:6: report.formats: expected html, md, csv, json, latex, pdf, got 'jsn'; did you mean 'json'?",
        ),
        ("explain: {}", "p.yaml:6: explain needs 'methods'"),
        ("explain: {method: [a]}", "p.yaml:6: explain has no setting 'method'; did you mean 'methods'?"),
        ("attacks: fgsm", "p.yaml:6: attacks: expected a list, got text 'fgsm'"),
        ("attacks:\n  - {eps: 0.02}", "p.yaml:7: attacks[0] needs 'name'"),
        ("attacks: ['']", "p.yaml:6: attacks[0].name: expected text of at least 1 characters, got 0 characters"),
        ("attacks: [3]", "p.yaml:6: attacks[0]: expected a name, or a group of settings with a name, got 3"),
        (f"title: {'a' * 201}", "p.yaml:6: title: expected text of at most 200 characters, got 201 characters"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line_and_what_was_expected(refusal, added, message):
    assert message in refusal(BASE + added).splitlines()


def test_a_missing_setting_is_named_on_the_line_of_its_group(refusal):
    text = BASE.replace("reader: phantom", "reder: phantom").replace("name: small", "name: not so small")
    assert refusal(text.replace("models: [resnet18]\n", "")) == (
        "p.yaml:1: name: expected letters, digits, . _ -, got text 'not so small'\n"
        "p.yaml:1: a protocol needs 'models'\n"
        "p.yaml:3: data.train needs 'reader', found 'reder'"
    )


def test_a_rule_between_two_settings_is_told_at_their_group(refusal):
    text = BASE.replace("{reader: phantom}", "{reader: phantom}\n  split: {val: 0.5, test: 0.5}")
    assert refusal(text) == "p.yaml:4: data.split: val + test must leave patients to train on, got 0.5 + 0.5"


def test_at_most_ten_faults_are_listed_by_line(refusal):
    lines = refusal(BASE + "".join(f"zz{number}: 1\n" for number in range(14))).splitlines()
    assert [line.split(":")[1] for line in lines[:10]] == [str(number) for number in range(6, 16)]
    assert lines[10:] == ["and 4 more"]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("train: {channels_last: no}", "p.yaml:6: YAML reads no as false; write it in quotes, or write false"),
        ("train: {channels_last: On}", "p.yaml:6: YAML reads On as true; write it in quotes, or write true"),
        ("on: 3", "p.yaml:6: YAML reads on as true; write it in quotes"),
        ("no: 3", "p.yaml:6: YAML reads no as false; write it in quotes"),
        ("true: 3", "p.yaml:6: expected a name before the colon, got true; write it in quotes"),
        ("3: 3", "p.yaml:6: expected a name before the colon, got 3; write it in quotes"),
        ("[a]: 3", "p.yaml:6: expected a name before the colon"),
        ("?\n: 3", "p.yaml:6: expected a name before the colon"),
        (
            "train: {optimizer: {lr: 1e-3}}",
            "p.yaml:6: YAML reads 1e-3 as text; write 1.0e-3, or in quotes if text is meant",
        ),
        (
            "train: {optimizer: {lr: 2.5E4}}",
            "p.yaml:6: YAML reads 2.5E4 as text; write 2.5e+4, or in quotes if text is meant",
        ),
        (
            "train: {epochs: 010}",
            "p.yaml:6: YAML reads 010 as a number to another base; write it in plain digits, or in quotes",
        ),
        (
            "train: {epochs: 1:30}",
            "p.yaml:6: YAML reads 1:30 as a number to another base; write it in plain digits, or in quotes",
        ),
        ("train: {epochs: 9999999999999999999}", "p.yaml:6: the number 9999999999999999999 is too large"),
        ("train: {optimizer: {lr: .nan}}", "p.yaml:6: expected a finite decimal number, got .nan"),
        ("train: {optimizer: {lr: 1.0e+999}}", "p.yaml:6: expected a finite decimal number, got 1.0e+999"),
        ("name: again", "p.yaml:6: 'name' is written twice in the same place"),
        ("\ttrain: 3", "p.yaml:6: is indented by a tab; YAML wants spaces"),
        ("train:\n\tepochs: 3", "p.yaml:7: is indented by a tab; YAML wants spaces"),
        ("train: [", "p.yaml:6: cannot be read as YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c", "p.yaml:6: cannot be read as YAML: mapping values are not allowed here"),
        ("a: *nothing", "p.yaml:6: cannot be read as YAML: found undefined alias 'nothing'"),
        ("---\nname: second", "p.yaml:6: a second document starts here ('---'); a protocol is one"),
        ("title: \x07", "p.yaml:6: the character '\\x07' cannot stand in YAML"),
        ("a: &a [*a]", "p.yaml:6: an anchor is used inside itself"),
        ("<<: 3", "p.yaml:6: '<<' takes an anchor of key: value pairs"),
        ("title: " + "[" * 40 + "]" * 40, "p.yaml:6: is nested too deeply"),
        ("title: " + "[" * 2_000, "p.yaml:1: is nested too deeply"),
        ("title: !!str a", "p.yaml:6: the tag !!str is not allowed; a protocol holds values only"),
        ("title: !mine a", "p.yaml:6: the tag !mine is not allowed; a protocol holds values only"),
    ],
)
def test_what_yaml_would_read_otherwise_or_not_at_all_is_refused_by_line(refusal, added, message):
    assert refusal(BASE + added + ("" if added.endswith("[") else "\n")) == message


def test_the_same_words_in_quotes_are_text(read):
    loaded = read(BASE + "title: 'no'\ncite: \"1e-3\"\n")
    assert (loaded.protocol.title, loaded.protocol.cite) == ("no", "1e-3")


def test_a_date_stays_text(read):
    assert read(BASE + "title: 2024-01-01\n").protocol.title == "2024-01-01"


def test_anchors_and_merges_are_followed(read):
    text = BASE + "attacks:\n  - &a {name: pgd, eps: 0.02, steps: 5}\n  - {<<: *a, steps: 9}\n  - {<<: [{steps: 1}, *a]}\n"
    loaded = read(text)
    assert [use.settings["steps"] for use in loaded.protocol.attacks] == [5, 9, 1]
    assert loaded.protocol.attacks[1].settings["eps"] == 0.02


def test_anchors_that_grow_without_bound_are_refused(refusal):
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "holds more than 50000 values, anchors counted each time they are used" in refusal(BASE + bomb)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_refused(refusal, text):
    assert refusal(text) == "p.yaml:1: is empty; a protocol needs name, data, models and trainers"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_group_of_settings_is_refused(refusal, text):
    assert refusal(text) == "p.yaml:1: expected 'key: value' settings at the start of a line"


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProtocolError, match=r"^missing\.yaml: there is no such file$"):
        load(Path("missing.yaml"))
    with pytest.raises(ProtocolError, match=r"^folder: expected a protocol file, found a folder$"):
        load(Path("folder"))
    (tmp_path / "file").touch()
    with pytest.raises(ProtocolError, match=r"^file/p\.yaml: cannot be read: Not a directory$"):
        load(Path("file/p.yaml"))
    assert refusal(BASE.encode() + b"title: caf\xe9\n") == "p.yaml:6: is not UTF-8 text; save it as UTF-8"
    assert refusal(b"#" * 1_000_001) == "p.yaml: is larger than a megabyte; is it a protocol?"


def test_a_byte_order_mark_and_windows_line_ends_are_read(read, refusal):
    assert read(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()).protocol.name == "small"
    assert refusal((BASE + "trian: 3\n").replace("\n", "\r\n")).startswith("p.yaml:6: ")


def test_a_message_never_sends_control_characters_to_the_terminal(refusal):
    message = refusal(BASE + 'report: {formats: ["\\e[31m\\n"]}\n')
    assert message == "p.yaml:6: report.formats: expected html, md, csv, json, latex, pdf, got '\\x1b[31m\\n'"


@pytest.mark.parametrize(
    "hostile",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/name:os.system",
        "!!python/object/new:subprocess.Popen [['touch', 'pwned']]",
        "!!binary dG91Y2g=",
    ],
)
def test_a_tag_runs_nothing(refusal, hostile):
    assert "is not allowed" in refusal(BASE + f"title: {hostile}\n")
    assert "is not allowed" in refusal(BASE, f"title={hostile}")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "hostile",
    ["$(touch pwned)", "`touch pwned`", "{{ 7*7 }}", "__import__('os').system('touch pwned')", "%s%n", "{0.__class__}"],
)
def test_hostile_text_stays_text(read, refusal, hostile):
    assert read(BASE + "title: " + json.dumps(hostile) + "\n").protocol.title == hostile
    assert read(BASE + 'title: "${X}"\n', X=hostile).protocol.title == hostile
    assert hostile in refusal(BASE + "train: {epochs: " + json.dumps(hostile) + "}\n")
    assert not Path("pwned").exists()


# --set -------------------------------------------------------------------------------------------------------------------


def test_set_overrides_a_value_and_the_last_one_wins(read):
    protocol = read(BASE, "train.epochs=3", "train.optimizer.lr=1.0e-4", "train.epochs=4", "title=a b").protocol
    assert (protocol.train.epochs, protocol.train.optimizer.lr, protocol.title) == (4, 1e-4, "a b")


def test_set_reaches_into_lists_and_gives_a_bare_name_its_first_setting(read):
    protocol = read(BASE, "trainers.0.eps=8/255", "models.0=small_cnn", "train.seeds=[0, 1]").protocol
    assert (protocol.trainers[0].name, protocol.trainers[0].settings) == ("standard", {"eps": "8/255"})
    assert protocol.models[0].name == "small_cnn"
    assert protocol.train.seeds == (0, 1)


def test_set_without_a_value_takes_a_setting_away(read):
    assert read(BASE + "explain: {methods: [a]}\n", "explain=").protocol.explain is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "--set train.epoch=3: train has no setting 'epoch'; did you mean 'epochs'?"),
        ("train.epochs=abc", "--set train.epochs=abc: train.epochs: expected a whole number, got text 'abc'"),
        ("train.epochs", "--set train.epochs: expected KEY=VALUE, such as train.epochs=3 or trainers.0.eps=8/255"),
        ("train..epochs=3", "--set train..epochs=3: expected KEY=VALUE, such as train.epochs=3 or trainers.0.eps=8/255"),
        ("trainers.3.eps=1", "--set trainers.3.eps=1: trainers has one entry, 0; there is no '3'"),
        ("trainers.first=a", "--set trainers.first=a: trainers has one entry, 0; there is no 'first'"),
        ("name.x=3", "--set name.x=3: name is one value and has no settings"),
        (
            "train.channels_last=yes",
            "--set train.channels_last=yes: YAML reads yes as true; write it in quotes, or write true",
        ),
        (
            "train.seeds=[",
            "--set train.seeds=[: cannot be read as YAML: expected the node content, but found '<stream end>'",
        ),
    ],
)
def test_a_wrong_set_is_named_as_it_was_given(refusal, override, message):
    assert refusal(BASE, override) == message


def test_a_set_beyond_the_end_of_a_list_says_how_long_it_is(refusal):
    text = BASE.replace("[standard]", "[standard, fgsm]")
    assert refusal(text, "trainers.2=a") == "--set trainers.2=a: trainers has 2 entries, counted from 0; there is no '2'"


# ${VARIABLES} and the demonstration --------------------------------------------------------------------------------------


def test_variables_are_put_into_texts_once(read):
    text = BASE + 'title: "${A} and ${B:-b} and [${C:-}]"\n'
    assert read(text, A="${B}", B="").protocol.title == "${B} and b and []"


def test_a_variable_that_is_not_set_is_refused_with_its_line(refusal):
    message = "p.yaml:6: title: the environment variable A is not set; set it, or write ${A:-default}"
    assert refusal(BASE + 'title: "${A}"\n') == message
    assert refusal(BASE + 'title: "${A}"\n', A="") == message


@pytest.mark.parametrize("text", ["${}", "${a b}", "${A:default}", "${A", "${1}"])
def test_a_malformed_variable_is_refused(refusal, text):
    assert refusal(BASE + f"title: '{text}'\n", A="a") == (
        "p.yaml:6: title: '${' starts a variable; write ${NAME} or ${NAME:-default}"
    )


def test_without_a_stand_in_a_missing_root_is_an_error(refusal):
    text = WITH_ROOT.replace(", when_missing: phantom", "")
    assert refusal(text) == (
        "p.yaml:3: data.train.root: the environment variable COVID is not set; set it, or write ${COVID:-default}"
    )


@pytest.mark.parametrize("environ", [{}, {"COVID": ""}])
def test_the_stand_in_replaces_the_reader_and_all_its_settings(read, environ):
    loaded = read(WITH_ROOT, **environ)
    assert loaded.demonstration
    assert loaded.unset == ("COVID",)
    assert loaded.protocol.data.train.reader == "phantom"
    assert loaded.protocol.data.train.settings == {}


def test_a_root_that_is_set_is_never_replaced(read):
    loaded = read(FULL, COVID_QU_EX="/there/is/no/such/folder")
    assert not loaded.demonstration
    assert loaded.protocol.data.train.reader == "covid_qu_ex"
    assert loaded.protocol.train.epochs == 30


def test_a_root_given_by_set_is_no_demonstration(read):
    loaded = read(WITH_ROOT, "data.train.root=/images")
    assert not loaded.demonstration
    assert loaded.protocol.data.train.settings == {"root": "/images"}


def test_the_demonstration_block_joins_groups_and_replaces_lists_and_outside_sets(read):
    protocol = read(FULL).protocol
    assert protocol.data.train.settings == {"patients": 200}
    assert (protocol.data.size, protocol.data.classes) == (64, ("covid", "normal"))
    assert protocol.data.outside == {}
    assert (protocol.train.epochs, protocol.train.seeds, protocol.train.optimizer.lr) == (2, (0,), 1e-4)
    assert [use.name for use in protocol.models] == ["small_cnn"]
    assert protocol.demonstration is None


def test_values_of_the_block_keep_their_own_lines(read):
    assert read(FULL).sources["data", "size"] == "p.yaml:28"
    assert read(FULL).sources["train", "seeds"] == "p.yaml:29"


def test_an_outside_set_of_the_block_replaces_those_whose_variables_are_not_set(read, refusal):
    text = WITH_ROOT.replace("models:", '  outside: {nih: {reader: table, root: "${NIH}"}}\nmodels:')
    assert "data.outside.nih.root: the environment variable NIH is not set" in refusal(text)
    loaded = read(text + "demonstration: {data: {outside: {other: {reader: phantom}}}}\n")
    assert list(loaded.protocol.data.outside) == ["other"]


def test_set_wins_over_the_demonstration_and_can_change_the_block(read):
    assert read(FULL, "train.epochs=1").protocol.train.epochs == 1
    assert read(FULL, "data.train.patients=50").protocol.data.train.settings == {"patients": 50}
    assert read(FULL, "demonstration.train.epochs=7").protocol.train.epochs == 7


def test_a_set_for_the_real_run_is_not_held_against_a_shorter_demonstration(read, refusal):
    assert read(FULL, "models.1.label=d", COVID_QU_EX="/data").protocol.models[1].label == "d"
    assert refusal(FULL, "models.1.label=d") == "--set models.1.label=d: models has one entry, 0; there is no '1'"


@pytest.mark.parametrize("environ", [{}, {"COVID": "/data"}])
def test_the_block_is_checked_whether_it_is_in_force_or_not(refusal, environ):
    text = WITH_ROOT + "demonstration:\n  trian: 3\n  data: {size: 5}\n  train: {epochs: many}\n"
    assert refusal(text, **environ) == (
        "p.yaml:7: a protocol has no setting 'trian'; did you mean 'train'?\n"
        "p.yaml:8: data.size: expected a number of at least 16, got 5\n"
        "p.yaml:9: train.epochs: expected a whole number, got text 'many'"
    )


def test_the_protocol_is_checked_even_where_the_block_replaces_it(refusal):
    text = WITH_ROOT + "train: {epochs: many}\ndemonstration: {train: {epochs: 2}}\n"
    assert refusal(text) == "p.yaml:6: train.epochs: expected a whole number, got text 'many'"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{demonstration: {}}", "p.yaml:6: demonstration: cannot hold a demonstration of its own"),
        ("[a]", "p.yaml:6: demonstration: expected a group of 'key: value' settings, got a list of 1"),
    ],
)
def test_a_block_that_cannot_be_laid_over_is_refused(refusal, block, message):
    assert refusal(WITH_ROOT + f"demonstration: {block}\n") == message


def test_a_block_that_can_never_hold_is_refused(refusal):
    assert refusal(BASE + "demonstration: {train: {epochs: 1}}\n") == (
        "p.yaml:6: demonstration: holds only where data.train.when_missing steps in, which is not given"
    )


# Schema ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def schema(monkeypatch):
    """The schema where one plugin of each kind is installed."""
    monkeypatch.setattr(protocol_file, "names", lambda kind: (f"some_{kind}",))
    return json_schema()


def test_the_schema_is_a_json_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


def test_the_schema_accepts_what_is_read(schema):
    for text in (BASE, WITH_ROOT, FULL):
        jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize(
    "added", ["trian: 3", "train: {epochs: abc}", "train: {select: {eps: 8}}", "attacks: fgsm", "attacks: [3]"]
)
def test_the_schema_refuses_what_is_refused(schema, added):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(BASE + added), schema)


def test_the_schema_lets_a_radius_be_a_fraction_and_a_list_of_one_a_value(schema):
    for added in ("train: {select: {eps: 8/255}, seeds: 3}", "attacks: [{name: a, eps: 8/255}]", "report: {formats: html}"):
        jsonschema.validate(yaml.safe_load(BASE + added), schema)


def test_the_schema_names_installed_plugins(schema):
    examples = schema["properties"]["trainers"]["anyOf"][0]["items"]["anyOf"][0]["examples"]
    assert examples == ["some_trainers"]
    explain = schema["$defs"]["Explain"]["properties"]
    assert explain["methods"]["anyOf"][0]["items"]["anyOf"][0]["examples"] == ["some_explainers"]
    assert explain["conditions"]["items"]["anyOf"][0]["examples"] == ["clean", "some_attacks"]
    assert schema["$defs"]["Source"]["properties"]["reader"]["examples"] == ["some_readers"]


SHIPPED = sorted((Path(__file__).parents[1] / "protocols").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_every_shipped_protocol_is_read_as_a_demonstration_and_fits_the_schema(path, schema):
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)
    load(path, environ={})


# Anything at all ---------------------------------------------------------------------------------------------------------

PIECES = [
    *"[]{}\n\t'\"|~%#?é\x00\u2028",
    "no",
    "1e-3",
    "8/255",
    ": ",
    "- ",
    "  ",
    "&a ",
    "*a",
    "!!x ",
    "<<",
    "0x",
    "1:2",
    "---\n",
]
PIECES += ["${A}", "${"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cuts=st.integers(1, 6))
def test_a_protocol_changed_at_random_is_read_or_refused_in_plain_lines(tmp_path, seed, cuts):
    rng, text = random.Random(seed), FULL
    for _ in range(cuts):
        start = rng.randrange(len(text))
        text = text[:start] + rng.choice(PIECES) * rng.randrange(3) + text[start + rng.choice([0, 0, 1, 5, 40]) :]
    _read_or_refused(tmp_path, text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*Protocol.model_fields, "no", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "train", "reader", "eps"]), inner)
            ),
            max_leaves=8,
        ),
    )
)
def test_a_protocol_of_any_values_is_read_or_refused_in_plain_lines(tmp_path, values):
    _read_or_refused(tmp_path, yaml.safe_dump({**yaml.safe_load(BASE), **values}))


def _read_or_refused(folder: Path, text: str) -> None:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        loaded = load(path, environ={})
    except ProtocolError as error:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= 11
        assert all(line.startswith((f"{path}:", "and ")) for line in lines)
        assert all(line.isprintable() for line in lines)
    else:
        assert isinstance(loaded.protocol, Protocol)
        json.dumps(loaded.resolved, allow_nan=False)
