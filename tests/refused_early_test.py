"""What would train something else than was meant, or fail after hours, is refused or told before a
step: terms, options, flags, attacks and networks of one's own.
"""

import dataclasses
import logging
import sys
import types

import keras
import pytest

import tf_robust_transfer as rt
from tf_robust_transfer import command, command_line
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import SharedConfig, TrainConfig, attack_names
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.flag_types import boolean, fraction, whole_numbers
from tf_robust_transfer.methods import IGAM, AdversarialTraining, Natural
from tf_robust_transfer.options import Options, flags_of, from_texts, option
from tf_robust_transfer.runs import teachers
from tf_robust_transfer.runs.method import compiled_method, student_network
from tf_robust_transfer.terms import CrossEntropy, Logits, evaluate


@pytest.fixture
def network():
    return rt.build_model("small_cnn", (8, 8, 1), 10)


class TestTerms:
    def test_two_of_one_name(self, network):
        """The first was left out of the loss."""
        of = [Logits(network), Logits(network)]
        two = [CrossEntropy(0.5, of=of[0]), CrossEntropy(0.5, of=of[1])]
        method = Natural(student=network)
        method.terms = two
        with pytest.raises(InputError, match="two terms are called 'cross_entropy'"):
            method.compile(keras.optimizers.SGD(0.1))
        batch = keras.ops.zeros((2, 8, 8, 1)), keras.ops.zeros(2, "int32")
        with pytest.raises(InputError, match="two terms are called 'cross_entropy'"):
            evaluate(two, *batch, [0, 0])

    @pytest.mark.parametrize("name", ["loss", "accuracy", "weight_decay", "gradient_norm"])
    def test_a_name_of_the_logs(self, name, network):
        method = Natural(student=network)
        method.terms = [CrossEntropy(name=name, of=Logits(network))]
        with pytest.raises(InputError, match=f"a term cannot be called '{name}'"):
            method.compile(keras.optimizers.SGD(0.1))


class TestOptions:
    def test_a_parser_by_the_default(self):
        @dataclasses.dataclass(frozen=True)
        class Mine(Options):
            squared: bool = option(False, "a switch", bool)
            plain: bool = option(True, "a switch")
            weight: float = option(0.5, "a weight")
            count: int = option(3, "a number")

        assert from_texts(Mine, {}) == Mine()
        read = from_texts(Mine, {"squared": "true", "plain": "false", "weight": "1/4"})
        assert read == Mine(squared=True, plain=False, weight=0.25)
        assert [flag.metadata["parse"] for flag in flags_of(Mine)] == [
            boolean, boolean, fraction, int
        ]  # fmt: skip

    def test_a_parsers_own_words(self):
        @dataclasses.dataclass(frozen=True)
        class Mine(Options):
            heat: float = option(2.0, "a number", float)
            count: int = option(2, "a number", int)

        for name, says in (("heat", "a number"), ("count", "a whole number")):
            with pytest.raises(InputError, match=f"--{name}: expected {says}, got 'abc'"):
                from_texts(Mine, {name: "abc"})

    def test_a_methods_option_with_the_name_of_a_flag_of_every_run(self, monkeypatch):
        class Mine(Natural):
            @dataclasses.dataclass(frozen=True)
            class Options(Natural.Options):
                momentum: float = option(0.999, "of a mean teacher", fraction)

        with pytest.raises(InputError, match="--momentum of mine is a flag of every run"):
            command_line.all_flags(TrainConfig, {"mine": Mine})

    def test_options_alone_keep_the_parents_flags(self, network):
        """A subclass with options of its own had no preset, discriminator or inner attack."""

        class Mine(IGAM):
            @dataclasses.dataclass(frozen=True)
            class Options(IGAM.Options):
                third: float = option(0.5, "a weight", fraction)

        class Stronger(AdversarialTraining):
            @dataclasses.dataclass(frozen=True)
            class Options(AdversarialTraining.Options):
                third: float = option(0.5, "a weight", fraction)

        teacher = rt.build_model("small_cnn", (8, 8, 1), 10)
        context = rt.methods.Context(network, teacher, rt.ThreatModel(), (8, 8, 1), 10, 0, 1)
        mine = Mine.from_flags(
            from_texts(Mine.Flags, {"third": "2", "preset": "reference_code"}), context
        )
        assert (mine.options.third, mine.gradients.options.teacher_batch_norm) == (2.0, "batch")
        flags = from_texts(Stronger.Flags, {"third": "2", "train_attack_steps": "3"})
        stronger = Stronger.from_flags(flags, context)
        assert (stronger.options.third, stronger.attack.steps) == (2.0, 3)


