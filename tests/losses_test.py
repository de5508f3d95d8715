"""losses/: every loss against NumPy or scipy in float64, gradients by finite differences."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from tf_robust_transfer.losses import channel_maps, classification, distillation
from tf_robust_transfer.losses import input_gradient as igam

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 4)) * 3
LABELS = np.array([0, 1, 2, 3, 3, 0])
PROBABILITIES = scipy.special.softmax(LOGITS, axis=1)


def numeric_gradient(function, x, step=1e-6):
    """Central differences of a scalar function of a float64 array."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            sides.append(float(function(moved)))
        gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return gradient


def tensor_gradient(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(function(x))
    return tape.gradient(value, x).numpy()


class TestClassification:
    def test_cross_entropy(self):
        got = classification.cross_entropy(tf.constant(LOGITS), LABELS)
        np.testing.assert_allclose(got, -np.log(PROBABILITIES[np.arange(6), LABELS]))

    def test_cross_entropy_of_extreme_logits_is_finite(self):
        got = classification.cross_entropy(tf.constant([[1e4, 0.0], [1e4, 0.0]]), [0, 1])
        np.testing.assert_allclose(got, [0.0, 1e4])

    def test_soft_cross_entropy(self):
        soft = RNG.dirichlet(np.ones(4), 6)
        got = classification.soft_cross_entropy(tf.constant(LOGITS), soft)
        np.testing.assert_allclose(
            got, -(soft * scipy.special.log_softmax(LOGITS, axis=1)).sum(axis=1)
        )

    def test_soft_cross_entropy_of_one_hot_labels_is_cross_entropy(self):
        got = classification.soft_cross_entropy(tf.constant(LOGITS), np.eye(4)[LABELS])
        np.testing.assert_allclose(got, classification.cross_entropy(tf.constant(LOGITS), LABELS))

    def test_true_class_probability(self):
        got = classification.true_class_probability(tf.constant(LOGITS), LABELS)
        np.testing.assert_allclose(got, PROBABILITIES[np.arange(6), LABELS])

    @pytest.mark.parametrize("classes", [2, 3, 10])
    def test_margin_is_the_best_other_logit_minus_the_own(self, classes):
        logits = RNG.standard_normal((20, classes))
        labels = RNG.integers(0, classes, 20)
        expected = [
            max(z for i, z in enumerate(row) if i != y) - row[y]
            for row, y in zip(logits, labels, strict=True)
        ]
        got = classification.margin(tf.constant(logits), labels).numpy()
        np.testing.assert_allclose(got, expected)
        np.testing.assert_array_equal(got > 0, logits.argmax(axis=1) != labels)

    def test_margin_gradient_is_plus_one_at_the_runner_up_and_minus_one_at_the_label(self):
        got = tensor_gradient(
            lambda z: classification.margin(z, [2, 0]), [[3.0, 5.0, 9.0], [0.0, -2.0, -1.0]]
        )
        np.testing.assert_array_equal(got, [[0, 1, -1], [-1, 0, 1]])

    def test_margin_of_hugely_negative_logits(self):
        np.testing.assert_array_equal(
            classification.margin(tf.constant([[-1e30, -2e30]]), [0]), np.float32([-1e30])
        )

    @pytest.mark.parametrize(
        ("logits", "label", "expected"),
        [
            ([5.0, 1.0, 2.0, 3.0], 0, -(5 - 3) / (5 - 2)),  # right: against the runner-up
            ([5.0, 1.0, 2.0, 3.0], 3, (5 - 3) / (5 - 2)),  # wrong: against the leader
            ([5.0, 1.0, 2.0, 3.0], 2, 1.0),  # the label is the denominator's third
            ([5.0, 1.0, 2.0, 3.0], 1, (5 - 1) / (5 - 2)),
            ([4.0, 4.0, 1.0], 0, 0.0),  # ties of the label with the leader, before and behind it
            ([4.0, 4.0, 1.0], 1, 0.0),
            ([4.0, 4.0, 1.0], 2, 1.0),
            ([4.0, 3.0, 3.0], 0, -1.0),
            ([2.0, 2.0, 2.0, 1.0], 0, 0.0),  # the denominator is 1e-12 alone
            ([2.0, 2.0, 2.0, 1.0], 3, 1e12),
        ],
    )
    def test_dlr_by_hand(self, logits, label, expected):
        got = classification.dlr(tf.constant([logits], tf.float64), tf.constant([label]))
        np.testing.assert_allclose(got, [expected])

    @pytest.mark.parametrize(
        ("logits", "label", "target", "expected"),
        [
            ([9.0, 1.0, 2.0, 3.0, 7.0], 0, 4, -(9 - 7) / (9 - (3 + 2) / 2)),
            (
                [9.0, 1.0, 2.0, 3.0, 7.0],
                0,
                2,
                -(9 - 2) / (9 - (3 + 2) / 2),
            ),  # the target is the denominator's fourth
            ([9.0, 1.0, 2.0, 3.0, 7.0], 4, 0, (9 - 7) / (9 - (3 + 2) / 2)),
            ([9.0, 1.0, 2.0, 3.0, 7.0], 3, 1, -(3 - 1) / (9 - (3 + 2) / 2)),
            ([4.0, 4.0, 4.0, 2.0], 1, 2, 0.0),
            ([4.0, 4.0, 4.0, 2.0], 3, 2, (4 - 2) / (4 - (4 + 2) / 2)),
            ([4.0, 4.0, 4.0, 4.0, 3.0], 0, 4, -1e12),
        ],
    )
    def test_targeted_dlr_by_hand(self, logits, label, target, expected):
        got = classification.targeted_dlr(
            tf.constant([logits], tf.float64), tf.constant([label]), tf.constant([target])
        )
        np.testing.assert_allclose(got, [expected])

    def test_dlr_losses_of_random_logits_from_their_definition(self):
        logits, labels = RNG.standard_normal((50, 6)) * 5, RNG.integers(0, 6, 50)
        targets = (labels + RNG.integers(1, 6, 50)) % 6
        plain, targeted = [], []
        for z, y, t in zip(logits, labels, targets):
            ordered = sorted(z, reverse=True)
            plain.append(
                -(z[y] - max(v for i, v in enumerate(z) if i != y)) / (ordered[0] - ordered[2])
            )
            targeted.append(-(z[y] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2))
        np.testing.assert_allclose(classification.dlr(tf.constant(logits), labels), plain)
        np.testing.assert_allclose(
            classification.targeted_dlr(tf.constant(logits), labels, targets), targeted
        )
        np.testing.assert_array_equal(np.array(plain) > 0, logits.argmax(axis=1) != labels)
        moved = classification.dlr(tf.constant(1e4 * logits - 7), labels)
        np.testing.assert_allclose(moved, plain)

    @pytest.mark.parametrize("targeted", [False, True])
    def test_dlr_gradients_by_finite_differences(self, targeted):
        logits, labels, targets = (
            RNG.standard_normal((12, 6)) * 3,
            RNG.integers(0, 6, 12),
            RNG.integers(0, 6, 12),
        )

        def loss(z):
            return (
                classification.targeted_dlr(z, labels, targets)
                if targeted
                else classification.dlr(z, labels)
            )

        numeric = numeric_gradient(lambda z: tf.reduce_sum(loss(tf.constant(z))), logits)
        np.testing.assert_allclose(tensor_gradient(loss, logits), numeric, atol=1e-7)

    def test_of_tied_leaders_one_gets_the_whole_gradient(self):
        """(z_0 - z_3) / (z_0 - z_2) at 3 / 2: derivatives -1/4, 3/4 and -1/2, and none for the
        other leader.
        """
        got = tensor_gradient(lambda z: classification.dlr(z, [3]), [[4.0, 4.0, 2.0, 1.0]])[0]
        assert sorted(got[:2]) == [-0.25, 0.0] and got[2:].tolist() == [0.75, -0.5]

    def test_is_correct_counts_nan_and_infinity_as_wrong(self):
        nan, inf = float("nan"), float("inf")
        logits = tf.constant([[0.0, 1], [1, 0], [nan, 1], [0, nan], [nan, nan], [-inf, 1]])
        got = classification.is_correct(logits, tf.constant([1, 1, 1, 1, 0, 1]))
        np.testing.assert_array_equal(got, [True, False, False, False, False, False])


class TestDistillation:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
    def test_kl_divergence_is_scipys_times_the_squared_temperature(self, temperature):
        student = RNG.standard_normal((6, 4))
        p, q = (scipy.special.softmax(z / temperature, axis=1) for z in (LOGITS, student))
        got = distillation.kl_divergence(
            tf.constant(LOGITS), tf.constant(student), temperature
        ).numpy()
        np.testing.assert_allclose(got, temperature**2 * scipy.special.rel_entr(p, q).sum(axis=1))
        np.testing.assert_allclose(got, temperature**2 * scipy.stats.entropy(p, q, axis=1))

    def test_gradient_is_temperature_times_the_difference_of_probabilities(self):
        """d(g^2 KL)/dz_S = g (softmax(z_S / g) - softmax(z_T / g)): the reason for the factor g^2
        of Hinton et al.
        """
        student, temperature = RNG.standard_normal((6, 4)), 10.0
        got = tensor_gradient(
            lambda z: distillation.kl_divergence(tf.constant(LOGITS), z, temperature), student
        )
        softmax = [scipy.special.softmax(z / temperature, axis=1) for z in (student, LOGITS)]
        np.testing.assert_allclose(got, temperature * (softmax[0] - softmax[1]), atol=1e-12)

    def test_equal_logits_give_exactly_zero(self):
        logits = tf.constant(LOGITS * 50, tf.float32)
        np.testing.assert_array_equal(distillation.kl_divergence(logits, logits, 10.0), np.zeros(6))

    def test_a_saturated_teacher_gives_no_nan(self):
        got = distillation.kl_divergence(
            tf.constant([[1e4, 0.0, 0.0]]), tf.constant([[0.0, 0.0, 0.0]]), 1.0
        )
        np.testing.assert_allclose(got, [math.log(3)], rtol=1e-6)


class TestInputGradientTerms:
    def test_gradient_difference_is_the_squared_distance_of_each_example(self):
        a, b = RNG.standard_normal((2, 5, 3, 2, 2))
        got = igam.gradient_difference(tf.constant(a), tf.constant(b))
        np.testing.assert_allclose(
            got, [np.linalg.norm((x - y).ravel()) ** 2 for x, y in zip(a, b, strict=True)]
        )

    def test_adversarial_is_equation_10(self):
        teacher, student = RNG.standard_normal((2, 7)) * 4
        got = igam.adversarial(tf.constant(teacher), tf.constant(student))
        np.testing.assert_allclose(
            got, np.log(scipy.special.expit(teacher)) + np.log(1 - scipy.special.expit(student))
        )

    def test_adversarial_is_minus_log_4_where_the_discriminator_cannot_tell(self):
        np.testing.assert_allclose(
            igam.adversarial(tf.zeros([3]), tf.zeros([3])), -math.log(4) * np.ones(3), rtol=1e-6
        )

    def test_adversarial_is_highest_for_a_perfect_discriminator_and_finite_for_a_fooled_one(self):
        got = igam.adversarial(tf.constant([200.0, -200.0]), tf.constant([-200.0, 200.0]))
        np.testing.assert_allclose(got, [0.0, -400.0], atol=1e-6)

    def test_the_student_lowers_the_adversarial_term_by_looking_like_the_teacher(self):
        """dL/ds_S = -sigmoid(s_S) < 0: gradient descent of the student raises f_disc(J_s), as Eq.
        11 wants.
        """
        scores = RNG.standard_normal(7)
        got = tensor_gradient(lambda s: igam.adversarial(tf.zeros([7], tf.float64), s), scores)
        np.testing.assert_allclose(got, -scipy.special.expit(scores))

    def test_discriminator_input(self):
        gradient = RNG.standard_normal((4, 3, 2, 2)) * 1e-3
        flat = gradient.reshape(4, -1)
        centred = flat - flat.mean(axis=1, keepdims=True)
        expected = {
            "raw": flat,
            "l2": flat / np.linalg.norm(flat, axis=1, keepdims=True),
            "zero_mean_l2": centred / np.linalg.norm(centred, axis=1, keepdims=True),
        }
        assert set(expected) == set(igam.DISCRIMINATOR_INPUTS)
        for kind, value in expected.items():
            got = igam.discriminator_input(tf.constant(gradient), kind).numpy()
            assert got.shape == gradient.shape
            np.testing.assert_allclose(got.reshape(4, -1), value, rtol=1e-9)

    @pytest.mark.parametrize("kind", igam.DISCRIMINATOR_INPUTS)
    def test_discriminator_input_gradient_by_finite_differences(self, kind):
        gradient, direction = RNG.standard_normal((2, 2, 2, 2, 1))
        got = tensor_gradient(lambda x: igam.discriminator_input(x, kind) * direction, gradient)
        numeric = numeric_gradient(
            lambda x: (igam.discriminator_input(tf.constant(x), kind).numpy() * direction).sum(),
            gradient,
        )
        np.testing.assert_allclose(got, numeric, atol=1e-8)

    @pytest.mark.parametrize("kind", igam.DISCRIMINATOR_INPUTS)
    def test_zero_gradients_are_zero_with_finite_derivatives(self, kind):
        gradient = np.zeros((2, 2, 2, 1), np.float32)
        gradient[1] = 0.5  # constant: its zero-mean form is zero too
        got = igam.discriminator_input(tf.constant(gradient), kind).numpy()
        np.testing.assert_array_equal(got[0], np.zeros((2, 2, 1)))
        assert np.isfinite(got).all()
        assert np.isfinite(
            tensor_gradient(lambda x: igam.discriminator_input(x, kind), gradient)
        ).all()

    def test_gradients_of_a_saturated_network_are_still_normalised(self):
        gradient = np.float32(1e-10) * RNG.standard_normal((3, 4, 4, 1)).astype(np.float32)
        got = igam.discriminator_input(tf.constant(gradient), "l2").numpy()
        np.testing.assert_allclose(np.linalg.norm(got.reshape(3, -1), axis=1), 1.0, rtol=1e-5)

    def test_unknown_normalisation_is_refused(self):
        with pytest.raises(ValueError, match="zero_mean_l2.*'l1'"):
            igam.discriminator_input(tf.zeros([1, 2, 2, 1]), "l1")


# PyTorch's windows of adaptive_max_pool1d from n to m, [floor(i n / m), ceil((i + 1) n / m)),
# written out by hand.
WINDOWS = {
    (6, 3): [(0, 2), (2, 4), (4, 6)],
    (5, 3): [(0, 2), (1, 4), (3, 5)],
    (7, 4): [(0, 2), (1, 4), (3, 6), (5, 7)],
    (7, 1): [(0, 7)],
    (3, 5): [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)],
    (2, 6): [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2)],
    (4, 6): [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)],
    (4, 4): [(0, 1), (1, 2), (2, 3), (3, 4)],
}


