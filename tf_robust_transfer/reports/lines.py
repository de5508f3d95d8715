"""What `evaluate` prints."""


def accuracy_lines(result) -> str:
    """A line for each attack, component and worst case; of several radii, smallest first."""
    lines = [accuracy_line("clean", result, "clean")]
    for eps, at in (result.radii or {None: result}).items():
        where = "" if eps is None else f" eps {eps:.4g}"
        for attack in at.attacks[1:]:
            lines.append(accuracy_line(attack + where, at, attack))
            for component, accuracy in at.components.get(attack, {}).items():
                lines.append(f"  after {component:12s} {100 * accuracy:6.2f}%\n")
        if at.worst_case is not None:
            worst = at.worst_case
            lines.append(
                _row("worst case of these" + where, worst.accuracy, worst.confidence_interval_95)
            )
    return "".join(lines)


def accuracy_line(title, result, attack):
    return _row(title, result.accuracy[attack], result.confidence_interval_95[attack])


def _row(title, accuracy, interval):
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