class TestAttacks:
    @pytest.mark.parametrize(
        ("made", "flags", "says"),
        [
            (TrainConfig, ["--attacks=cw-l2"], "attacks: CarliniWagnerL2 attacks in l2, got norm"),
            (TrainConfig, ["--watch_attack=spsa", "--norm=l2"], "watch_attack: SPSA attacks in li"),
            (EvaluateConfig, ["--attacks=clean,spsa", "--norm=l2"], "attacks: SPSA attacks in lin"),
        ],
    )
    def test_of_another_norm(self, made, flags, says):
        with pytest.raises(InputError, match=says):
            parse(made, flags)

    def test_n_fgsm_of_another_norm(self):
        config = parse(
            TrainConfig,
            ["--method=adversarial_training", "--train_attack=n-fgsm", "--norm=l2", "--eps=0.5"],
        )
        images = rt.data.synthetic_data((8, 8, 1), 10, 2, 0)
        with pytest.raises(InputError, match="--train_attack=n-fgsm is for linf, got --norm=l2"):
            compiled_method(config, images=images, teacher=None, steps_per_epoch=1, total_steps=9)

    def test_a_comma_in_brackets(self, monkeypatch):
        class Mine(rt.attacks.Attack):
            @dataclasses.dataclass(frozen=True)
            class Options(rt.attacks.Attack.Options):
                classes: tuple = option("", "of these", whole_numbers)

        module = types.ModuleType("my.attacks")
        module.Mine = Mine
        monkeypatch.setitem(sys.modules, "my.attacks", module)
        assert attack_names("fgsm, my.attacks:Mine[classes=1,2],pgd[steps=5;restarts=2]") == (
            "fgsm", "my.attacks:Mine[classes=1,2]", "pgd[steps=5;restarts=2]"
        )  # fmt: skip


class TestNetworks:
    @pytest.mark.parametrize("made", [None, lambda shape, classes: None])
    def test_a_plug_in_that_makes_none(self, made, monkeypatch):
        module = types.ModuleType("my.networks")
        module.made = made
        monkeypatch.setitem(sys.modules, "my.networks", module)
        with pytest.raises(InputError, match="the model 'my.networks:made': expected a "):
            rt.build_model("my.networks:made", (8, 8, 1), 10)

    def test_another_network_beside_an_initial_one(self, network, tmp_path):
        rt.save_model(network, tmp_path / "it.keras")
        flags = [f"--initial_model={tmp_path}/it.keras", "--model=wrn_28_10"]
        config = parse(TrainConfig, flags)
        assert [flag.name for flag in config.ignored] == ["model"]
        assert "model" not in command_line.to_text(config)
        assert "without effect:\n  --model=wrn_28_10" in command_line.effective(config)

    def test_an_initial_network_of_other_pixels(self, network, tmp_path):
        """It was refused at the end of the first epoch, by the watch."""
        rt.save_model(rt.as_classifier(network, bounds=(0, 255)), tmp_path / "it.keras")
        config = parse(TrainConfig, [f"--initial_model={tmp_path}/it.keras"])
        images = rt.data.synthetic_data((8, 8, 1), 10, 2, 0)
        with pytest.raises(InputError, match=r"--initial_model takes images in \(0.0, 255.0\)"):
            student_network(config, images)

    def test_a_flag_file_that_is_its_own_teacher(self, tmp_path):
        """It ended in a RecursionError."""
        for name, teacher in (("a", "b"), ("b", "c"), ("c", "a")):
            lines = ["--method=mixacm", f"--teacher=flagfile:{tmp_path}/{teacher}.flags"]
            (tmp_path / f"{name}.flags").write_text("\n".join(lines))
        config = parse(TrainConfig, [f"--flagfile={tmp_path}/a.flags", f"--run_dir={tmp_path}/r"])
        for call in (teachers.is_untrained, teachers.load):
            with pytest.raises(InputError, match="this flag file is the teacher of itself"):
                call(config)

    def test_all_of_an_initial_network_is_trained(self, network, tmp_path):
        """`finetune` leaves its features frozen."""
        network.get_layer("conv1").trainable = False
        rt.save_model(network, tmp_path / "it.keras")
        assert len(rt.load_model(str(tmp_path / "it.keras")).trainable_variables) < 8
        config = parse(TrainConfig, [f"--initial_model={tmp_path}/it.keras"])
        images = rt.data.synthetic_data((8, 8, 1), 10, 2, 0)
        arguments = {"images": images, "teacher": None, "steps_per_epoch": 1, "total_steps": 9}
        student = compiled_method(config, **arguments).student
        assert len(student.trainable_variables) == len(network.weights)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--method=igam", "--warm_start_epochs=9"],
            "--warm_start_epochs takes all of the 9 steps: nothing is matched",
        ),
        (
            ["--method=adversarial_training", "--eps_warm_up_epochs=10"],
            "--eps_warm_up_epochs takes all of the 9 steps: the radius is never reached",
        ),
        (["--method=igam", "--warm_start_epochs=8"], ""),
    ],
)
def test_a_warm_up_as_long_as_the_run_is_told(flags, says, network, caplog):
    images = rt.data.synthetic_data((8, 8, 1), 10, 2, 0)
    config = parse(TrainConfig, flags)
    with caplog.at_level(logging.WARNING, "tf_robust_transfer"):
        compiled_method(config, images=images, teacher=network, steps_per_epoch=1, total_steps=9)
    assert (says in caplog.text) if says else not caplog.text


def test_too_little_memory_is_a_line(capsys):
    def run(config):
        raise MemoryError("Unable to allocate 28.0 GiB")

    with pytest.raises(SystemExit) as ended:
        command.run_command(run, SharedConfig, [])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "28.0 GiB" in said and "--max_examples" in said
