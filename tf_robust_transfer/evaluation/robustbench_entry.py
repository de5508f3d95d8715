"""The JSON entry of a model in RobustBench's model_info, from a results.json."""

import fractions

from tf_robust_transfer.errors import InputError

# RobustBench's names of the norms.
_NORMS = {"linf": "Linf", "l2": "L2"}


def folder(results: dict) -> str:
    """Where RobustBench keeps such an entry, below model_info: "cifar10/Linf"."""
    return f"{results['dataset']}/{_NORMS[results['threat_model']['norm']]}"


def entry(results: dict) -> dict:
    """RobustBench's entry; what only its author can know is left empty.

    Args:
        results: content of a results.json whose attacks contain "autoattack".

    Returns:
        dict with RobustBench's keys; accuracies in percent with two decimals, as text. "unreliable"
        says whether the evaluation issued warnings.

    Raises:
        InputError: no AutoAttack among the results.
    """
    if "autoattack" not in results["accuracy"]:
        raise InputError(
            f"{results['model']!r} was not attacked by autoattack; RobustBench wants no other "
            "figure"
        )
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": results["dataset"],
        "venue": "",
        "architecture": "",
        "eps": _radius(results["threat_model"]["eps"]),
        "clean_acc": f"{100 * results['accuracy']['clean']:.2f}",
        "reported": "",
        "autoattack_acc": f"{100 * results['accuracy']['autoattack']:.2f}",
        "unreliable": bool(results.get("warnings")),
    }


def _radius(eps):
    """ "8/255" where eps is a multiple of a grey level, else the number."""
    levels = fractions.Fraction(eps * 255).limit_denominator(100)
    return (
        f"{levels}/255"
        if levels.denominator == 1 and abs(levels / 255 - eps) < 1e-7
        else f"{eps:g}"
    )
