"""parse_attack: every form of name, and what stands in the message for the others."""

import re

import pytest

import tf_robust_transfer as rt
from tf_robust_transfer import attacks
from tf_robust_transfer.attacks import FGSM, PGD
from tf_robust_transfer.attacks.cleverhans import ATTACKS, CleverHans
from tf_robust_transfer.attacks.names import EXAMPLES, full_name, parse_attack, training_attack
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification


def test_clean_is_no_attack():
    assert parse_attack("clean") is None


def test_fgsm_takes_one_step_of_eps_from_the_image():
    attack = parse_attack("fgsm", step_size=0.01)
    assert type(attack) is FGSM
    assert (attack.steps, attack.step_size, attack.random_start, attack.restarts) == (
        1,
        None,
        False,
        1,
    )


@pytest.mark.parametrize(
    "name, steps, restarts, loss",
    [
        ("pgd1", 1, 1, classification.cross_entropy),
        ("pgd20", 20, 1, classification.cross_entropy),
        ("pgd500", 500, 1, classification.cross_entropy),
        ("pgd100x5", 100, 5, classification.cross_entropy),
        ("cw-pgd20", 20, 1, classification.margin),
        ("cw-pgd7x12", 7, 12, classification.margin),
    ],
)
def test_pgd(name, steps, restarts, loss):
    attack = parse_attack(name, step_size=0.03)
    assert type(attack) is PGD
    assert (attack.steps, attack.restarts, attack.loss, attack.step_size) == (
        steps,
        restarts,
        loss,
        0.03,
    )
    # Every iterate counts in an evaluation, from a random start.
    assert attack.stop_when_fooled and attack.random_start


@pytest.mark.parametrize("name", ATTACKS)
def test_cleverhans(name):
    attack = parse_attack(f"cleverhans:{name}", step_size=0.03)
    assert type(attack) is CleverHans
    assert (attack.name, attack.step_size) == (name, 0.03)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("apgd-ce", attacks.APGD, {"loss": "cross_entropy"}),
        ("apgd-dlr", attacks.APGD, {"loss": "dlr"}),
        ("apgd-t", attacks.APGDTargeted, {}),
        ("fab", attacks.FAB, {"restarts": 1}),
        ("fab-t", attacks.FABTargeted, {"restarts": 1}),
        ("square", attacks.Square, {"queries": 5000}),
        ("cw-l2", attacks.CarliniWagnerL2, {}),
        ("spsa", attacks.SPSA, {}),
        ("bim10", attacks.BIM, {"steps": 10, "random_start": False, "step_size": 0.03}),
        ("mim7", attacks.MIM, {"steps": 7, "decay": 1.0, "step_size": 0.03}),
        ("autoattack", attacks.AutoAttack, {"version": "standard"}),
        ("autoattack-plus", attacks.AutoAttack, {"version": "plus"}),
        ("autoattack:square+fab-t", attacks.AutoAttack, {"names": ("square", "fab-t")}),
    ],
)
def test_the_other_attacks(name, kind, says):
    attack = parse_attack(name, step_size=0.03)
    assert type(attack) is kind and attack.stop_when_fooled
    assert {key: getattr(attack, key) for key in says} == says


@pytest.mark.parametrize("name", ["autoattack:", "autoattack:pgd20", "autoattack:square+square"])
def test_ensembles_that_are_refused(name):
    with pytest.raises(InputError, match="expected different ones of apgd-ce|unknown attack"):
        parse_attack(name)


@pytest.mark.parametrize(
    "name",
    [
        "bim20x2",
        "",
        "PGD20",
        "pgd0",
        "pgd020",
        "pgd20x0",
        "pgd20x",
        "pgdx5",
        "pgd-20",
        "pgd20 ",
        "pgd2.5",
        "cw-fgsm",
        "cwpgd20",
        "fgsm2",
        "pgd２０",
    ],
)
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="unknown attack"):
        parse_attack(name)


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("fgms", "fgsm"),
        ("pdg20", "pgd20"),
        ("cw_pgd20", "cw-pgd20"),
        ("pgd100*5", "pgd100x5"),
        ("Clean", "clean"),
    ],
)
def test_the_message_names_the_nearest(name, nearest):
    with pytest.raises(InputError, match=rf"nearest valid names: .*\b{nearest}\b"):
        parse_attack(name)


def test_the_message_names_the_nearest_of_cleverhans():
    with pytest.raises(InputError, match="unknown name 'fast_gradient'.*fast_gradient_method"):
        parse_attack("cleverhans:fast_gradient")


