"""MixACM, its parts, its baselines and its union with IGAM: steps by hand, one pass backward,
precision, schedule.

MixACM's default form is also tested in methods_test.py, its losses in losses_test.py and
channel_maps_test.py."""

import re

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.attacks import FGSM, ThreatModel
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.data.mixup import mixup_weights
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods import (
    IGAM,
    METHODS,
    AdversarialDistillation,
    Distillation,
    FineTune,
    IGAMMixACM,
    MixACM,
    Natural,
)
from tf_robust_transfer.models import build_model
from tf_robust_transfer.models.precision import in_float32, with_precision
from tf_robust_transfer.runs.method import compiled_method
from tf_robust_transfer.runs.optimizers import learning_rate

CLASSES, SHAPE, RATE = 3, (3, 2, 2), 0.5


def seeded(model, seed):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(
            rng.uniform(0.5, 1.5, variable.shape)
            if "moving_variance" in variable.path
            else rng.standard_normal(variable.shape)
        )
    return model


def network(seed=1, channels=(3, 3), classes=CLASSES, strides=1, bias=False):
    """Two linear 1x1 convolutions, block1 and block2, mean over the image, dense."""
    images = keras.Input(SHAPE)
    x = keras.layers.Conv2D(channels[0], 1, use_bias=False, name="block1")(images)
    x = keras.layers.Conv2D(channels[1], 1, strides=strides, use_bias=False, name="block2")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return seeded(keras.Model(images, keras.layers.Dense(classes, use_bias=bias)(x)), seed)


def batch(count=4, seed=7):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (count, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, count)


def fit(method, x, y):
    return method.fit(x, y, batch_size=len(x), shuffle=False, verbose=0).history


def step(method, x, y):
    """One step of plain gradient descent by `fit`. Returns (weights before - after) / rate, and the
    logs.
    """
    before = method.student.get_weights()
    method.compile(optimizer=keras.optimizers.SGD(RATE), run_eagerly=True)
    logs = {name: value for name, (value,) in fit(method, x, y).items()}
    return [(a - b) / RATE for a, b in zip(before, method.student.get_weights(), strict=True)], logs


def weights64(model):
    return [w.astype(np.float64) for w in model.get_weights()]


def forward(weights, x):
    k1, k2, w = weights
    first = x @ k1[0, 0]
    second = first @ k2[0, 0]
    return first, second, second.mean(axis=(1, 2)) @ w


def at_maxima(block, at_map):
    """A gradient at each channel's maximum, moved to the activation that is the maximum."""
    return np.where(block == block.max(axis=(1, 2), keepdims=True), at_map[:, None, None, :], 0.0)


