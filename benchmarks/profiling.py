"""Where a function's time goes, by kind of operation, from the trace of TensorFlow's own profiler.

Read it with one thread (--threads=1): the shares of operations that run at the same time add up to
more than the clock."""

import collections
import pathlib
import re
import tempfile
import time

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# What multiplies and adds most: what two implementations of one attack share, whatever else they
# do.
CONTRACTIONS = ("Conv", "MatMul")
# TensorFlow's operations are NODE:KIND in the trace; ExecutorState::Process and its like are not
# operations.
_OPERATION = re.compile(r"[^:]+:\w+(#|$)")


def time_by_operation(function) -> tuple[float, dict[str, float], dict[str, int]]:
    """Runs the function, which should have been compiled by a run before, under the profiler.

    Returns:
        (seconds on the clock, kind of operation -> seconds of its own, kind -> how often it ran).
        An operation that contains others, such as a loop, counts for itself alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(
            folder,
            tf.profiler.experimental.ProfilerOptions(host_tracer_level=3, python_tracer_level=0),
        )
        start = time.perf_counter()
        function()
        clock = time.perf_counter() - start
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(pathlib.Path(folder).rglob("*.xplane.pb")).read_bytes())
    seconds, count = collections.Counter(), collections.Counter()
    for plane in space.planes:
        if "CPU" not in plane.name and "GPU" not in plane.name:
            continue
        for line in plane.lines:
            _add_own_times(line.events, plane.event_metadata, seconds, count)
    return clock, seconds, count


def _add_own_times(events, metadata, seconds, count):
    open_events = []  # (end, kind) of what contains the next event
    for event in sorted(events, key=lambda event: (event.offset_ps, -event.duration_ps)):
        name = metadata[event.metadata_id].name
        if not _OPERATION.match(name):
            continue
        kind = name.rsplit(":", 1)[1].split("#")[0]
        while open_events and open_events[-1][0] <= event.offset_ps:
            open_events.pop()
        if open_events:
            seconds[open_events[-1][1]] -= event.duration_ps / 1e12
        seconds[kind] += event.duration_ps / 1e12
        count[kind] += 1
        open_events.append((event.offset_ps + event.duration_ps, kind))


def print_profile(name: str, function, shown: int = 8) -> None:
    """Prints the function's time in convolutions and matrix products, in its other operations, and
    outside of them.
    """
    clock, seconds, count = time_by_operation(function)
    inside = sum(seconds.values())
    heavy = sum(
        value for kind, value in seconds.items() if any(part in kind for part in CONTRACTIONS)
    )
    print(
        f"{name}: {1000 * clock:.1f} ms: convolutions and matrix products {heavy / clock:.1%}, "
        f"other operations {(inside - heavy) / clock:.1%}, outside of operations "
        f"{1 - inside / clock:.1%}"
    )
    for kind, value in sorted(seconds.items(), key=lambda item: -item[1])[:shown]:
        print(f"    {kind:<40} {1000 * value:9.1f} ms {value / clock:6.1%} {count[kind]:8d} times")
    print(flush=True)
