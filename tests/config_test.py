"""Flags: how they are read, what is refused, and that a config written out gives itself again."""

import dataclasses

import pytest

from tf_robust_transfer import command_line, config
from tf_robust_transfer.errors import InputError


def parse(*arguments):
    return command_line.parse(config.TrainConfig, arguments)


def test_fractions_lists_sizes_and_options():
    read = parse("--eps=8/255", "--attacks=fgsm, pgd20", "--image_size=14x16", "--model=wrn_10_1",
                 "--model_options=stem_stride=2,activation=swish")  # fmt: skip
    assert read.eps == 8 / 255
    assert read.attacks == ("fgsm", "pgd20")
    assert read.image_size == (14, 16)
    assert read.model_options == {"stem_stride": 2, "activation": "swish"}


@pytest.mark.parametrize(
    "text",
    [
        "activation=swish,padding=same,preprocessing=standardized,mean=[0.4914,0.4822,0.4465],std=[0.2471,0.2435,0.2616]",
        " mean = [ .4914, 0.4822,.4465 ] "
        ",activation=swish,padding=same,std=[0.2471,0.2435,0.2616],preprocessing=standardized",
    ],
)
def test_options_take_lists(text, tmp_path):
    expected = {"activation": "swish", "padding": "same", "preprocessing": "standardized",
                "mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}  # fmt: skip
    read = parse("--model=wrn_10_1", f"--model_options={text}")
    assert read.model_options == expected
    (tmp_path / "flags.txt").write_text(
        "".join(f"--{name}={text}\n" for name, text in command_line.to_text(read).items())
    )
    assert parse(f"--flagfile={tmp_path}/flags.txt") == read
    assert parse("--model_options=").model_options == {}
    assert parse("--model=wrn_10_1", "--model_options=mean=[1,-2.5e-3]").model_options == {
        "mean": (1, -2.5e-3)
    }


def test_flags_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().eps = 0.1


def test_bare_and_explicit_switches():
    assert parse("--smoke").smoke and parse("--smoke=true").smoke
    assert not parse("--smoke=false").smoke and not parse().smoke


def test_a_flag_file_in_a_flag_file_and_overrides(tmp_path):
    (tmp_path / "inner.flags").write_text("# a comment\n--eps=0.1\n--epochs=3\n")
    (tmp_path / "outer.flags").write_text(
        f"--flagfile={tmp_path}/inner.flags\n--epochs=4\n--nesterov\n"
    )
    read = parse(f"--flagfile={tmp_path}/outer.flags", "--seed=7")
    assert (read.eps, read.epochs, read.nesterov, read.seed) == (0.1, 4, True, 7)


def test_a_config_written_out_gives_itself_again(tmp_path):
    read = parse(
        "--eps=8/255",
        "--image_size=14x16",
        "--model_options=width=2",
        "--blocks=block1",
        "--nesterov",
        "--method=mixacm",
        "--learning_rate=1/3",
        "--augmentation=crop:2,flip",
        "--weight_decay_of=all",
    )
    texts = command_line.to_text(read)
    assert set(texts) == {flag.name for flag in command_line.train_flags("mixacm")} - {"check"}
    (tmp_path / "flags.txt").write_text(
        "".join(f"--{name}={text}\n" for name, text in texts.items())
    )
    assert parse(f"--flagfile={tmp_path}/flags.txt") == read


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--epss=0.1", "unknown flag --epss; nearest valid names: eps"),
        ("--eps=8", "eps is in the units of the pixel range .* got 8; write 8/255"),
        ("--eps=8/0", "--eps: expected a number or a fraction such as 8/255, got '8/0'"),
        ("--eps=nan", "eps must be a number"),
        ("--batch_size=0", "--batch_size: expected a number of at least 1, got '0'"),
        ("--batch_size=many", "--batch_size: expected a whole number, got 'many'"),
        ("--norm=l7", "--norm: expected one of linf, l2, got 'l7'"),
        ("--image_size=14", "--image_size: expected an image size such as 28x28, got '14'"),
        ("--model_options=width", "--model_options: expected key=value"),
        (
            "--model_options=mean=0.5,0.4",
            r"expected key=value,key=value, got .*; a list is written in brackets",
        ),
        *(
            (
                f"--model_options={text}",
                "--model_options: expected each list in a pair of brackets, such as mean=",
            )
            for text in ("mean=[0.5,0.4", "mean=0.5,0.4]", "mean=[[0.5],[0.4]]", "mean=]0.5[")
        ),
        *(
            (
                f"--model_options=mean={text}",
                "--model_options: expected a list of numbers such as .*, got '.*'",
            )
            for text in ("[0.5,half]", "[]", "[0.5]x", "[1e999]", "[True]")
        ),
        (
            "--weight_decay_of=biases",
            "unknown --weight_decay_of 'biases'; valid names: all, kernels",
        ),
        ("--smoke=perhaps", "--smoke: expected true or false"),
        ("--learning_rate=0", "--learning_rate: expected a number above 0"),
        ("--flagfile=/nowhere.flags", "/nowhere.flags"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_bad_flags_give_one_clear_line(argument, says):
    with pytest.raises(InputError, match=says) as caught:
        parse(argument)
    assert "\n" not in str(caught.value)


def test_every_flag_has_a_help_text_and_is_listed(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name, flag in command_line.all_flags(config.TrainConfig).items():
        assert flag.metadata["help"] and f"--{name}=" in shown


def test_the_help_of_one_method_has_its_flags_and_defaults_alone(capsys):
    with pytest.raises(SystemExit):
        parse("--method=ard", "--help")
    shown = capsys.readouterr().out
    assert (
        "--alpha_kld=1.0\n" in shown
        and "--gamma=30.0\n" in shown
        and "--learning_rate=0.1\n" in shown
    )
    assert "--lambda_adv" not in shown and "--alpha_acm" not in shown


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["--flagfile=flags/small/mnist_igam.flags"], "runs/small/mnist_igam"),
        (["--seed=1", "--flagfile=./flags/quickstart/igam.flags"], "runs/quickstart/igam"),
        (["--flagfile=/elsewhere/mine.flags"], "runs/mine"),
        (["--seed=1", "--flagfile", "/elsewhere/mine.flags"], "runs/mine"),
        (["-flagfile", "flags/small/mnist_igam.flags", "--flagfile=b"], "runs/small/mnist_igam"),
        (["--seed=1"], ""),
    ],
)
def test_the_run_folder_is_named_after_the_flag_file(arguments, folder):
    assert command_line.default_run_dir(arguments) == folder