class TestWholeLoss:
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_one_step_derived_by_hand(self, reduction):
        """0.05 L_mix + 0.95 L_kld + 5 L_acm of blocks 1 and 2, back-propagated through the linear
        network by hand.
        """
        student, teacher, (x, y) = network(1), network(2), batch()
        method = MixACM(
            student=student,
            teacher=teacher,
            acm_weight=5.0,
            kld_weight=0.95,
            temperature=10.0,
            blocks=("block1", "block2"),
            acm_reduction=reduction,
            seed=3,
        )
        k1, k2, w = weights = weights64(student)
        method.compile(optimizer="sgd")
        lam = float(mixup_weights(4, alpha=1.0, per_example=False, seed=method.step_seed()))
        assert 0.01 < lam < 0.99
        partner = [1, 0, 3, 2]
        x64, one_hot = x.astype(np.float64), np.eye(CLASSES)[y]
        x64, soft = (
            lam * x64 + (1 - lam) * x64[partner],
            lam * one_hot + (1 - lam) * one_hot[partner],
        )
        first, second, logits = forward(weights, x64)
        *blocks, teacher_logits = forward(weights64(teacher), x64)

        p, q, t = (
            scipy.special.softmax(z, axis=1) for z in (logits, logits / 10, teacher_logits / 10)
        )
        at_logits = (0.05 * (p - soft) + 0.95 * 10 * (q - t)) / 4
        pooled = second.mean(axis=(1, 2))
        at_w = pooled.T @ at_logits
        at_second = np.repeat((at_logits @ w.T / 6)[:, None], 6, axis=1).reshape(second.shape)
        acm, at_blocks = 0.0, []
        for ours, theirs in zip((first, second), blocks):
            s, a = ours.max(axis=(1, 2)), theirs.max(axis=(1, 2))
            length = np.linalg.norm(s, axis=1, keepdims=True)
            u, v = s / length, a / np.linalg.norm(a, axis=1, keepdims=True)
            share = 1 / 3 if reduction == "mean" else 1.0
            acm += share * ((u - v) ** 2).sum(axis=1).mean()
            at_u = 5.0 * share * 2 * (u - v) / 4
            at_blocks.append(
                at_maxima(ours, (at_u - u * (u * at_u).sum(axis=1, keepdims=True)) / length)
            )
        at_second = at_second + at_blocks[1]
        at_first = at_second @ k2[0, 0].T + at_blocks[0]
        expected = [
            np.einsum("bhwi,bhwo->io", x64, at_first)[None, None],
            np.einsum("bhwi,bhwo->io", first, at_second)[None, None],
            at_w,
        ]
        got, logs = step(method, x, y)
        for mine, by_hand in zip(got, expected, strict=True):
            np.testing.assert_allclose(mine, by_hand, rtol=1e-4, atol=1e-4 * np.abs(by_hand).max())
        mixed = -(soft * scipy.special.log_softmax(logits, axis=1)).sum(axis=1).mean()
        kld = 100 * scipy.stats.entropy(t, q, axis=1).mean()
        np.testing.assert_allclose(
            [logs[n] for n in ("mixup", "kld", "acm", "loss")],
            [mixed, kld, acm, 0.05 * mixed + 0.95 * kld + 5 * acm], rtol=1e-4,
        )  # fmt: skip

    @pytest.mark.parametrize("mapping", ["maximum", "mean", "mean_of_squares", "none"])
    def test_a_teacher_equal_to_the_student_gives_exactly_zero(self, mapping):
        method = MixACM(
            student=network(1), teacher=network(1), blocks=("block1", "block2"), acm_mapping=mapping
        )
        _, logs = step(method, *batch())
        assert logs["acm"] == 0.0 and logs["kld"] == 0.0 and logs["mixup"] > 0.1

    def test_a_pair_matches_the_teachers_block_with_the_students(self):
        x, y = batch()
        student, teacher = network(1, (3, 4)), network(2, (4, 3))
        method = MixACM(
            student=student,
            teacher=teacher,
            blocks=("block2:block1",),
            kld_weight=0.0,
            mixup_alpha=0.0,
            acm_reduction="sum",
        )
        ours = forward(weights64(student), x.astype(np.float64))[0].max(axis=(1, 2))
        theirs = forward(weights64(teacher), x.astype(np.float64))[1].max(axis=(1, 2))
        units = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in (ours, theirs)]
        _, logs = step(method, x, y)
        np.testing.assert_allclose(
            logs["acm"], ((units[0] - units[1]) ** 2).sum(axis=1).mean(), rtol=1e-5
        )

    def test_direct_features(self):
        """Table 9: the endpoints themselves, here with the same channels and not normalised."""
        x, y = batch()
        student, teacher = network(1), network(2)
        method = MixACM(
            student=student,
            teacher=teacher,
            blocks=("block1",),
            acm_mapping="none",
            acm_normalized=False,
            mixup_alpha=0.0,
        )
        ours, theirs = (forward(weights64(m), x.astype(np.float64))[0] for m in (student, teacher))
        np.testing.assert_allclose(
            step(method, x, y)[1]["acm"], ((ours - theirs) ** 2).mean(), rtol=1e-5
        )


