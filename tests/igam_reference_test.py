"""Checkpoints of IGAM's reference code: runs with student, teacher and discriminator, and teachers
alone.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import tf1_networks
from tf_robust_transfer.checkpoints.igam_reference import load_igam, role_and_path
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import endpoints

NARROW = {"blocks": 1, "width": 2}


def images_of(size):
    return np.random.default_rng(3).integers(0, 256, (2, size, size, 3)).astype(np.float32)


def discriminator():
    """Two of its variables, by the names that model_new.py gives them."""
    with tf.compat.v1.variable_scope("discriminator"):
        with tf.compat.v1.variable_scope("conv0"):
            kernel = tf.compat.v1.get_variable("DW", [4, 4, 3, 16])
        with tf.compat.v1.variable_scope("BatchNorm"):
            gamma = tf.compat.v1.get_variable("gamma", [16])
    return tf.reduce_sum(kernel) + tf.reduce_sum(gamma)


def run():
    """What train_igam.py saves: a student of 7 classes, a CIFAR-10 teacher with 7 target classes, a
    discriminator.
    """
    with tf.compat.v1.variable_scope("classifier"):
        student = tf1_networks.wide(
            normalise=tf1_networks.zero_mean_l2, logits=(("logit", 7),), **NARROW
        )
    teacher = tf1_networks.wide(logits=(("logit", 10), ("target_task_logit", 7)), **NARROW)
    tf1_networks.train_with_momentum(tf.reduce_sum(student[1]["logit"]) + discriminator())
    logits = [
        v for v in tf.compat.v1.trainable_variables() if v.op.name.startswith("target_task_logit")
    ]
    tf.compat.v1.train.AdamOptimizer(0.001).minimize(
        tf.reduce_sum(teacher[1]["target_task_logit"]), var_list=logits
    )
    return student, teacher


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """(prefix, {"student": endpoints, "teacher": endpoints}, folder of the fine-tuned teacher's
    trainable variables).
    """
    folder = tmp_path_factory.mktemp("igam")
    with tf1_networks.session_with_random_weights(run) as ((student, teacher), session):
        expected = {
            role: session.run(ends, {x: images_of(32)})
            for role, (x, ends) in (("student", student), ("teacher", teacher))
        }
        prefix = tf1_networks.save(session, folder / "run")
        trainable = [
            v
            for v in tf.compat.v1.trainable_variables()
            if not v.op.name.startswith(("classifier", "discriminator"))
        ]
        tf1_networks.save(session, folder / "finetuned", variables=trainable)
    return prefix, expected, folder / "finetuned"


def assert_relatively_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_checkpoint_is_as_the_reference_code_writes_it(whole_run):
    names = set(tf.train.load_checkpoint(whole_run[0]).get_variable_to_shape_map())
    assert names >= {
        "classifier/input/init_conv/DW",
        "classifier/unit_1_0/shared_activation/BatchNorm/moving_mean",
        "classifier/logit/DW/Momentum",
        "unit_3_0/sub2/BatchNorm/gamma",
        "target_task_logit/biases/Adam_1",
        "discriminator/conv0/DW/Momentum",
        "beta1_power",
        "global_step",
    }


def test_the_student_of_a_run_with_every_endpoint(whole_run):
    model = load_igam(whole_run[0])
    assert (
        model.name == "madry_wrn_8_2"
        and model.input_shape == (None, 32, 32, 3)
        and model.output_shape == (None, 7)
    )
    found, expected = endpoints(model)(images_of(32) / 255, training=False), whole_run[1]["student"]
    assert_relatively_close(found["logits"], expected["logit"])
    for name in ("block1", "block2", "block3", "block4"):
        assert_relatively_close(found[name], expected[name])


def test_the_teacher_of_a_run_with_its_target_logits(whole_run):
    model = load_igam(f"teacher:{whole_run[0]}")
    assert model.output_shape == (None, 7)
    assert_relatively_close(
        model(images_of(32) / 255, training=False), whole_run[1]["teacher"]["target_task_logit"]
    )


@pytest.mark.parametrize(
    ("scope", "logits", "size", "normalise"),
    [
        ("", (("logit", 10), ("target_task_logit", 100)), 32, tf1_networks.per_image),
        ("", (("logit", 200),), 64, tf1_networks.zero_mean_l2),
        ("", (("logit", 200), ("target_task_logit", 10)), 64, tf1_networks.l2),
        ("classifier", (("logit", 200),), 64, tf1_networks.zero_mean_l2),
        ("classifier", (("logit", 10), ("target_task_logit", 5)), 32, tf1_networks.zero_mean_l2),
    ],
    ids=[
        "fine-tuned CIFAR-10",
        "Tiny-ImageNet",
        "fine-tuned Tiny-ImageNet",
        "Tiny-ImageNet student",
        "extra logits",
    ],
)
def test_one_network_alone(scope, logits, size, normalise, tmp_path):
    def build():
        with tf.compat.v1.variable_scope(scope) if scope else tf.name_scope("plain"):
            x, ends = tf1_networks.wide(
                blocks=1, width=1, normalise=normalise, logits=logits, size=size
            )
        tf1_networks.train_with_momentum(ends[logits[-1][0]])
        return x, ends

    images = images_of(size)
    with tf1_networks.session_with_random_weights(build) as ((x, ends), session):
        expected = session.run(ends[logits[-1][0]], {x: images})
        tf1_networks.save(session, tmp_path)
    model = load_igam(str(tmp_path))
    assert model.input_shape == (None, size, size, 3) and model.output_shape == (
        None,
        logits[-1][1],
    )
    assert_relatively_close(model(images / 255, training=False), expected)


class TestBadInput:
    @pytest.fixture(scope="class")
    def arrays(self, whole_run):
        return tf1_networks.read_arrays(whole_run[0], tf1_networks.SLOTS)

    def message(self, path):
        with pytest.raises(InputError) as caught:
            load_igam(str(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_missing_extra_and_wrong_shape_at_once(self, arrays, tmp_path):
        changed = arrays | {
            "generator/DW": np.zeros(2, np.float32),
            "classifier/logit/DW": np.zeros((3, 7), np.float32),
        }
        del changed["classifier/unit_2_0/sub1/conv1/DW"]
        message = self.message(tf1_networks.save_arrays(tmp_path / "model", changed))
        assert "IGAM's student, a w8-2" in message
        assert "1 missing (classifier/unit_2_0/sub1/conv1/DW)" in message
        assert "1 not expected (generator/DW)" in message
        assert (
            "1 of another shape or type (classifier/logit/DW (3, 7) float32 instead of (128, 7))"
            in message
        )

    def test_a_teacher_is_asked_for_where_there_is_none(self, arrays, tmp_path):
        student = {name: value for name, value in arrays.items() if name.startswith("classifier/")}
        prefix = tf1_networks.save_arrays(tmp_path / "model", student)
        assert "IGAM's teacher" in self.message(f"teacher:{prefix}")

    def test_fine_tuning_saves_no_moving_statistics(self, whole_run):
        message = self.message(whole_run[2])
        assert "holds no moving statistics" in message and "igam:teacher:PATH" in message

    def test_nothing_there(self, tmp_path):
        assert "no checkpoint in the folder" in self.message(tmp_path)
        assert "no checkpoint at" in self.message(tmp_path / "absent")
        assert "no checkpoint given" in self.message("teacher:")


def test_role_and_path():
    assert role_and_path("a/b") == (False, "a/b")
    assert role_and_path("teacher:a:b") == (True, "a:b")
    assert role_and_path("teacher") == (False, "teacher")
