"""Options: one statement for keyword and flag, groups with the owner's defaults, checks, and the
same words in both.
"""

import dataclasses
import inspect
import pathlib
import re

import pytest

import tf_robust_transfer as rt
from tf_robust_transfer import command_line, config, flag_files
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import boolean, fraction, whole_numbers
from tf_robust_transfer.methods import METHODS
from tf_robust_transfer.options import (
    Options,
    above,
    at_least,
    flags_of,
    from_keywords,
    from_texts,
    group,
    keywords_of,
    option,
    to_texts,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Shared(Options):
    temperature: float = option(10.0, "of the soft labels", fraction, **above(0), flag="gamma")


@dataclasses.dataclass(frozen=True)
class Owner(Options):
    weight: float = option(5.0, "of the term", fraction, **at_least(0), flag="alpha")
    kind: str = option("max", "of pooling", choices=("max", "average"))
    sizes: tuple = option((1, 2), "of layers", whole_numbers)
    on: bool = option(False, "a switch", boolean)
    steps: int = option(0, "of the warm-up", fraction, **at_least(0), flag="epochs", in_epochs=True)
    shared: Shared = group(Shared, temperature=30.0)


def test_keywords_and_flags_are_the_same_options():
    by_keyword = from_keywords(
        Owner, {"weight": 0.5, "temperature": 3.0, "sizes": (4,), "on": True}
    )
    by_flag = from_texts(
        Owner, {"alpha": "1/2", "gamma": "3", "sizes": "4", "on": "true", "of_another": "x"}
    )
    assert by_keyword == by_flag == Owner(weight=0.5, sizes=(4,), on=True, shared=Shared(3.0))
    assert (
        from_texts(Owner, to_texts(by_flag)) == by_flag
        and from_keywords(Owner, keywords_of(by_flag)) == by_flag
    )


def test_a_number_has_the_type_of_its_flag():
    made = Owner(weight=2, sizes=(4,), steps=3, shared=Shared(1))
    assert [type(value) for value in keywords_of(made).values()] == [
        *(float, str, tuple, bool),
        int,  # of steps, where the flag is of epochs
        float,
    ]
    assert type(Counted(20.0).count) is int and Counted(20.0) == Counted(20)


@dataclasses.dataclass(frozen=True)
class Counted(Options):
    count: int = option(1, "of something", int, **at_least(1))


def test_a_group_has_the_owners_defaults():
    assert Owner().shared.temperature == 30.0 and Shared().temperature == 10.0
    assert from_keywords(Owner, {"weight": 1.0}).shared.temperature == 30.0
    assert {flag.name: flag.shown for flag in flags_of(Owner)} == {
        "alpha": "5.0",
        "kind": "max",
        "sizes": "1,2",
        "on": "false",
        "epochs": "0",
        "gamma": "30.0",
    }


@pytest.mark.parametrize(
    ("keywords", "texts"),
    [
        ({"weight": -1.0}, {"alpha": "-1.0"}),
        ({"weight": float("nan")}, {"alpha": "nan"}),
        ({"kind": "min"}, {"kind": "min"}),
        ({"temperature": 0.0}, {"gamma": "0.0"}),
    ],
)
def test_both_are_refused_with_the_same_words_but_for_the_name(keywords, texts):
    with pytest.raises(InputError) as in_python:
        from_keywords(Owner, keywords)
    with pytest.raises(InputError) as by_flag:
        from_texts(Owner, texts)
    name, flag = *keywords, *texts
    assert str(in_python.value).replace(name, f"--{flag}", 1) == str(by_flag.value).replace(
        "'", ""
    ) or (str(in_python.value).replace(name, f"--{flag}", 1) == str(by_flag.value))


def test_what_is_no_number_and_what_is_unknown():
    with pytest.raises(InputError, match="weight: expected a number of at least 0, got 'five'"):
        from_keywords(Owner, {"weight": "five"})
    with pytest.raises(InputError, match="unknown argument 'wieght'; nearest valid names: weight"):
        from_keywords(Owner, {"wieght": 1.0})
    with pytest.raises(
        InputError, match="--alpha: expected a number or a fraction such as 8/255, got 'x'"
    ):
        from_texts(Owner, {"alpha": "x"})


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_signature_shows_its_options(name):
    shown = inspect.signature(METHODS[name]).parameters
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in shown.values())
    for keyword, value in keywords_of(METHODS[name].Options()).items():
        assert shown[keyword].default == value
    assert ("teacher" in shown) == METHODS[name].takes_teacher
    assert shown["seed"].default == 0


def test_defaults_of_a_shared_option_are_the_owners():
    ard, rkd = (
        command_line.parse(config.TrainConfig, [f"--method={name}"]) for name in ("ard", "rkd")
    )
    assert (ard.alpha_kld, ard.gamma) == (1.0, 30.0) and (rkd.alpha_kld, rkd.gamma) == (0.95, 10.0)
    shown = inspect.signature(rt.Distillation).parameters
    assert (shown["kld_weight"].default, shown["temperature"].default) == (0.95, 10.0)