class TestOneBackwardPass:
    def test_convolutions_of_a_traced_step(self):
        """The student's two convolutions once forward, once backward by kernel and by input (for
        the first one the graph holds it, unused); the teacher's once forward."""
        student, teacher = network(1), network(2)
        method = MixACM(
            student=student, teacher=teacher, blocks=("block1", "block2"), mixup_per_example=True
        )
        method.compile(optimizer=keras.optimizers.SGD(RATE))
        x, y = batch()
        operations = _operations(method, x, y)
        assert operations.count("Conv2D") == 2 + 2
        assert (
            operations.count("Conv2DBackpropFilter") == operations.count("Conv2DBackpropInput") == 2
        )
        # The counter counts: IGAM's step differentiates the input gradient again.
        igam = IGAM(student=network(1), teacher=network(2), lambda_adv=0.0)
        igam.compile(optimizer=keras.optimizers.SGD(RATE))
        assert _operations(igam, x, y).count("Conv2DBackpropInput") > 2

    def test_the_teacher_is_called_once(self):
        calls = []

        class Counting(keras.layers.Layer):
            def call(self, x, training=None):
                calls.append(training)
                return x

        images = keras.Input(SHAPE)
        x = keras.layers.Conv2D(3, 1, name="block1")(Counting()(images))
        teacher = keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))
        method = MixACM(student=network(1), teacher=teacher, blocks=("block1",))
        method.compile(optimizer=keras.optimizers.SGD(0.01))
        calls.clear()
        traced = tf.function(method.train_step, autograph=False)
        traced.get_concrete_function(tuple(map(tf.constant, batch())))
        assert calls == [False]


def _operations(method, x, y):
    """Types of all operations of a traced step, those of functions inside it too."""
    traced = tf.function(method.train_step, autograph=False).get_concrete_function(
        (tf.constant(x), tf.constant(y))
    )
    definition = traced.graph.as_graph_def()
    nodes = [
        *definition.node,
        *(node for function in definition.library.function for node in function.node_def),
    ]
    return [node.op for node in nodes]


class TestParts:
    def test_only_kd_is_distillation(self):
        """Table 7: its column has the figures of Table 1's RKD row."""
        x, y = batch()
        kd = step(
            MixACM(
                student=network(1), teacher=network(2), acm_weight=0.0, mixup_alpha=0.0, blocks=()
            ),
            x,
            y,
        )
        rkd = step(METHODS["rkd"](student=network(1), teacher=network(2)), x, y)
        assert METHODS["rkd"] is Distillation and "acm" not in kd[1]
        for a, b in zip(kd[0], rkd[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    def test_only_acm_is_the_cross_entropy_and_the_maps(self):
        """The steps of its two terms add up: with the weight doubled, its part doubles."""
        x, y = batch()
        options = {"kld_weight": 0.0, "mixup_alpha": 0.0, "blocks": ("block1", "block2")}
        plain = step(Natural(student=network(1)), x, y)[0]
        once, twice = (
            step(MixACM(student=network(1), teacher=network(2), acm_weight=w, **options), x, y)
            for w in (2.0, 4.0)
        )
        assert "kld" not in once[1]
        for p, a, b in zip(plain, once[0], twice[0], strict=True):
            np.testing.assert_allclose(b - p, 2 * (a - p), rtol=1e-3, atol=1e-4)
        assert np.abs(once[0][0] - plain[0]).max() > 1e-2

    def test_a_teacher_of_another_task(self):
        options = {"student": network(1), "blocks": ("block1",)}
        with pytest.raises(
            InputError, match=r"7 classes, the student 3; give .*or leave its soft labels out .*: 0"
        ):
            MixACM(teacher=network(2, classes=7), **options)
        _, logs = step(MixACM(teacher=network(2, classes=7), kld_weight=0.0, **options), *batch())
        assert np.isfinite(logs["loss"]) and "kld" not in logs
        other = build_model("small_cnn", (8, 8, 1), 7)
        with pytest.raises(
            InputError, match=r"teacher takes images of shape \(8, 8, 1\), the student \(3, 2, 2\)"
        ):
            MixACM(teacher=other, kld_weight=0.0, **options)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"acm_mapping": "max"}, "acm_mapping 'max'; nearest valid names: maximum"),
            ({"acm_transform": "avg"}, "acm_transform 'avg'; "),
            ({"acm_transform_of": "both"}, "acm_transform_of 'both'; "),
            ({"blocks": ("block1:block7",)}, "student has no endpoint 'block7'"),
            ({"blocks": ("block7:block1",)}, "teacher has no endpoint 'block7'"),
            ({"blocks": ("logits",)}, r"only endpoints of shape .*'logits' is \(None, 3\)"),
            (
                {"acm_mapping": "none"},
                r"'block2' of the teacher is \(3, 2\) and 'block2' of the student \(2, 1\)",
            ),
        ],
        ids=str,
    )
    def test_bad_options(self, options, says):
        with pytest.raises(InputError, match=says):
            MixACM(
                student=network(1, strides=2),
                teacher=network(2),
                **{"blocks": ("block1", "block2"), **options},
            )


