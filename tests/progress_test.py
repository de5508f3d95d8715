"""How far a command is: redrawn on a terminal, plain lines in a log."""

import contextlib
import logging
import os
import pty
import select
import sys
import types
import warnings

import numpy as np
import pytest

from tf_robust_transfer import progress
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.command import _Stderr
from tf_robust_transfer.evaluation import RobustnessWarning
from tf_robust_transfer.runs import callbacks, watching


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


@contextlib.contextmanager
def terminal(monkeypatch):
    """stderr is a terminal; what was written to it is in the list that it yields."""
    reader, writer = pty.openpty()
    written = []
    monkeypatch.setenv("TERM", "xterm")
    with open(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield written
        stream.flush()
        read = b""  # a terminal hands out a few KiB at a time
        while select.select([reader], [], [], 0.5)[0]:
            read += os.read(reader, 65536)
        written.append(read.decode())
    os.close(reader)


def test_a_log_gets_a_short_line_now_and_then(clock, capsys):
    with progress.Bar("teacher", 1000, start=100, unit="images") as bar:
        for done in range(200, 1001, 100):
            clock[0] += 10.0
            bar.update(done, lambda: "word " * 40)
        bar.write("epoch 1")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    # In 90 seconds three lines; 300 images in 30 seconds are 10 a second, 600 are left of 1000.
    assert len(lines) == 4 and lines[-1] == "epoch 1" and out == ""
    assert lines[0].startswith("teacher  40%  1:00 left  10 images/s  word word")
    assert "\r" not in err and max(map(len, lines)) <= 100


def test_the_rate_does_not_count_what_is_compiled_before_the_first_step(clock, capsys):
    with progress.Bar("teacher", 1000, unit="images") as bar:
        clock[0] += 60.0  # the first step compiles
        bar.update(10)
        clock[0] += 30.0
        bar.update(310)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "teacher  1%" and second == "teacher  31%  1:09 left  10 images/s"


def test_nothing_is_shown_that_is_not_to_be(clock, capsys):
    with progress.Bar("teacher", 10, unit="images", shown=False) as bar:
        clock[0] += 1000.0
        bar.update(5)
        bar.write("a line")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_redrawn_and_lines_stand_above(capsys, clock, monkeypatch):
    log = logging.Logger("test")
    log.addHandler(_Stderr())
    with terminal(monkeypatch) as screen, progress.Bar("teacher", 1000, unit="images") as bar:
        bar.update(0)
        clock[0] += 1.0
        bar.update(250, lambda: "loss [1]" + " and a term" * 20)
        bar.write("epoch 1  [a] " + 20 * "wide ")
        log.warning("a log line")
        print("a warning", file=sys.stderr)
    (written,) = screen
    assert "25%" in written and "250 images/s  loss [1]" in written and "\x1b[" in written
    lines = written.replace("\r", "\n").splitlines()
    for line in ("epoch 1  [a] " + (20 * "wide ").strip(), "a log line", "a warning"):
        assert line in [found.removeprefix("\x1b[2K").strip() for found in lines]
    assert capsys.readouterr().out == ""


def test_an_epochs_line_is_short_and_holds_what_every_method_has():
    logs = dict.fromkeys(["accuracy", "test_clean_accuracy", "test_robust_accuracy"], 0.5)
    logs |= {"loss": 12.3456, "images_per_second": 1234.5, "learning_rate": 0.1}
    logs |= dict.fromkeys(["cross_entropy", "adv_" * 9], 1.0)
    line = callbacks.epoch_line(7, 60, logs)
    assert len(line) <= 100
    expected = "epoch 7/60  loss 12.3  train 50.0%  test 50.0%  robust 50.0%  1,234 images/s"
    assert line == expected + "  cross_entropy 1"


def test_a_doubt_is_told_once_a_run(monkeypatch):
    lines = iter(["it took 1.0 points", "it took 2.5 points", "it is NaN", "it took 3.0 points"])

    def evaluate(*arguments, **keywords):
        warnings.warn(next(lines), RobustnessWarning, stacklevel=2)
        return types.SimpleNamespace(accuracy={"clean": 1.0, "fgsm": 0.5}, attacks=("fgsm",))

    monkeypatch.setattr(watching, "evaluate_robustness", evaluate)
    images = np.zeros((1, 8, 8, 1), np.float32)
    watch = watching.WatchAccuracy(
        images,
        np.zeros(1, int),
        threat_model=ThreatModel(),
        attack="fgsm",
        seed=0,
        measured=types.SimpleNamespace(take=lambda: None),
    )
    watch.set_model(
        types.SimpleNamespace(student=None, optimizer=types.SimpleNamespace(learning_rate=0.1))
    )
    with pytest.warns(RobustnessWarning) as told:
        for epoch in range(4):
            watch.on_epoch_begin(epoch)
            watch.on_epoch_end(epoch, {})
    assert [str(each.message) for each in told] == ["it took 1.0 points", "it is NaN"]