def test_owners_of_one_flag_share_its_type(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Other(Options):
        gamma: str = option("x", "another meaning")

    class Method:
        Flags = Other

    monkeypatch.setitem(METHODS, "other", Method)
    with pytest.raises(rt.InputError, match="--gamma of other and of ard are read in two ways"):
        command_line.all_flags(config.TrainConfig)


def bad_values():
    """Each flag of `train` with a value that is not allowed, for a method that has it."""
    for name in METHODS:
        for flag in command_line.train_flags(name):
            meta = flag.metadata
            if meta["choices"] or meta["expected"].startswith("one of"):
                yield name, flag.name, "none_of_them"
            elif meta["parse"] in (fraction, int, boolean, whole_numbers):
                yield name, flag.name, "x"
                if "at least" in meta["expected"] or "above" in meta["expected"]:
                    yield name, flag.name, "-1"


@pytest.mark.parametrize(("method", "flag", "text"), sorted(set(bad_values())))
def test_every_value_that_is_not_allowed_is_one_line_that_names_the_flag(method, flag, text):
    with pytest.raises(InputError) as caught:
        command_line.parse(config.TrainConfig, [f"--method={method}", f"--{flag}={text}"])
    assert (
        f"--{flag}" in str(caught.value)
        and "\n" not in str(caught.value)
        and text in str(caught.value)
    )


class TestFlagFiles:
    def read(self, tmp_path, text, *arguments):
        (tmp_path / "a.flags").write_bytes(text.encode())
        return flag_files.read(
            [f"--flagfile={tmp_path}/a.flags", *arguments], {"eps", "model"}, {"smoke"}
        )

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("\ufeff--eps=0.1\n", ("eps", "0.1")),
            ("--eps=0.1  \r\n", ("eps", "0.1")),
            ('--model="a b.keras"\n', ("model", "a b.keras")),
            ("--model 'a b'\n", ("model", "a b")),
            ("--model=m.keras   # mine\n", ("model", "m.keras")),
            ("--model=a#b\n", ("model", "a#b")),
            ("--model=\n", ("model", "")),
            ("--model='a #1'  # mine\n", ("model", "a #1")),
            ('--model "a #1"\n', ("model", "a #1")),
            ("--nosmoke\n", ("smoke", "false")),
            ("  --smoke\n", ("smoke", "true")),
            ("# a comment\n\n// another\n-eps 3\n", ("eps", "3")),
        ],
    )
    def test_as_people_write_them(self, text, expected, tmp_path):
        (given,) = self.read(tmp_path, text)
        assert (given.name, given.text) == expected and given.file == f"{tmp_path}/a.flags"

    @pytest.mark.parametrize(
        "value", ["plain", "", "a b", "/data/set #2", "'a'", '"a b"', "it's #1", 'a "b" #1', " a "]
    )
    def test_a_written_value_is_read_again(self, value, tmp_path):
        line = flag_files.to_line("model", value)
        (given,) = self.read(tmp_path, f"{line}\n")
        assert given.text == value
        assert flag_files.from_line(line) == ("model", value)
        assert flag_files.from_line("--model=/old #1") == ("model", "/old #1")

    def test_places_and_order(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/inner.flags").write_text("--eps=1\n")
        (tmp_path / "sub/outer.flags").write_text("# first\n--flagfile=inner.flags\n--eps=2\n")
        given = flag_files.read([f"--flagfile={tmp_path}/sub/outer.flags", "--eps", "3"], {"eps"})
        assert [(flag.text, flag.line, flag.file.rpartition("/")[2]) for flag in given] == [
            ("1", 1, "inner.flags"), ("2", 3, "outer.flags"), ("3", 0, ""),
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["quickstart/common.flags", "flags/quickstart/common.flags"])
    def test_the_packages_own_come_last(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert flag_files.find(name).samefile(ROOT / "flags/quickstart/common.flags")
        beside = tmp_path / "mine/quickstart/common.flags"
        for own in (beside, tmp_path / "flags/quickstart/common.flags", tmp_path / name):
            own.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        if name.startswith("quickstart"):
            assert flag_files.find(name, str(tmp_path / "mine/a.flags")) == beside
        (tmp_path / name).touch()
        found = flag_files.find(name, str(tmp_path / "mine/a.flags"))
        assert found.samefile(tmp_path / name)

    def test_a_row_of_the_package_anywhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        arguments = ["--flagfile=quickstart/igam.flags"]
        assert command_line.default_run_dir(arguments) == "runs/quickstart/igam"
        read = command_line.parse(config.TrainConfig, arguments)
        assert read.method == "igam" and read.batch_size == 64
        read.verify()  # its teacher's file is found too

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                "--eps=1\n--epss=2\n",
                r"unknown flag --epss \(.*a.flags, line 2\); nearest valid names: eps",
            ),
            (
                "eps=1\n",
                r"unexpected argument 'eps=1' \(.*a.flags, line 1\); flags are written "
                r"--name=value",
            ),
            (
                "--flagfile=none.flags\n",
                r"cannot read the flag file 'none.flags' \(.*line 1\): No such file .*nor beside",
            ),
            ("--flagfile=a.flags\n", r"the flag file 'a.flags' .*names itself"),
            ("--eps\n--model=m\n", r"--eps \(.*a.flags, line 1\): expected a value, got none"),
        ],
    )
    def test_what_is_refused_is_refused_with_file_and_line(self, text, says, tmp_path):
        with pytest.raises(InputError, match=says):
            self.read(tmp_path, text)

    def test_a_dash_for_an_underscore(self):
        with pytest.raises(
            InputError, match="unknown flag --max-examples; nearest valid names: max_examples"
        ):
            flag_files.read(["--max-examples=3"], {"max_examples", "eps"})


def test_flags_without_effect_are_told(caplog, tmp_path):
    (tmp_path / "a.flags").write_text("--noise=0.4\n--alpha_acm=5\n--epochs=1\n")
    read = command_line.parse(
        config.TrainConfig, [f"--flagfile={tmp_path}/a.flags", "--lambda_adv=7", "--teacher=x"]
    )
    command_line.tell_ignored(read)
    assert [re.sub(r"of \S*a.flags", "of a.flags", message) for message in caplog.messages] == [
        "--lambda_adv has no effect on method natural",
        "--teacher has no effect on method natural",
        "2 flags of a.flags have no effect on method natural: --alpha_acm, --noise",
    ]