class TestTeacherPrecision:
    @staticmethod
    def logs(made, teacher_precision, weights=None):
        """Of a step that moves nothing; weights: given to the teacher once the method is made."""
        keras.utils.set_random_seed(1)
        student, teacher = (
            build_model("preact_resnet_18", (8, 8, 3), CLASSES, base_channels=4) for _ in range(2)
        )
        method = made(student=student, teacher=teacher, teacher_precision=teacher_precision)
        method.compile(optimizer=keras.optimizers.SGD(0.0))
        rng = np.random.default_rng(5)
        x, y = rng.uniform(size=(4, 8, 8, 3)).astype(np.float32), rng.integers(CLASSES, size=4)
        if weights is not None:
            method.fit(x, y, batch_size=4, verbose=0)
            teacher.set_weights([weights * value for value in teacher.get_weights()])
        history = method.fit(x, y, batch_size=4, verbose=0).history
        return {name: history[name][0] for name in ("kld", "acm") if name in history}

    @pytest.mark.parametrize("made", [MixACM, Distillation])
    def test_the_teacher_is_the_same_but_for_rounding(self, made):
        whole, half = (self.logs(made, precision) for precision in ("float32", "bfloat16"))
        assert half == pytest.approx(whole, rel=0.03)
        for name, value in half.items():
            assert value != pytest.approx(whole[name], rel=1e-6), "the precision was not used"

    @pytest.mark.parametrize("made", [MixACM, Distillation])
    def test_weights_that_the_teacher_gets_later_count(self, made):
        before, after, expected = (
            self.logs(made, *arguments)
            for arguments in (("bfloat16",), ("bfloat16", 1.1), ("float32", 1.1))
        )
        assert after == pytest.approx(expected, rel=0.03)
        assert after != pytest.approx(before, rel=0.03)

    def test_of_both_methods_it_is_one_option(self):
        student, teacher = network(1), network(2)
        both = IGAMMixACM(
            student=student, teacher=teacher, lambda_adv=0.0, teacher_precision="bfloat16"
        )
        assert both.options.gradients.teacher_precision == "bfloat16"
        assert both.terms[0].of._frozen._copy.precision == "bfloat16"

    def test_others_are_refused(self):
        with pytest.raises(InputError, match="teacher_precision 'mixed'"):
            MixACM(student=network(1), teacher=network(2), teacher_precision="mixed")


class TestAllBlocks:
    def test_every_block_of_both(self):
        """As 5.1's sum: no name is left out, and in no other order."""
        student, teacher = (
            build_model("preact_resnet_18", (8, 8, 3), CLASSES, base_channels=width)
            for width in (4, 8)
        )
        found = MixACM(student=student, teacher=teacher).terms[-1].pairs
        assert found == tuple((f"block{n}", f"block{n}") for n in range(1, 6))


