"""A run from flags to folder: what it leaves, that a kill costs nothing, and what it refuses."""

import json
import os
import re
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tests import fresh_process
from tf_robust_transfer import train
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.runs import device, run_training, trainer, watching
from tf_robust_transfer.runs.folder import RunFolder
from tf_robust_transfer.runs.method import compiled_method
from tf_robust_transfer.runs.optimizers import learning_rate
from tf_robust_transfer.runs.teachers import teacher_flags

# 9 batches an epoch of digits, in about a second; killed in the last.
QUICK = (
    "--dataset=digits",
    "--batch_size=64",
    "--train_fraction=0.45",
    "--epochs=2",
    "--optimizer=adam",
    "--learning_rate=0.002",
    "--eps=0.1",
    "--attacks=fgsm",
    "--max_examples=60",
    "--watch_examples=20",
    "--watch_attack=pgd2",
)
SLOW = pytest.mark.slow
# Of a run whose weights alone are looked at: half of its time would go into attacks.
UNMEASURED = ("--attacks=", "--watch_examples=0")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A quickly trained teacher with batch norm, as a run folder."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    run_training(
        parse(
            TrainConfig,
            [
                *QUICK,
                "--model_options=batch_norm=True",
                "--method=adversarial_training",
                "--train_attack_steps=1",
                f"--run_dir={folder}",
            ],
        )
    )
    return folder


@pytest.fixture(scope="module")
def igam(teacher):
    """A finished IGAM run with every moving part: noise, warm start, discriminator, augmentation,
    weight decay.
    """
    folder = teacher.parent / "igam"
    arguments = igam_arguments(teacher, folder)
    run_training(parse(TrainConfig, arguments))
    return folder


def igam_arguments(teacher, folder):
    return [
        *QUICK,
        "--method=igam",
        f"--teacher={teacher}",
        "--model_options=batch_norm=True",
        "--warm_start_epochs=1",
        "--noise=0.1",
        "--discriminator_every=3",
        "--discriminator_channels=8,16",
        "--weight_decay=1e-4",
        "--augmentation=crop",
        f"--run_dir={folder}",
    ]


def mixacm_arguments(teacher, folder):
    return [
        *QUICK,
        "--method=mixacm",
        f"--teacher={teacher}",
        "--model_options=batch_norm=True",
        "--optimizer=sgd",
        "--nesterov",
        "--learning_rate=0.05",
        "--blocks=block1,block2",
        f"--run_dir={folder}",
    ]


def mixed_arguments(teacher, folder):
    return [*mixacm_arguments(teacher, folder), "--mixed_precision=bfloat16", "--weight_decay=1e-4"]


@pytest.fixture(scope="module")
def mixed(teacher):
    """A finished MixACM run in bfloat16: its folder, the student that trained, and the networks
    that were measured.
    """
    folder, methods, measured = teacher.parent / "mixed", [], []

    def compiled(*args, made=compiled_method, **kwargs):
        methods.append(made(*args, **kwargs))
        return methods[0]

    def evaluate(network, *args, evaluate=rt.evaluate_robustness, **kwargs):
        measured.append(network)
        return evaluate(network, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "compiled_method", compiled)
        patch.setattr(trainer, "evaluate_robustness", evaluate)
        patch.setattr(watching, "evaluate_robustness", evaluate)
        run_training(parse(TrainConfig, mixed_arguments(teacher, folder)))
    return folder, methods[0].student, measured


def test_a_run_folder_holds_all_that_the_contract_names(igam):
    assert {
        "flags.txt",
        "model.keras",
        "results.json",
        "input_gradients.png",
        "tensorboard",
        "checkpoints",
    } <= set(os.listdir(igam))
    results = json.loads((igam / "results.json").read_text())
    assert results["dataset"] == "digits" and results["num_examples"] == 60 and results["seed"] == 0
    assert results["threat_model"] == {"norm": "linf", "eps": 0.1}
    assert set(results["accuracy"]) == set(results["confidence_interval_95"]) == {"clean", "fgsm"}
    assert not [name for name in os.listdir(igam) if name.startswith(".")], (
        "temporary files left behind"
    )


def test_flags_txt_holds_every_flag(igam, teacher):
    asked = parse(TrainConfig, igam_arguments(teacher, igam))
    # Each "auto" is stored as what it was.
    assert parse(TrainConfig, [f"--flagfile={igam}/flags.txt"]) == device.resolved(asked)


