"""What `evaluate` prints."""


def accuracy_line(title, result, attack):
    return row(title, result.accuracy[attack], result.confidence_interval_95[attack])


def row(title, accuracy, interval):
    return (
        f"{title:20s} {100 * accuracy:6.2f}%  [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]\n"
    )


def diagnostics_text(name, summary):
    """A line for each mean, as those of the accuracies; those of Eq. 18 of the IGAM paper last."""
    lines = [
        f"input gradients of the {name}, {summary['num_examples']} images, l2 norm of [0, 1] pixels"
    ]
    for key, found in summary.items():
        if isinstance(found, dict):
            low, high = (_number(value) for value in found["confidence_interval_95"])
            undefined = f"  {found['undefined']} undefined" if found["undefined"] else ""
            lines.append(f"  {key:18s} {_number(found['mean']):>9s}  [{low}, {high}]{undefined}")
    share, constant = _number(summary["rho_at_most_alpha"]), _number(summary["smallest_constant"])
    lines.append(
        f"  rho <= alpha on a fraction of {share}; rho <= alpha + C / |g| on all with C {constant}"
    )
    return "\n".join(lines) + "\n"


def _number(value):
    return "-" if value is None else f"{value:.4g}"