def numpy_acm(teacher, student, reduction):
    """Section 5.1 for maps of equal size."""
    maps = [x.max(axis=(1, 2)) for x in (teacher, student)]
    teacher, student = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in maps)
    distance = np.linalg.norm(teacher - student, axis=1) ** 2
    return distance / teacher.shape[1] if reduction == "mean" else distance


class TestChannelMaps:
    def test_activated_channel_map_is_the_largest_value_of_each_channel(self):
        x = RNG.standard_normal((3, 4, 5, 6))
        got = channel_maps.activated_channel_map(tf.constant(x)).numpy()
        assert got.shape == (3, 6)
        for i, c in np.ndindex(3, 6):
            assert got[i, c] == max(x[i, h, w, c] for h in range(4) for w in range(5))

    @pytest.mark.parametrize("sizes", WINDOWS, ids=str)
    def test_match_channels_has_pytorchs_windows(self, sizes):
        n, m = sizes
        x = RNG.standard_normal((5, n)).astype(
            np.float32
        )  # negative maxima too: no zero padding may win
        x[0] -= 10
        got = channel_maps.match_channels(tf.constant(x), m).numpy()
        np.testing.assert_array_equal(
            got, np.stack([x[:, a:b].max(axis=1) for a, b in WINDOWS[sizes]], axis=1)
        )

    def test_windows_by_formula_for_network_widths(self):
        for n, m in ((160, 16), (640, 64), (48, 64), (100, 33), (33, 100)):
            x = RNG.standard_normal((2, n)).astype(np.float32)
            got = channel_maps.match_channels(tf.constant(x), m).numpy()
            windows = [
                x[:, math.floor(i * n / m) : math.ceil((i + 1) * n / m)].max(axis=1)
                for i in range(m)
            ]
            np.testing.assert_array_equal(got, np.stack(windows, axis=1))

    @pytest.mark.parametrize("sizes", [(7, 4), (3, 5)], ids=str)
    def test_match_channels_gradient_by_finite_differences(self, sizes):
        x, direction = RNG.standard_normal((2, sizes[0])), RNG.standard_normal((2, sizes[1]))
        got = tensor_gradient(lambda z: channel_maps.match_channels(z, sizes[1]) * direction, x)

        def weighted(z):
            return (
                np.stack([z[:, a:b].max(axis=1) for a, b in WINDOWS[sizes]], axis=1) * direction
            ).sum()

        np.testing.assert_allclose(got, numeric_gradient(weighted, x), atol=1e-8)

    def test_match_channels_works_in_a_compiled_function_of_unknown_batch(self):
        compiled = tf.function(
            lambda x: channel_maps.match_channels(x, 3),
            input_signature=[tf.TensorSpec([None, 5], tf.float32)],
        )
        x = RNG.standard_normal((4, 5)).astype(np.float32)
        np.testing.assert_array_equal(
            compiled(x), np.stack([x[:, a:b].max(axis=1) for a, b in WINDOWS[5, 3]], axis=1)
        )

    @pytest.mark.parametrize("reduction", channel_maps.REDUCTIONS)
    def test_acm_loss_of_equal_widths(self, reduction):
        teacher, student = RNG.standard_normal((4, 3, 3, 5)), RNG.standard_normal((4, 2, 4, 5))
        got = channel_maps.acm_loss(tf.constant(teacher), tf.constant(student), reduction).numpy()
        np.testing.assert_allclose(got, numpy_acm(teacher, student, reduction))

    def test_acm_loss_pools_the_teachers_map_and_not_the_students(self):
        teacher, student = RNG.standard_normal((4, 3, 3, 7)), RNG.standard_normal((4, 3, 3, 4))
        pooled = np.stack(
            [teacher.max(axis=(1, 2))[:, a:b].max(axis=1) for a, b in WINDOWS[7, 4]], axis=1
        )
        got = channel_maps.acm_loss(tf.constant(teacher), tf.constant(student)).numpy()
        np.testing.assert_allclose(
            got, numpy_acm(pooled[:, None, None], student, "mean"), rtol=1e-6
        )

    @pytest.mark.parametrize("reduction", channel_maps.REDUCTIONS)
    @pytest.mark.parametrize("width", [3, 5])
    def test_acm_loss_gradient_by_finite_differences(self, reduction, width):
        teacher, student = RNG.standard_normal((2, 2, 2, 5)), RNG.standard_normal((2, 2, 3, width))
        got = tensor_gradient(
            lambda x: channel_maps.acm_loss(tf.constant(teacher), x, reduction), student
        )

        def loss(x):
            maps = teacher.max(axis=(1, 2))
            if width == 3:
                maps = np.stack([maps[:, a:b].max(axis=1) for a, b in WINDOWS[5, 3]], axis=1)
            return numpy_acm(maps[:, None, None], x, reduction).sum()

        np.testing.assert_allclose(got, numeric_gradient(loss, student), atol=1e-8)

    def test_the_default_reduction_is_the_mean(self):
        teacher, student = RNG.standard_normal((2, 2, 2, 3, 4))
        got = channel_maps.acm_loss(tf.constant(teacher), tf.constant(student))
        np.testing.assert_allclose(got, numpy_acm(teacher, student, "mean"))

    def test_acm_loss_does_not_see_the_scale_of_a_map(self):
        teacher, student = RNG.standard_normal((2, 2, 2, 3, 4))
        plain = channel_maps.acm_loss(tf.constant(teacher), tf.constant(student))
        np.testing.assert_allclose(
            channel_maps.acm_loss(tf.constant(100 * teacher), tf.constant(student / 7)), plain
        )

    def test_equal_endpoints_give_exactly_zero(self):
        endpoint = tf.constant(RNG.standard_normal((4, 3, 3, 16)), tf.float32)
        for reduction in channel_maps.REDUCTIONS:
            np.testing.assert_array_equal(
                channel_maps.acm_loss(endpoint, endpoint, reduction), np.zeros(4)
            )

    def test_a_dead_block_has_a_finite_gradient(self):
        teacher = tf.constant(RNG.uniform(0, 1, (2, 2, 2, 3)), tf.float32)
        dead = np.zeros((2, 2, 2, 3), np.float32)
        np.testing.assert_array_equal(
            tensor_gradient(lambda x: channel_maps.acm_loss(teacher, tf.nn.relu(x)), dead), dead
        )
        assert np.isfinite(tensor_gradient(lambda x: channel_maps.acm_loss(teacher, x), dead)).all()

    def test_unknown_reduction_is_refused(self):
        with pytest.raises(ValueError, match="'mean', 'sum'.*'max'"):
            channel_maps.acm_loss(tf.ones([1, 2, 2, 3]), tf.ones([1, 2, 2, 3]), "max")