class TestAffine:
    @pytest.mark.parametrize("transform_of", ["teacher", "student"])
    def test_the_transformation_is_trained_with_the_student(self, transform_of):
        """Its bias b, which starts at 0, by hand: the gradient of |unit(m K + b) - other|^2 / C at
        m K + b.
        """
        student, teacher, (x, y) = network(1, (3, 3)), network(2, (5, 3)), batch()
        method = MixACM(
            student=student,
            teacher=teacher,
            blocks=("block1", "block2"),
            kld_weight=0.0,
            mixup_alpha=0.0,
            acm_weight=2.0,
            acm_transform="affine",
            acm_transform_of=transform_of,
        )
        (layer,) = method.terms[-1].affine.values()  # block2 has equal channels
        assert layer.kernel.shape == ((5, 3) if transform_of == "teacher" else (3, 5))
        kernel, bias = (v.numpy().astype(np.float64) for v in layer.weights)
        maps = {"student": student, "teacher": teacher}
        maps = {
            k: forward(weights64(m), x.astype(np.float64))[0].max(axis=(1, 2))
            for k, m in maps.items()
        }
        given = maps.pop(transform_of)
        (other,) = maps.values()
        z, v = given @ kernel + bias, other / np.linalg.norm(other, axis=1, keepdims=True)
        length = np.linalg.norm(z, axis=1, keepdims=True)
        u = z / length
        at_u = 2.0 * 2 * (u - v) / u.shape[1] / 4
        at_z = (at_u - u * (u * at_u).sum(axis=1, keepdims=True)) / length
        step(method, x, y)
        np.testing.assert_allclose(
            (bias - layer.bias.numpy()) / RATE, at_z.sum(axis=0), rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(
            (kernel - layer.kernel.numpy()) / RATE, given.T @ at_z, rtol=1e-3, atol=1e-5
        )

    @pytest.mark.parametrize("decayed", ["kernels", "all"])
    def test_it_decays_with_all_that_the_step_trains(self, decayed):
        """The same step with and without weight decay: apart by rate * decay * weight where that
        decays.
        """

        def after(**options):
            method = MixACM(
                student=network(1),
                teacher=network(2, (5, 3)),
                blocks=("block1",),
                kld_weight=0.0,
                mixup_alpha=0.0,
                acm_transform="affine",
                acm_weight=2.0,
                **options,
            )
            (layer,) = method.terms[-1].affine.values()
            layer.bias.assign([0.5, -1.0, 2.0])
            before = [v.numpy().astype(np.float64) for v in layer.weights]
            _, logs = step(method, *batch())
            return before, [v.numpy() for v in layer.weights], logs

        before, plain, _ = after()
        _, moved, logs = after(weight_decay=0.3, weight_decay_of=decayed)
        student = [v.numpy().astype(np.float64) for v in network(1).trainable_variables]
        squares = sum((v**2).sum() for v in student if decayed == "all" or v.ndim > 1)
        if decayed == "all":
            squares += sum((v**2).sum() for v in before)
        np.testing.assert_allclose(logs["weight_decay"], 0.5 * squares, rtol=1e-5)
        for start, one, other in zip(before, plain, moved, strict=True):
            expected = RATE * 0.3 * start if decayed == "all" else 0 * start
            np.testing.assert_allclose(one - other, expected, rtol=1e-3, atol=1e-6)

    def test_it_is_part_of_what_a_resumed_run_needs(self, tmp_path):
        def method():
            made = MixACM(
                student=network(1),
                teacher=network(2, (5, 3)),
                blocks=("block1",),
                acm_transform="affine",
            )
            made.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), run_eagerly=True)
            return made

        x, y = batch()
        whole, first, second = method(), method(), method()
        for _ in range(2):
            fit(whole, x, y)
        fit(first, x, y)
        path = tf.train.Checkpoint(**first.state()).save(tmp_path / "checkpoint")
        tf.train.Checkpoint(**second.state()).restore(path).assert_consumed()
        fit(second, x, y)
        for a, b in zip(whole._trained, second._trained, strict=True):
            np.testing.assert_array_equal(a, b)


