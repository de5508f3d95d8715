"""The net under a change that should change nothing: weights after 20 steps, flag files' settings.

Where a change is meant, its commit says why and brings what benchmarks/make_net_golden.py writes
anew.
"""

import re

import numpy as np
import pytest

from tests import net
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.methods import METHODS

pytestmark = pytest.mark.usefixtures("at_the_root")  # Flag files name each other from there.
PLATFORM, STORED = net.stored_steps()
HERE = net.platform_here()
ANEW = "; if that is meant, say why in the commit and run benchmarks/make_net_golden.py --only="
# On another processor. Kernels without oneDNN, of the same processor, differ by 2e-5.
RTOL = 1e-3


def cases():
    slow = [pytest.mark.slow]
    return [pytest.param(name, marks=slow if name in net.SLOW else []) for name in net.CASES]


def methods_of(names):
    return {parse(TrainConfig, net.flags_of(name)).method for name in names}


def test_every_method_is_tested_and_every_case_is_stored():
    found = methods_of(net.CASES)
    assert found == methods_of(net.CASES.keys() - net.SLOW) <= set(METHODS)
    # A method that is not in the net, such as a new one, has a test file of its name.
    for name in set(METHODS) - found:
        assert (net.ROOT / "tests" / f"{name}_test.py").is_file(), name
    assert list(STORED) == list(net.CASES) and net.SLOW < set(net.CASES)
    for name, case in STORED.items():
        moved = case["summary"][:, 2]
        assert (moved > 0).sum() >= 2 and np.isfinite(case["summary"]).all(), name


@pytest.mark.parametrize("name", cases())
def test_the_weights_after_twenty_steps(name):
    """Bit for bit on the processor and with the versions that were stored, elsewhere nearly."""
    found, stored = net.measure(name), STORED[name]
    for what in ("shapes", "log_names"):
        assert found[what].tolist() == stored[what].tolist(), f"other {what}{ANEW}{name}"
    if HERE == PLATFORM:
        other = (found["sha256"] != stored["sha256"]).any(axis=1)
        assert not other.any(), f"other weights:\n{difference(found, stored, other)}\n{ANEW}{name}"
        # Sums that nothing but the log sees may be taken in another order.
        np.testing.assert_allclose(found["logs"], stored["logs"], rtol=1e-6, err_msg=ANEW + name)
    else:
        check_nearly(found, stored)


def check_nearly(found, stored):
    # A bias before batch norm has no effect and moves by what rounding leaves, with Adam far; the
    # moving mean follows it.
    rows = [not re.search(r"conv.*/bias$|/moving_mean$", path) for path in stored["names"]]
    now, then = found["summary"][rows], stored["summary"][rows]
    np.testing.assert_allclose(now[:, 1:], then[:, 1:], rtol=RTOL, atol=1e-5)
    assert (np.abs(now[:, 0] - then[:, 0]) <= RTOL * then[:, 1] + 1e-5).all()
    # One example of an epoch's 160 more or less.
    atol = [[0.01 if "accuracy" in term else 1e-4] for term in stored["log_names"]]
    off = np.abs(found["logs"] - stored["logs"]) > atol + RTOL * np.abs(stored["logs"])
    assert not off.any(), stored["log_names"][off.any(axis=1)]


def difference(found, stored, rows):
    """A line for each variable that differs: name here; sum, norm and way, stored and now."""
    lines = []
    for row in np.flatnonzero(rows):
        lines.append(f"{found['names'][row]} {found['shapes'][row]}")
        for column, what in enumerate(("sum", "norm", "moved")):
            then, now = stored["summary"][row, column], found["summary"][row, column]
            lines[-1] += f", {what} {then:.9g} -> {now:.9g}"
    return "\n".join(lines)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mixacm", marks=pytest.mark.slow),
        pytest.param("igam_noise_warm_start", marks=pytest.mark.slow),
    ],
)
def test_a_run_leaves_the_student_of_the_twenty_steps(name):
    if HERE != PLATFORM:
        pytest.skip("stored on another processor or with other versions")
    found, stored = net.measure(name, by="run")["sha256"], STORED[name]["sha256"]
    other = (found != stored[: len(found)]).any(axis=1)  # the student's come first
    assert len(found) > 3 and not other.any(), STORED[name]["names"][: len(found)][other]


def test_the_effective_settings_of_every_flag_file():
    found, stored = net.settings_of_all_files(), net.stored_settings()
    defaults = {name: found["defaults"].get(name) for name in stored["defaults"]}
    assert defaults == stored["defaults"], f"other flags or defaults{ANEW}settings"
    assert list(found["files"]) == list(stored["files"]), f"other flag files{ANEW}settings"
    other = {
        path: {
            flag: (stored["files"][path].get(flag, "default"), settings.get(flag, "default"))
            for flag in sorted(set(settings) | set(stored["files"][path]))
            if settings.get(flag) != stored["files"][path].get(flag)
        }
        for path, settings in found["files"].items()
        if settings != stored["files"][path]
    }
    assert not other, f"(stored, now){ANEW}settings"