@pytest.mark.parametrize("run", ["teacher", pytest.param("igam", marks=SLOW)])
def test_flags_txt_reproduces_the_run(run, tmp_path, request):
    folder, again = request.getfixturevalue(run), tmp_path / "again"
    run_training(
        parse(TrainConfig, [f"--flagfile={folder}/flags.txt", *UNMEASURED, f"--run_dir={again}"])
    )
    for first, second in zip(weights(folder), weights(again), strict=True):
        np.testing.assert_array_equal(first, second)


_KILLED = """
import os, signal, sys
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.runs import callbacks, run_training

count = 0
def die(self, batch, logs=None):
    global count
    count += 1
    if count == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.Progress.on_train_batch_end = die
run_training(parse(TrainConfig, sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "method", ["igam", pytest.param("mixacm", marks=SLOW), pytest.param("mixed", marks=SLOW)]
)
def test_a_killed_run_goes_on_and_ends_with_the_same_weights_bit_for_bit(
    method, teacher, tmp_path, request
):
    if method == "igam":
        alone, arguments = request.getfixturevalue("igam"), igam_arguments
    elif method == "mixed":
        alone, arguments = request.getfixturevalue("mixed")[0], mixed_arguments
    else:
        alone, arguments = tmp_path / "alone", mixacm_arguments
        run_training(parse(TrainConfig, arguments(teacher, alone)))
    killed = tmp_path / "killed"
    # Checkpoints after nearly every step; killed within the second epoch, at step 13, when that of
    # step 12 is there. Measuring, which the run left alone does, moves nothing.
    often = [*arguments(teacher, killed), *UNMEASURED, "--checkpoint_minutes=0.00001"]
    process = fresh_process.run(_KILLED.format(step=13), *often)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    assert not (killed / "model.keras").exists()
    assert (
        (killed / "checkpoints" / "checkpoint")
        .read_text()
        .startswith('model_checkpoint_path: "ckpt-12"')
    )
    run_training(parse(TrainConfig, often))
    for left_alone, resumed in zip(weights(alone), weights(killed), strict=True):
        np.testing.assert_array_equal(left_alone, resumed)


def test_a_killed_run_that_skipped_steps_in_float16_goes_on_bit_for_bit(teacher, tmp_path):
    """It took the batches of the skipped steps again, and cut its epochs elsewhere."""
    results = {}
    for name in ("alone", "killed"):
        folder = tmp_path / name
        arguments = [*mixacm_arguments(teacher, folder), "--mixed_precision=float16", *UNMEASURED]
        if name == "killed":
            arguments.append("--checkpoint_minutes=0.00001")
            process = fresh_process.run(_KILLED.format(step=13), *arguments)
            assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
            kept = tf.train.load_checkpoint(folder / "checkpoints")
            names = kept.get_variable_to_shape_map()
            counts = {
                part: [int(kept.get_tensor(name)) for name in names if part in name]
                for part in ("batches", "iterations")
            }
            assert counts["batches"] == [12] and 10 in counts["iterations"], "two overflowed"
        run_training(parse(TrainConfig, arguments))
        results[name] = weights(folder)
    for left_alone, resumed in zip(results["alone"], results["killed"], strict=True):
        np.testing.assert_array_equal(left_alone, resumed)


@SLOW  # half_precision_test.py and mixacm_test.py look at such networks and their steps
def test_what_trains_in_bfloat16_is_saved_and_measured_in_float32(mixed):
    folder, trained, measured = mixed
    assert "bfloat16" in {layer.compute_dtype for layer in trained.layers}
    saved = rt.load_model(str(folder))
    # Two epochs' and the last.
    assert len(measured) == 3
    for network in (saved, *measured):
        assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    for ours, theirs in zip(saved.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    test = rt.data.load_data("digits", "test", max_examples=60)
    images = test.images.astype(np.float32) / np.float32(255)
    ours, theirs = saved(images, training=False).numpy(), trained(images, training=False).numpy()
    # bfloat16 has 8 bits: each of a few layers rounds by 1/256 at most.
    assert 0 < np.abs(ours - theirs).max() < 0.03 * np.abs(ours).max()
    result = rt.evaluate_robustness(
        saved, images, test.labels, threat_model=rt.ThreatModel(eps=0.1), attacks=("fgsm",), seed=0
    )
    assert json.loads((folder / "results.json").read_text())["accuracy"] == result.accuracy


_MIRRORED = """
import sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.runs import run_training
from tf_robust_transfer.runs.strategy import distribution_strategy