class TestAdversarialDistillation:
    def method(self, student, **options):
        return AdversarialDistillation(
            student=student,
            teacher=network(2),
            threat_model=ThreatModel("linf", 0.2),
            attack=FGSM(),
            temperature=4.0,
            **options,
        )

    @pytest.mark.parametrize("kld_weight", [1.0, 0.7])
    def test_one_step_by_hand(self, kld_weight):
        """At the last layer: (a g (q' - t) of the adversarial features + (1 - a) (p - e_y) of the
        natural ones) / n.
        """
        student, (x, y) = network(1), batch()
        weights, x64 = weights64(student), x.astype(np.float64)
        _, second, logits = forward(weights, x64)
        p, one_hot = scipy.special.softmax(logits, axis=1), np.eye(CLASSES)[y]
        k1, k2, w = weights
        direction = np.sign(
            (p - one_hot) @ w.T @ k2[0, 0].T @ k1[0, 0].T
        )  # the same at every pixel
        moved = np.clip(x64 + 0.2 * direction[:, None, None, :], 0, 1)
        _, adversarial, adversarial_logits = forward(weights, moved)
        teacher_logits = forward(weights64(network(2)), x64)[2]  # of the natural images
        q, t = (scipy.special.softmax(z / 4, axis=1) for z in (adversarial_logits, teacher_logits))
        expected = kld_weight * 4 * adversarial.mean(axis=(1, 2)).T @ (q - t) / 4
        expected += (1 - kld_weight) * second.mean(axis=(1, 2)).T @ (p - one_hot) / 4
        got, logs = step(self.method(student, kld_weight=kld_weight), x, y)
        np.testing.assert_allclose(got[2], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            logs["kld"], 16 * scipy.stats.entropy(t, q, axis=1).mean(), rtol=1e-4
        )
        assert ("cross_entropy" in logs) == (kld_weight < 1)

    def test_options(self):
        with pytest.raises(InputError, match=r"kld_weight: expected a number in \[0, 1\], got 1.5"):
            self.method(network(1), kld_weight=1.5)
        with pytest.raises(InputError, match="teacher has 3 classes, the student 5"):
            self.method(network(1, classes=5))


class TestIGAMAndMixACM:
    OPTIONS = {"lambda_diff": 0.3, "lambda_adv": 0.5, "discriminator_every": 1}
    MIXACM = {"blocks": ("block1",), "acm_weight": 5.0}

    def discriminator(self):
        gradients = keras.Input(SHAPE)
        scores = keras.layers.Reshape(())(keras.layers.Dense(1)(keras.layers.Flatten()(gradients)))
        return seeded(keras.Model(gradients, scores), 5)

    def roles(self):
        return {"student": network(1), "teacher": network(2), "seed": 4}

    def test_a_step_is_the_sum_of_the_parents_without_igams_cross_entropy(self):
        x, y = batch()
        both = IGAMMixACM(
            **self.roles(),
            discriminator=self.discriminator(),
            mixacm_options=self.MIXACM,
            **self.OPTIONS,
        )
        igam = IGAM(**self.roles(), discriminator=self.discriminator(), **self.OPTIONS)
        steps = [
            step(method, x, y)
            for method in (
                both,
                igam,
                MixACM(**self.roles(), **self.MIXACM),
                Natural(student=network(1)),
            )
        ]
        for whole, gradients, maps, natural in zip(*(moved for moved, _ in steps), strict=True):
            np.testing.assert_allclose(whole, gradients + maps - natural, rtol=1e-3, atol=1e-4)
            assert np.abs(whole - maps).max() > 1e-2
        logs = steps[0][1]
        for parent in (1, 2):
            for name in set(steps[parent][1]) - {"loss", "accuracy", "cross_entropy"}:
                np.testing.assert_allclose(
                    logs[name], steps[parent][1][name], rtol=1e-5, err_msg=name
                )
        np.testing.assert_allclose(
            logs["loss"],
            steps[1][1]["loss"] - steps[1][1]["cross_entropy"] + steps[2][1]["loss"],
            rtol=1e-4,
        )
        for a, b in zip(
            both.discriminator.get_weights(), igam.discriminator.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def test_the_warm_start_is_mixacm(self):
        x, y = batch()
        found = []
        for method in (
            IGAMMixACM(
                **self.roles(), mixacm_options=self.MIXACM, warm_start_steps=9, **self.OPTIONS
            ),
            MixACM(**self.roles(), **self.MIXACM),
        ):
            method.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9))
            logs = method.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history
            found.append((method.student.get_weights(), set(logs)))
        assert found[0][1] == found[1][1]
        for a, b in zip(found[0][0], found[1][0], strict=True):
            np.testing.assert_array_equal(a, b)

    def test_an_affine_transformation_is_refused(self):
        with pytest.raises(InputError, match="acm_transform affine is for method mixacm"):
            IGAMMixACM(
                student=network(1),
                teacher=network(2, (5, 3)),
                mixacm_options={"acm_transform": "affine", "blocks": ("block1",)},
            )