@pytest.mark.parametrize("name", ["pgd501", "cw-pgd1000x2"])
def test_too_many_steps_are_refused(name):
    with pytest.raises(InputError, match="steps must be 1 to 500"):
        parse_attack(name)


@pytest.mark.parametrize("name", ["pgd20", "cleverhans:projected_gradient_descent"])
@pytest.mark.parametrize("step_size", [0.0, -0.1])
def test_step_size_is_positive(name, step_size):
    with pytest.raises(InputError, match="step_size: expected a number above 0"):
        parse_attack(name, step_size)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("pgd100x5", "pgd[steps=100;restarts=5]"),
        ("cw-pgd20", "pgd[loss=cw;steps=20]"),
        ("pgd20[restarts=3]", "pgd[steps=20;restarts=3]"),
        ("mim7", "mim[steps=7]"),
        ("apgd-dlr", "apgd[loss=dlr]"),
        ("autoattack-plus", "autoattack[version=plus]"),
        ("autoattack:apgd-ce+square", "autoattack[attacks=apgd-ce+square]"),
        ("cleverhans:fast_gradient_method", "cleverhans[name=fast_gradient_method]"),
    ],
)
def test_a_short_name_is_an_alias(short, long):
    one, other = parse_attack(short), parse_attack(long)
    assert type(one) is type(other) and one.options == other.options


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "clean"])
def test_the_full_form_makes_the_same_attack(name):
    attack = parse_attack(name)
    again = parse_attack(full_name(attack))
    assert type(again) is type(attack) and again.options == attack.options


def test_options_in_brackets():
    attack = parse_attack("pgd[steps=50;restarts=5;step_size=2/255]")
    assert (attack.steps, attack.restarts, attack.step_size) == (50, 5, 2 / 255)
    assert attack.stop_when_fooled  # the default of evaluations, not of Python
    assert not parse_attack("pgd[stop_when_fooled=false]").stop_when_fooled
    # A step size for all attacks gives way to one in the name.
    assert parse_attack("pgd[step_size=0.1]", step_size=0.2).step_size == 0.1
    assert parse_attack("pgd20", step_size=0.2).step_size == 0.2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pgd[step=50]", "has no option 'step'; nearest valid names: step"),
        ("pgd[steps=0]", "steps: expected a number of at least 1, got '0'"),
        ("pgd[steps=a]", "steps: expected a whole number, got 'a'"),
        ("pgd[steps=501]", "steps must be 1 to 500"),
        ("pgd[steps]", "expected option=value in the brackets, got 'steps'"),
        ("pgd20[steps=5]", "gives steps twice"),
        ("pgd[steps=5", "options stand in brackets"),
        ("autoattack-fast", "unknown version 'fast'"),
    ],
)
def test_options_that_are_refused(name, words):
    with pytest.raises(InputError, match=re.escape(words)):
        parse_attack(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pgd7", PGD),
        ("cw-pgd7", PGD),
        ("fgsm", FGSM),
        ("mim3", attacks.MIM),
        ("apgd-ce", attacks.APGD),
        ("spsa", attacks.SPSA),
    ],
)
def test_in_training_an_attack_goes_on_to_its_last_step(name, kind):
    attack = training_attack(name)
    assert type(attack) is kind and not attack.stop_when_fooled and attack.restarts == 1


@pytest.mark.parametrize("name", ["clean", "autoattack", "pgd7x2", "apgd-t", "fab-t"])
def test_training_takes_one_round(name):
    with pytest.raises(InputError, match="takes an attack of one round, such as pgd7"):
        training_attack(name)


@pytest.mark.parametrize(
    "attack", [PGD(3, restarts=2), attacks.APGDTargeted(steps=3), attacks.AutoAttack()]
)
def test_training_takes_one_round_of_an_object_too(attack):
    """It ran the first and said nothing."""
    student = rt.build_model("small_cnn", (8, 8, 1), 10)
    with pytest.raises(InputError, match="training takes an attack of one round, got "):
        rt.AdversarialTraining(
            student=student, threat_model=rt.ThreatModel("linf", 0.1), attack=attack
        )


def test_training_takes_an_object_of_its_norm():
    student = rt.build_model("small_cnn", (8, 8, 1), 10)
    with pytest.raises(InputError, match="CarliniWagnerL2 attacks in l2, got norm 'linf'"):
        rt.AdversarialTraining(
            student=student,
            threat_model=rt.ThreatModel("linf", 0.1),
            attack=attacks.CarliniWagnerL2(),
        )