assert distribution_strategy("mirrored").num_replicas_in_sync == 2
run_training(parse(TrainConfig, [*sys.argv[1:], "--distribution_strategy=mirrored"]))
"""


@pytest.mark.slow  # methods_test.py has the methods on two devices
def test_a_run_on_two_devices_gives_the_weights_of_one(teacher, tmp_path):
    # IGAM's own step on two devices is in methods_test.py; this is about the run around a step.
    arguments = [
        *mixacm_arguments(teacher, tmp_path / "one"),
        "--model_options=width=1",
        "--weight_decay=1e-4",
        "--augmentation=crop",
        "--learning_rate=0.01",
        "--epochs=2",
    ]
    run_training(parse(TrainConfig, arguments))
    process = fresh_process.run(_MIRRORED, *arguments, f"--run_dir={tmp_path}/two")
    assert process.returncode == 0, process.stderr[-2000:]
    for one, two in zip(weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_finished_run_is_left_as_it_is(igam, teacher):
    before = {path: path.stat().st_mtime_ns for path in igam.rglob("*")}
    # A kill after the results were written leaves this.
    (igam / "evaluation.state.npz").write_bytes(b"left")
    run_training(parse(TrainConfig, igam_arguments(teacher, igam)))
    assert {path: path.stat().st_mtime_ns for path in igam.rglob("*")} == before


def test_a_folder_of_other_flags_is_refused_and_kept(igam, teacher):
    before = (igam / "model.keras").read_bytes()
    with pytest.raises(
        InputError, match=r"was made with --lambda_diff=10.0, not --lambda_diff=20.0"
    ):
        run_training(parse(TrainConfig, [*igam_arguments(teacher, igam), "--lambda_diff=20"]))
    assert (igam / "model.keras").read_bytes() == before


def test_a_run_that_bad_input_ended_at_once_takes_the_mended_flags(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="no/such"):
        run_training(parse(TrainConfig, igam_arguments("no/such", folder)))
    assert [path.name for path in folder.iterdir()] == ["flags.txt"]
    assert (
        "--teacher=mended"
        in RunFolder(parse(TrainConfig, igam_arguments("mended", folder))).flags.read_text()
    )


@pytest.fixture
def of_four_channels(tmp_path, monkeypatch):
    """The flag of a data source whose images have four channels."""
    (tmp_path / "satellite.py").write_text(
        "import numpy as np, tf_robust_transfer as rt\n"
        "def load(split, data_dir):\n"
        "    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 4), np.uint8)\n"
        "    labels = np.arange(8, dtype=np.int32) % 2\n"
        "    return rt.data.ImageData(images, labels, 2, ('land', 'sea'), 'satellite', split)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "--dataset=plugin:satellite:load"


def test_a_run_on_images_that_no_figure_shows_ends(of_four_channels, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "fit", lambda run: None)  # what came after it was at fault
    given = [of_four_channels, "--smoke", f"--run_dir={tmp_path}/run"]
    folder = run_training(parse(TrainConfig, given))
    assert json.loads(folder.results.read_text())["image_shape"] == [8, 8, 4]
    assert folder.finished and not folder.figure.exists()


def test_an_augmentation_that_does_not_fit_the_images_is_told_before_the_training(
    of_four_channels, tmp_path
):
    given = [of_four_channels, "--augmentation=randaugment", f"--run_dir={tmp_path}/run"]
    with pytest.raises(InputError, match="--augmentation: .*'randaugment' .* 1 or 3 .*got 4"):
        run_training(parse(TrainConfig, given))
    # So that the mended flags are taken.
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["flags.txt"]


def test_an_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write the run folder .*file"):
        run_training(parse(TrainConfig, [*QUICK, f"--run_dir={tmp_path}/file/run"]))


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_the_checkpoint(tmp_path):
    arguments = [
        *QUICK,
        "--optimizer=sgd",
        "--schedule=constant",
        "--learning_rate=1e10",
        "--momentum=0",
        "--checkpoint_minutes=0.00001",
        f"--run_dir={tmp_path}/run",
    ]
    with pytest.raises(InputError, match=r"not finite at step (\d+): cross_entropy") as caught:
        run_training(parse(TrainConfig, arguments))
    step = int(str(caught.value).split("at step ")[1].split(":")[0])
    kept = (tmp_path / "run" / "checkpoints" / "checkpoint").read_text()
    assert kept.startswith(f'model_checkpoint_path: "ckpt-{step - 1}"')
    assert not (tmp_path / "run" / "model.keras").exists()


def test_train_steps_may_end_within_an_epoch(tmp_path):
    folder = run_training(
        parse(TrainConfig, [*QUICK, *UNMEASURED, "--train_steps=11", f"--run_dir={tmp_path}/run"])
    )
    assert (
        (folder.checkpoints / "checkpoint")
        .read_text()
        .startswith('model_checkpoint_path: "ckpt-11"')
    )


def test_a_chain_trains_its_teacher_first_beside_the_student(tmp_path):
    (tmp_path / "source.flags").write_text("\n".join([*QUICK, *UNMEASURED, "--epochs=1"]))
    arguments = [
        *QUICK,
        *UNMEASURED,
        "--epochs=1",
        "--method=rkd",
        f"--teacher=flagfile:{tmp_path}/source.flags",
        "--seed=5",
        f"--run_dir={tmp_path}/student",
    ]
    run_training(parse(TrainConfig, arguments))
    assert (tmp_path / "source" / "model.keras").exists() and (
        tmp_path / "student" / "model.keras"
    ).exists()
    assert "--seed=5\n" in (tmp_path / "source" / "flags.txt").read_text()


def test_a_teachers_flag_file_may_set_its_own_seed_and_folder(tmp_path):
    (tmp_path / "t.flags").write_text("--seed=1\n--run_dir=/somewhere/else\n")
    student = parse(TrainConfig, ["--seed=5", "--run_dir=runs/student", "--data_dir=/data"])
    teacher = teacher_flags(student, f"{tmp_path}/t.flags")
    assert (teacher.seed, teacher.run_dir, teacher.data_dir) == (1, "/somewhere/else", "/data")


def test_finetuning_keeps_the_teachers_features(teacher, tmp_path):
    folder = run_training(
        parse(
            TrainConfig,
            [
                *QUICK,
                *UNMEASURED,
                "--epochs=1",
                "--method=finetune",
                f"--teacher={teacher}",
                f"--run_dir={tmp_path}/ft",
            ],
        )
    )
    old, new = rt.load_model(str(teacher)), rt.load_model(str(folder.path))
    for before, after in zip(old.layers[:-1], new.layers[:-1], strict=True):
        for first, second in zip(before.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)
    assert not np.array_equal(old.layers[-1].get_weights()[0], new.layers[-1].get_weights()[0])


def test_the_home_folder_is_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["--run_dir=~/runs/student", "--method=igam", "--teacher=flagfile:~/teacher.flags"]
    config = parse(TrainConfig, [*QUICK, *given])
    (tmp_path / "teacher.flags").write_text("--method=natural\n")
    config.verify()
    folder = RunFolder(config)
    assert folder.path == tmp_path / "runs/student" and folder.flags.exists()
    assert set(given) <= set(folder.flags.read_text().split())  # as they were given
    assert teacher_flags(config, "~/teacher.flags").run_dir == f"{tmp_path}/runs/teacher"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method=igan"], "--method: unknown method 'igan'; nearest valid names: igam"),
        (["--model=small_cn"], "unknown model 'small_cn'; nearest valid names: small_cnn"),
        (["--attacks=pdg20"], "unknown attack 'pdg20'; nearest valid names: .*pgd20"),
        (["--method=igam"], "method igam needs --teacher"),
        (["--method=igam", "--teacher=/nowhere"], "no model at '/nowhere'"),
        (
            ["--model=small_cnn", "--model_options=widht=2"],
            "no option 'widht'; nearest valid names: width",
        ),
        (["--augmentation=flop"], "unknown augmentation 'flop'; nearest valid names: flip"),
        (["--train_fraction=2"], "train_fraction"),
    ],
)
def test_bad_input_gives_one_clear_line(arguments, says, tmp_path):
    with pytest.raises(InputError, match=says) as caught:
        run_training(parse(TrainConfig, [*QUICK, *arguments, f"--run_dir={tmp_path}/run"]))
    assert "\n" not in str(caught.value)


def test_a_teacher_of_another_shape_is_refused(teacher, tmp_path):
    with pytest.raises(
        InputError,
        match=r"the teacher takes images of shape \(8, 8, 1\), the student \(16, 16, 1\)",
    ):
        run_training(
            parse(
                TrainConfig,
                [
                    *QUICK,
                    "--image_size=16x16",
                    "--method=igam",
                    f"--teacher={teacher}",
                    f"--run_dir={tmp_path}/run",
                ],
            )
        )


def test_finetuning_a_teacher_of_another_shape_is_refused(teacher, tmp_path):
    with pytest.raises(
        InputError,
        match=r"the teacher takes images of shape \(8, 8, 1\), the data has \(16, 16, 1\)",
    ):
        run_training(
            parse(
                TrainConfig,
                [
                    *QUICK,
                    "--image_size=16x16",
                    "--method=finetune",
                    f"--teacher={teacher}",
                    f"--run_dir={tmp_path}/run",
                ],
            )
        )


def test_schedules():
    piecewise = learning_rate(
        parse(
            TrainConfig,
            ["--schedule=piecewise", "--schedule_boundaries=1/2,3/4", "--learning_rate=0.1"],
        ),
        320_000,
    )
    rates = [float(piecewise(step)) for step in (0, 160_000, 160_001, 240_000, 240_001, 320_000)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    cosine = learning_rate(parse(TrainConfig, ["--learning_rate=0.2"]), 100)
    np.testing.assert_allclose(
        [float(cosine(step)) for step in (0, 50, 100)], [0.2, 0.1, 0.0], atol=1e-7
    )
    assert (
        learning_rate(parse(TrainConfig, ["--schedule=constant", "--learning_rate=0.3"]), 10) == 0.3
    )


def weights(folder):
    return keras.saving.load_model(folder / "model.keras", compile=False).get_weights()


@pytest.mark.parametrize(("learning_rate", "told"), [(30.0, True), (1e-3, False)])
def test_first_steps_that_throw_the_weights_out_are_told_in_a_line(learning_rate, told, caplog):
    keras.utils.set_random_seed(0)
    method = rt.Natural(student=rt.build_model("small_cnn", (8, 8, 1), 10, width=1))
    method.compile(keras.optimizers.SGD(learning_rate))
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 1, (96, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 96)
    with caplog.at_level("WARNING", "tf_robust_transfer"):
        method.fit(images, labels, batch_size=8, verbose=0, callbacks=[watching.WatchFirstSteps()])
        # A run that goes on is not looked at: its kernel at the start is not known.
        method.fit(images, labels, batch_size=8, verbose=0, callbacks=[watching.WatchFirstSteps()])
    lines = [
        record.getMessage()
        for record in caplog.records
        if "throw the weights out" in record.getMessage()
    ]
    assert len(lines) == told and all("--warm_up_epochs" in line for line in lines)


class TestBeforeAnythingCosts:
    """A student whose teacher is a flag file that is not trained yet: what is wrong is told before
    it is.
    """

    def arguments(self, tmp_path, *more):
        (tmp_path / "teacher.flags").write_text("\n".join([*QUICK, "--method=natural", ""]))
        return [
            *QUICK,
            "--method=mixacm",
            f"--teacher=flagfile:{tmp_path}/teacher.flags",
            "--blocks=block1",
            f"--run_dir={tmp_path}/runs/student",
            *more,
        ]

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--blocks=block1,block7"], "has no endpoint 'block7'"),
            (
                ["--image_size=16x16"],
                r"teacher takes images of shape \(8, 8, 1\), the student \(16, 16, 1\)",
            ),
            (
                ["--warm_up_epochs=5"],
                "--warm_up_epochs needs .* a longer training, got schedule cosine and 45 of 18",
            ),
            (
                ["--train_fraction=1/1000", "--keep=best", "--validation_fraction=0.1"],
                "holds out no image",
            ),
        ],
    )
    def test_what_does_not_fit_is_told_before_the_teacher_is_trained(self, more, says, tmp_path):
        with pytest.raises(InputError, match=says):
            run_training(parse(TrainConfig, self.arguments(tmp_path, *more)))
        assert not (tmp_path / "runs/teacher").exists()

    @pytest.mark.parametrize("form", [["--flagfile={}"], ["--flagfile", "{}"]])
    def test_the_run_folder_is_of_the_arguments_that_main_was_given(
        self, form, tmp_path, capsys, monkeypatch
    ):
        (tmp_path / "mine.flags").write_text("--dataset=digits\n")
        monkeypatch.setattr("sys.argv", ["pytest", "--flagfile=of/another.flags"])
        monkeypatch.setattr(train, "check_training", lambda config: None)
        train.main([*(word.format(tmp_path / "mine.flags") for word in form), "--check"])
        assert "--run_dir=runs/mine\n" in capsys.readouterr().out

    def test_check_prints_the_settings_and_trains_nothing(self, tmp_path, capsys):
        train.run(
            parse(TrainConfig, self.arguments(tmp_path, "--check", "--noise=0.4", "--alpha_acm=7"))
        )
        every, own, without = re.split(r"method mixacm:|without effect:", capsys.readouterr().out)
        assert (
            "--learning_rate=0.002\n" in every
            and "--alpha_acm=7.0\n" in own
            and "--gamma=10.0\n" in own
        )
        assert without.split() == ["--noise=0.4"] and not (tmp_path / "runs").exists()