def config(*arguments):
    return parse(TrainConfig, arguments)


class TestTraining:
    def test_warm_up_then_cosine(self):
        """ImageNet's, in small: from 0.16 to 0.8 in 5 of 25 steps, then the cosine over the other
        20.
        """
        schedule = learning_rate(
            config("--learning_rate=0.8", "--warm_up_learning_rate=0.16"), 25, 5
        )
        rates = [float(schedule(step)) for step in (0, 1, 4, 5, 10, 15, 25)]
        expected = [0.16, 0.288, 0.672, 0.8, 0.4 * (1 + np.cos(np.pi / 4)), 0.4, 0.0]
        np.testing.assert_allclose(rates, expected, atol=1e-6)
        with pytest.raises(
            InputError, match="needs --schedule=cosine and a longer training, got schedule constant"
        ):
            learning_rate(config("--schedule=constant"), 25, 5)
        with pytest.raises(InputError, match="5 of 5 steps"):
            learning_rate(config(), 5, 5)

    def test_a_network_in_bfloat16_has_float32_weights_logits_and_losses(self):
        keras.utils.set_random_seed(0)
        plain = build_model(
            "wrn_10_1", (8, 8, 3), CLASSES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)
        )
        student = with_precision(plain, "bfloat16")
        for a, b in zip(plain.get_weights(), student.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        x = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype(np.float32)
        ours, theirs = student(x, training=False), plain(x, training=False)
        assert (
            ours.dtype == tf.float32
            and np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max() + 1e-3
        )
        assert (ours.numpy() != theirs.numpy()).any()
        computed = {
            layer.compute_dtype
            for layer in student.layers
            if isinstance(layer, keras.layers.Conv2D)
        }
        assert computed == {"bfloat16"} and {v.dtype for v in student.weights} == {"float32"}

        method = MixACM(student=student, teacher=plain, mixup_alpha=0.0)
        method.compile(keras.optimizers.SGD(RATE))
        _, terms = method.loss_terms(tf.constant(x), tf.constant([0, 1, 2, 0]))
        assert {value.dtype for _, value in terms.values()} == {tf.float32}
        # Close to what float32 finds, as the maps are of unit length.
        assert float(terms["acm"][1]) < 1.0

    @pytest.mark.parametrize(
        "options",
        [
            {"preprocessing": "standardized", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)},
            {"preprocessing": "centered"},
        ],
        ids=str,
    )
    def test_preprocessing_stays_float32(self, options):
        student = with_precision(build_model("wrn_10_1", (8, 8, 3), CLASSES, **options), "bfloat16")
        assert student.get_layer("preprocessing").compute_dtype == "float32"
        assert student.get_layer("conv1").compute_dtype == "bfloat16"

    def test_a_fine_tuned_network_is_brought_back_to_float32_whole(self):
        """Teacher, adapter and nested models inside of it too, and what was frozen stays so."""
        keras.utils.set_random_seed(0)
        plain = build_model(
            "wrn_10_1", (8, 8, 3), CLASSES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)
        )
        assert in_float32(plain) is plain

        def tuned(teacher):
            keras.utils.set_random_seed(1)
            return FineTune(
                teacher=teacher, num_classes=5, adapter="resize:8x8", input_shape=(16, 16, 3)
            ).student

        expected, mixed = tuned(plain), tuned(with_precision(plain, "bfloat16"))
        x = np.random.default_rng(0).uniform(size=(4, 16, 16, 3)).astype(np.float32)
        assert (mixed(x, training=False).numpy() != expected(x, training=False).numpy()).any()
        images = keras.Input((16, 16, 3))
        for network in (mixed, keras.Model(images, mixed(images))):
            whole = in_float32(network)
            np.testing.assert_array_equal(whole(x, training=False), expected(x, training=False))
            assert in_float32(whole) is whole
        assert len(in_float32(mixed).trainable_variables) == 2, "the new layer alone"
        assert "bfloat16" in {layer.compute_dtype for layer in mixed.layers}, (
            "the argument is left as it is"
        )

    def test_steps_in_mixed_precision_are_near_float32s(self):
        """Two steps from the same weights, on real images."""
        images = data.load_data("digits", "train")
        x, y = images.images[:16].astype(np.float32) / 255, images.labels[:16]
        found = []
        for chosen in ("none", "bfloat16", "float16"):
            keras.utils.set_random_seed(0)
            teacher = build_model("small_cnn", (8, 8, 1), 10)
            settings = config(
                "--method=mixacm",
                f"--mixed_precision={chosen}",
                "--blocks=block1,block2",
                "--alpha_acm=5",
                "--optimizer=sgd",
                "--learning_rate=0.01",
                "--momentum=0",
            )
            method = compiled_method(
                settings, images=images, teacher=teacher, steps_per_epoch=10, total_steps=100
            )
            before = method.student.get_weights()
            for _ in range(2):
                fit(method, x, y)
            found.append([a - b for a, b in zip(before, method.student.get_weights(), strict=True)])
            assert method.steps_done == 2
        for plain, bfloat16, float16 in zip(*found, strict=True):
            assert np.linalg.norm(bfloat16 - plain) < 0.05 * np.linalg.norm(plain)
            assert 0 < np.linalg.norm(float16 - plain) < 0.01 * np.linalg.norm(plain)

    def test_igam_refuses_float16(self):
        images = data.load_data("digits", "train")
        teacher = build_model("small_cnn", (8, 8, 1), 10)
        with pytest.raises(
            InputError, match="float16 scales one loss, and igam has two; use bfloat16"
        ):
            compiled_method(
                config("--method=igam", "--mixed_precision=float16"),
                images=images,
                teacher=teacher,
                steps_per_epoch=1,
                total_steps=2,
            )

    @pytest.mark.parametrize("name", ["rkd", "ard", "mixacm", "igam_mixacm"])
    def test_the_flags_reach_the_method(self, name):
        images = data.load_data("digits", "train")
        teacher = build_model("small_cnn", (8, 8, 1), 10, width=5)
        settings = config(
            f"--method={name}",
            "--alpha_kld=0.5",
            "--gamma=3",
            "--alpha_acm=7",
            "--blocks=block2:block1",
            "--acm_mapping=mean",
            "--acm_normalized=false",
            "--acm_transform=average",
            "--acm_transform_of=student",
            "--train_eps=0.05",
            "--train_attack_steps=3",
            "--lambda_adv=0",
        )
        method = compiled_method(
            settings, images=images, teacher=teacher, steps_per_epoch=10, total_steps=100
        )
        assert type(method) is METHODS[name] and method.teacher is teacher
        terms = {term.names[0]: term for term in method.terms}
        assert (terms["kld"].weight, terms["kld"].temperature) == (0.5, 3.0)
        if "mixacm" in name:
            assert terms["acm"].pairs == (("block2", "block1"),) and terms["acm"].weight == 7
            options = terms["acm"].options
            assert (options.acm_mapping, options.acm_normalized) == ("mean", False)
            assert (options.acm_transform, options.acm_transform_of) == ("average", "student")
        if name == "ard":
            assert method.threat_model.eps == 0.05 and method.attack.steps == 3


def test_the_help_names_every_method():
    help_text = TrainConfig.__dataclass_fields__["method"].metadata["help"]
    assert set(METHODS) <= set(re.findall(r"\w+", help_text.partition(";")[0]))
