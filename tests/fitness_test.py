"""analysis/fitness.py: teachers that will do, and what is said of those that will not."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import tf_robust_transfer as rt
from tf_robust_transfer import data, fitness
from tf_robust_transfer.analysis import fitness as fitness_module
from tf_robust_transfer.analysis.fitness import teacher_fitness
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.fitness import FitnessConfig


@pytest.fixture(scope="module")
def digits():
    return data.load_data("digits", "test")


@pytest.fixture(scope="module")
def images(digits):
    return digits.images.astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def teacher():
    """A small CNN on which PGD-20 at eps 0.05 leaves most digits."""
    keras.utils.set_random_seed(0)
    train = data.load_data("digits", "train")
    network = rt.build_model("small_cnn", train.input_shape, train.num_classes)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(train.images.astype(np.float32) / 255, train.labels, epochs=6, verbose=0)
    return network


SMALL = rt.ThreatModel(eps=0.02)


def after(model, layer):
    """The model behind a layer, with its endpoints."""
    images = keras.Input(model.input_shape[1:])
    return keras.Model(images, model(layer(images)))


def test_a_teacher_that_will_do(teacher, images, digits):
    found = teacher_fitness(teacher, images, digits.labels, threat_model=SMALL)
    assert found.problems == ()
    assert found.robustness.accuracy["clean"] > 0.9
    assert 0.5 < found.robustness.accuracy["pgd20"] <= found.robustness.accuracy["clean"]
    assert found.endpoints == ("block1", "block2", "logits")
    assert found.zero_gradients == 0 and found.alpha > 0 and found.spread > 0.5


@pytest.mark.filterwarnings("ignore::tf_robust_transfer.evaluation.RobustnessWarning")
@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("not robust", "not robust: PGD-20 leaves 0.0% of"),
        ("untrained", "no more than by chance"),
        pytest.param(
            "255", "of the images x as 255 x: its normalisation is missing", marks=pytest.mark.slow
        ),
        ("centered", "of the images x as 2 x - 1: its normalisation is missing"),
        pytest.param(
            "black", "the logits are nearly the same for all images", marks=pytest.mark.slow
        ),
        ("constant", "of the images have no input gradient to transfer"),
    ],
)
def test_what_is_wrong_is_said(case, says, teacher, images, digits):
    model, threat_model = teacher, SMALL
    if case == "not robust":
        threat_model = rt.ThreatModel(eps=0.5)
    elif case == "untrained":
        keras.utils.set_random_seed(1)
        model = rt.build_model("small_cnn", (8, 8, 1), 10)
    elif case == "255":  # it was trained on 0-255
        model = after(teacher, layers.Rescaling(1 / 255))
    elif case == "centered":
        model = after(teacher, layers.Rescaling(0.5, 0.5))
    elif case == "black":
        model = after(teacher, layers.Rescaling(1e-3))
    elif case == "constant":
        model = after(teacher, layers.Rescaling(0.0, 0.5))
    found = teacher_fitness(model, images, digits.labels, threat_model=threat_model)
    assert any(says in problem for problem in found.problems), found.problems


@pytest.mark.filterwarnings("ignore::tf_robust_transfer.evaluation.RobustnessWarning")
def test_one_that_is_hardly_robust_has_a_note(teacher, images, digits):
    found = teacher_fitness(teacher, images, digits.labels, threat_model=rt.ThreatModel(eps=0.15))
    assert 0.1 < found.robustness.accuracy["pgd20"] < found.robustness.accuracy["clean"] / 3
    assert not found.problems and any(
        "hardly robust: PGD-20 leaves" in note for note in found.notes
    )


def test_what_is_no_reason_is_a_note(teacher, images, digits, monkeypatch):
    """A network without named blocks, of which PGD-20 would have wanted more steps."""
    doubtful = (
        "the last tenth of pgd20's steps still took 0.8 points: give it more steps",
        "the model is random: passes on the same images give other logits",
    )

    def evaluate(*arguments, **options):
        found = rt.evaluate_robustness(*arguments, **options, check_model=False)
        return dataclasses.replace(found, warnings=doubtful)

    monkeypatch.setattr(fitness_module, "evaluate_robustness", evaluate)
    model = keras.models.clone_model(
        teacher,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "name": f"my_{layer.name}"}
        ),
    )
    model.set_weights(teacher.get_weights())
    found = teacher_fitness(model, images, digits.labels, threat_model=SMALL)
    assert found.problems == doubtful[1:]
    assert found.notes[0] == doubtful[0] and "no endpoints but the logits" in found.notes[1]


def test_the_command(teacher, tmp_path, capsys):
    rt.save_model(teacher, tmp_path / "teacher.keras")
    arguments = [f"--teacher={tmp_path}/teacher.keras", "--dataset=digits"]
    fitness.run(parse(FitnessConfig, [*arguments, "--eps=0.02"]))
    out = capsys.readouterr().out
    assert out.startswith("clean") and out.endswith("it will do as a teacher\n")
    assert "256 images" in out and "block1, block2, logits" in out
    with pytest.raises(InputError, match="will not do as a teacher: not robust"):
        fitness.run(parse(FitnessConfig, [*arguments, "--eps=0.5"]))
    assert "wrong: not robust" in capsys.readouterr().out
