"""IGAM and fine-tuning through adapters: the teacher's gradient, the crop, and the trained
convolution, against NumPy.
"""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tests import fresh_process
from tf_robust_transfer.adapters import adapt, build_adapter
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods import IGAM, FineTune
from tf_robust_transfer.models import build_discriminator, build_model
from tf_robust_transfer.runs import run_training

SHAPE, CLASSES = (5, 6, 2), 3


def linear_model(seed, shape=SHAPE, classes=CLASSES):
    model = keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes, name="logits")]
    )
    rng = np.random.default_rng(seed)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    return keras.Model(model.inputs[0], model.outputs[0], name="linear")


def linear_discriminator(shape):
    gradients = keras.Input(shape)
    score = keras.layers.Reshape(())(keras.layers.Dense(1)(keras.layers.Flatten()(gradients)))
    model = keras.Model(gradients, score)
    model.set_weights(
        [np.random.default_rng(9).standard_normal(w.shape) for w in model.get_weights()]
    )
    return model


def batch(count=5):
    rng = np.random.default_rng(7)
    return rng.uniform(0, 1, (count, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, count)


def terms_of(method, images, labels):
    """{term: value} of the next step."""
    method.compile(optimizer=keras.optimizers.SGD(0.1))
    _, terms = method.loss_terms(tf.constant(images), tf.constant(labels))
    return {name: float(value) for name, (_, value) in terms.items()}


def matrix_of(adapter, kernel_and_bias=()):
    """(A, b) flattened: [inputs, outputs]; tests/adapters_test.py has compared it with the one
    written by hand.
    """
    model = build_adapter(adapter, SHAPE)
    model.set_weights(kernel_and_bias)
    black = model(np.zeros((1, *SHAPE), np.float32)).numpy().astype(float).ravel()
    count = int(np.prod(SHAPE))
    basis = model(np.eye(count, dtype=np.float32).reshape(count, *SHAPE)).numpy()
    return basis.reshape(count, -1) - black, black


def gradients_by_hand(model, images, labels, matrix=None, offset=0.0):
    """d cross-entropy / d image of softmax((x A + b) W + c): A W (p - e_y), float64 [batch,
    *SHAPE].
    """
    weights, constants = (w.astype(np.float64) for w in model.get_weights()[-2:])
    flat = images.reshape(len(images), -1).astype(np.float64)
    matrix = np.eye(flat.shape[1]) if matrix is None else matrix
    p = scipy.special.softmax((flat @ matrix + offset) @ weights + constants, axis=1)
    return ((p - np.eye(CLASSES)[labels]) @ weights.T @ matrix.T).reshape(images.shape)


# adapter -> the pixels that it reads
ADAPTERS = {
    "average_pool:5x2": (slice(0, 5), slice(0, 6)),
    "channel_mean+crop:3x4": (slice(1, 4), slice(1, 5)),
    "crop:4x3": (slice(0, 4), slice(1, 4)),
    "pad:7x7": (slice(0, 5), slice(0, 6)),
    "resize:9x4": (slice(0, 5), slice(0, 6)),
    "resize_tf1:10x12": (slice(0, 5), slice(0, 6)),
}


@pytest.mark.parametrize("region", ["whole", "seen"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_both_terms_by_hand(adapter, region):
    """Eq. 17: the teacher's gradient at the student's image. Section 4.3.2: the discriminator sees
    what the crop leaves.
    """
    (rows, columns), (x, y) = ADAPTERS[adapter], batch()
    student, teacher = (
        linear_model(1),
        linear_model(2, build_adapter(adapter, SHAPE).output_shape[1:]),
    )
    discriminator = linear_discriminator((rows.stop - rows.start, columns.stop - columns.start, 2))
    method = IGAM(
        student=student,
        teacher=teacher,
        adapter=adapter,
        discriminator=discriminator,
        difference_region=region,
    )
    terms = terms_of(method, x, y)

    js, jt = gradients_by_hand(student, x, y), gradients_by_hand(teacher, x, y, *matrix_of(adapter))
    outside = np.ones(SHAPE, bool)
    outside[rows, columns] = False
    assert (jt[:, outside] == 0).all() and (js[:, outside] != 0).all()
    js_seen, jt_seen = js[:, rows, columns], jt[:, rows, columns]
    both = (js, jt) if region == "whole" else (js_seen, jt_seen)
    difference = ((both[0] - both[1]) ** 2).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(terms["difference"], difference, rtol=1e-5)

    kernel, bias = discriminator.get_weights()

    def score(gradient):
        flat = gradient.reshape(len(gradient), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True) @ kernel[:, 0] + bias[0]

    log_sigmoid = lambda s: -np.logaddexp(0, -s)  # noqa: E731
    adversarial = (log_sigmoid(score(jt_seen)) + log_sigmoid(-score(js_seen))).mean()
    np.testing.assert_allclose(terms["adversarial"], adversarial, rtol=1e-4)


def test_a_teacher_with_its_adapter_inside_needs_no_flag():
    (x, y), teacher = batch(), linear_model(2, (4, 3, 2))
    given = IGAM(student=linear_model(1), teacher=teacher, adapter="crop:4x3", lambda_adv=0.0)
    inside = IGAM(
        student=linear_model(1), teacher=adapt(teacher, "crop:4x3", SHAPE), lambda_adv=0.0
    )
    assert terms_of(given, x, y) == terms_of(inside, x, y)
    assert teacher.trainable and not inside.teacher.trainable


def test_the_default_discriminator_is_of_the_crops_size():
    method = IGAM(
        student=linear_model(1), teacher=linear_model(2, (3, 4, 1)), adapter="channel_mean+crop:3x4"
    )
    assert method.discriminator.input_shape == (None, 3, 4, 2)
    before, discriminator = method.teacher.get_weights(), method.discriminator.get_weights()
    x, y = batch()
    method.compile(optimizer=keras.optimizers.SGD(0.1))
    history = method.fit(x, y, batch_size=5, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for old, new in zip(before, method.teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (discriminator[0] != method.discriminator.get_weights()[0]).all()


@pytest.mark.parametrize("kind", ["random_pad", "random_pad_per_example"])
def test_random_places_change_with_the_step_and_repeat_with_the_seed(kind):
    """On a teacher whose gradient tells the places apart; a linear one does."""
    x, y = batch(8)

    def differences(seed):
        method = IGAM(
            student=linear_model(1),
            teacher=linear_model(2, (9, 9, 2)),
            adapter=f"{kind}:9x9",
            lambda_adv=0.0,
            seed=seed,
        )
        method.compile(optimizer=keras.optimizers.SGD(0.0))
        # The student never moves: what changes from step to step is the places alone. An epoch has
        # one step.
        return method.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history[
            "difference"
        ]

    first = differences(1)
    assert len(set(np.round(first, 3))) == 3
    assert first == differences(1)
    assert not np.allclose(first, differences(2))


class TestFineTune:
    def test_a_step_of_the_transposed_convolution_against_finite_differences(self):
        """z = relu(D u) W + c on u = convolution(x): kernel, bias, W and c move down their
        gradients, D does not.
        """
        (x, y), rng = batch(), np.random.default_rng(0)
        inside = keras.Input((10, 12, 2))
        body = keras.layers.Dense(4, activation="relu", name="body")(keras.layers.Flatten()(inside))
        teacher = keras.Model(inside, keras.layers.Dense(7, name="old")(body))
        teacher.set_weights([0.2 * rng.standard_normal(w.shape) for w in teacher.get_weights()])
        method = FineTune(
            teacher=teacher,
            num_classes=CLASSES,
            adapter="transposed_conv:10x12",
            input_shape=SHAPE,
            weight_decay=0.1,
        )
        student = method.student
        assert [v.path.split("/", 1)[0] for v in student.trainable_variables] == [
            "adapter1_transposed_conv",
            "adapter1_transposed_conv",
            "logits",
            "logits",
        ]
        student.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in student.get_weights()])
        before = [w.astype(np.float64) for w in student.get_weights()]
        method.compile(optimizer=keras.optimizers.SGD(0.5))
        method.fit(x, y, batch_size=5, verbose=0)
        after = student.get_weights()

        def loss(weights):
            kernel, bias, dense, dense_bias, logits, logits_bias = weights
            wide = np.zeros((5, 11, 13, 2))
            for row, column in np.ndindex(*SHAPE[:2]):
                pixels = np.einsum("bi,hwoi->bhwo", x[:, row, column], kernel)
                wide[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += pixels
            flat = (wide[:, :10, :12] + bias).reshape(5, -1)
            z = np.maximum(flat @ dense + dense_bias, 0) @ logits + logits_bias
            cross_entropy = -scipy.special.log_softmax(z, axis=1)[np.arange(5), y].mean()
            return cross_entropy + 0.05 * ((kernel**2).sum() + (logits**2).sum())

        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            if i in (2, 3):
                np.testing.assert_array_equal(old.astype(np.float32), new)
                continue
            for index in np.ndindex(old.shape):
                sides = []
                for sign in (1, -1):
                    moved = [w.copy() for w in before]
                    moved[i][index] += sign * 1e-6
                    sides.append(loss(moved))
                np.testing.assert_allclose(
                    (old - new)[index] / 0.5, (sides[0] - sides[1]) / 2e-6, rtol=1e-3, atol=1e-5
                )

    def test_the_result_is_saved_and_frozen_whole_as_a_teacher(self, tmp_path):
        x, y = batch()
        tuned = FineTune(
            teacher=linear_model(2, (10, 12, 2), 7),
            num_classes=CLASSES,
            adapter="transposed_conv:10x12",
            input_shape=SHAPE,
        )
        tuned.compile(optimizer=keras.optimizers.SGD(0.1))
        tuned.fit(x, y, verbose=0)
        tuned.student.save(tmp_path / "teacher.keras")
        teacher = load_model(str(tmp_path / "teacher.keras"))
        before = teacher.get_weights()
        method = IGAM(student=linear_model(1), teacher=teacher, lambda_adv=0.0)
        terms = terms_of(method, x, y)
        jt = gradients_by_hand(teacher, x, y, *matrix_of("transposed_conv:10x12", before[:2]))
        difference = (
            ((gradients_by_hand(method.student, x, y) - jt) ** 2).sum(axis=(1, 2, 3)).mean()
        )
        np.testing.assert_allclose(terms["difference"], difference, rtol=1e-4)
        method.fit(x, y, epochs=2, verbose=0)
        for old, new in zip(before, teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_the_bounded_convolution_holds_its_bound_through_wild_steps_and_as_a_frozen_teacher(
        self, tmp_path
    ):
        (x, y), bounded = batch(), "bounded_transposed_conv:10x12"
        tuned = FineTune(
            teacher=linear_model(2, (10, 12, 2), 7),
            num_classes=CLASSES,
            adapter=bounded,
            input_shape=SHAPE,
        )
        start = tuned.student.get_weights()[0]
        tuned.compile(optimizer=keras.optimizers.SGD(1.0))
        tuned.fit(x, y, batch_size=5, epochs=4, verbose=0)
        trained = tuned.student.get_weights()[0]
        rows = [
            np.abs(matrix_of(name, weights)[0]).sum(axis=0)
            for name, weights in (
                ("transposed_conv:10x12", [trained, np.zeros(2)]),
                (bounded, [trained]),
            )
        ]
        assert rows[0].max() > 1.5
        np.testing.assert_allclose(rows[1].max(), 1.0, rtol=1e-5)
        assert (start != trained).any()
        tuned.student.save(tmp_path / "teacher.keras")
        teacher = load_model(str(tmp_path / "teacher.keras"))
        before = teacher.get_weights()
        method = IGAM(student=linear_model(1), teacher=teacher, lambda_adv=0.0)
        jt = gradients_by_hand(teacher, x, y, *matrix_of(bounded, [trained]))
        difference = (
            ((gradients_by_hand(method.student, x, y) - jt) ** 2).sum(axis=(1, 2, 3)).mean()
        )
        # After the wild steps the teacher's gradients are so large that float32 leaves three
        # digits.
        np.testing.assert_allclose(terms_of(method, x, y)["difference"], difference, rtol=2e-3)
        method.fit(x, y, epochs=2, verbose=0)
        for old, new in zip(before, teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_a_fixed_adapter_on_a_batch_norm_teacher(self):
        teacher = build_model("small_cnn", (9, 9, 2), 4, batch_norm=True)
        method = FineTune(
            teacher=teacher, num_classes=CLASSES, adapter="random_pad:9x9", input_shape=SHAPE
        )
        assert [v.path for v in method.student.trainable_variables] == [
            "logits/kernel",
            "logits/bias",
        ]
        before = method.student.get_weights()
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        method.fit(*batch(), verbose=0)
        moved = [
            (old != new).any()
            for old, new in zip(before, method.student.get_weights(), strict=True)
        ]
        assert moved == [False] * (len(before) - 2) + [True, True]

    def test_random_places_change_with_the_step(self):
        x, y = batch()
        method = FineTune(
            teacher=linear_model(2, (9, 9, 2)),
            num_classes=CLASSES,
            adapter="random_pad:9x9",
            input_shape=SHAPE,
        )
        # Of a linear model without a body the features are the padded pixels, and so the losses
        # differ with the place.
        method.compile(optimizer=keras.optimizers.SGD(0.0))
        losses = method.fit(x, y, batch_size=5, epochs=4, shuffle=False, verbose=0).history["loss"]
        assert len(set(np.round(losses, 5))) > 2


class TestErrors:
    def test_untrained_weights_in_igam(self):
        with pytest.raises(
            InputError, match="has weights to be trained: fine-tune the teacher with it"
        ):
            IGAM(
                student=linear_model(1),
                teacher=linear_model(2, (10, 12, 2)),
                adapter="transposed_conv:10x12",
            )

    def test_a_discriminator_of_the_whole_image(self):
        with pytest.raises(
            InputError,
            match=r"takes gradients of shape \(5, 6, 2\), but the teacher sees \(4, 3, 2\)",
        ):
            IGAM(
                student=linear_model(1),
                teacher=linear_model(2, (4, 3, 2)),
                adapter="crop:4x3",
                discriminator=build_discriminator(SHAPE),
            )

    def test_difference_region(self):
        with pytest.raises(InputError, match="unknown difference_region 'crop'; .*seen"):
            IGAM(student=linear_model(1), teacher=linear_model(2), difference_region="crop")

    def test_fine_tuning_without_the_images_shape(self):
        with pytest.raises(InputError, match="'crop:4x3' needs input_shape"):
            FineTune(teacher=linear_model(2, (4, 3, 2)), num_classes=3, adapter="crop:4x3")


class TestFlags:
    """Runs of two steps on digits, enlarged or made smaller, from a teacher of 8x8 images."""

    def teacher(self, folder):
        linear_model(2, (8, 8, 1), 10).save(folder / "teacher.keras")
        return folder / "teacher.keras"

    def write(self, folder, name, *lines):
        shared = (
            "--dataset=digits",
            "--batch_size=4",
            "--train_steps=2",
            "--train_fraction=1/50",
            "--attacks=fgsm",
            "--max_examples=4",
            "--watch_examples=4",
            "--watch_attack=fgsm",
        )
        (folder / f"{name}.flags").write_text("\n".join((*shared, *lines)))
        return folder / f"{name}.flags"

    def run(self, path, *arguments):
        arguments = [f"--flagfile={path}", f"--run_dir={path.parent}/runs/{path.stem}", *arguments]
        return run_training(parse(TrainConfig, arguments))

    @pytest.mark.slow
    def test_a_chain_whose_fine_tuned_teacher_brings_its_adapter(self, tmp_path):
        teacher = self.teacher(tmp_path)
        tuned = self.write(
            tmp_path,
            "tuned",
            "--method=finetune",
            "--image_size=16x16",
            f"--teacher={teacher}",
            "--adapter=crop:12x14+resize:8x8",
            "--optimizer=adam",
        )
        igam = self.write(
            tmp_path,
            "igam",
            "--method=igam",
            "--image_size=16x16",
            f"--teacher=flagfile:{tuned}",
            "--discriminator_channels=4",
            "--optimizer=adam",
        )
        folder = self.run(igam)
        assert folder.finished and folder.figure.exists()
        names = [layer.name for layer in load_model(str(tmp_path / "runs/tuned")).layers]
        assert names[:3] == ["images", "adapter1_crop", "adapter2_resize"]
        assert load_model(str(folder.path)).input_shape == (None, 16, 16, 1)

    def test_an_adapter_of_the_students_run(self, tmp_path, caplog):
        teacher = self.teacher(tmp_path)
        igam = self.write(
            tmp_path,
            "igam",
            "--method=igam",
            "--image_size=4x4",
            f"--teacher={teacher}",
            "--adapter=random_pad:8x8",
            "--discriminator_channels=4",
            "--difference_region=seen",
        )
        assert self.run(igam, "--smoke").finished
        with pytest.raises(
            InputError, match="teacher takes images .* put an input transform before the teacher"
        ):
            self.run(
                igam,
                "--smoke",
                "--method=distillation",
                "--adapter=crop:2x2",
                f"--run_dir={tmp_path}/other/igam",
            )
        assert "--adapter has no effect on method distillation" in caplog.messages

    def test_a_fine_tuned_teacher_of_another_shape_is_told_of_adapters(self, tmp_path):
        teacher = self.teacher(tmp_path)
        tuned = self.write(
            tmp_path, "tuned", "--method=finetune", "--image_size=4x4", f"--teacher={teacher}"
        )
        with pytest.raises(InputError, match="--mixed_precision=bfloat16 is for students"):
            self.run(tuned, "--smoke", "--mixed_precision=bfloat16")
        with pytest.raises(
            InputError,
            match=r"takes images of shape \(8, 8, 1\), .* \(4, 4, 1\); map them \(--adapter\)",
        ):
            self.run(tuned, "--smoke")


TWO_DEVICES = """
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tf_robust_transfer.methods import IGAM, FineTune


def network(seed, shape):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])
    rng = np.random.default_rng(seed)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    return keras.Model(model.inputs[0], model.outputs[0])


def tuned():
    keras.utils.set_random_seed(0)
    return FineTune(
        teacher=network(2, (8, 8, 1)),
        num_classes=3,
        adapter="transposed_conv:8x8",
        input_shape=(4, 4, 1),
    )


def padded(kind):
    return IGAM(
        student=network(1, (4, 4, 1)),
        teacher=network(2, (9, 9, 1)),
        adapter=f"{kind}:9x9",
        lambda_adv=0.0,
        seed=4,
    )


rng = np.random.default_rng(0)
images, labels = rng.uniform(0, 1, (8, 4, 4, 1)).astype(np.float32), rng.integers(0, 3, 8)
strategies = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for build in (tuned, lambda: padded("random_pad"), lambda: padded("random_pad_per_example")):
    found = []
    for strategy in strategies:
        with strategy.scope():
            method = build()
            start = method.student.get_weights()
            method.compile(optimizer=keras.optimizers.SGD(0.2))
        method.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
        found.append(method.student.get_weights())
    for first, one, two in zip(start, *found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    assert np.abs(first - one).max() > 1e-2
print("equal")
"""


@pytest.mark.slow
def test_two_devices_give_the_weights_of_one():
    done = fresh_process.run(TWO_DEVICES)
    assert done.returncode == 0 and done.stdout.strip().endswith("equal"), done.stderr[-4000:]
