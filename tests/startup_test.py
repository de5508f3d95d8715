"""What TensorFlow says as it starts: not on a command's terminal, unless something is wrong."""

import os
import subprocess
import sys

import pytest

# A module in TensorFlow's place, which says a line as C++ does and one as Python does.
FAKE = """
import os, sys
os.write(2, b"a native line\\n")
print("a line of Python", file=sys.stderr)
{then}
"""


def report(folder, *arguments):
    """`python -m tf_robust_transfer.report`, with the modules of a folder before all others."""
    return subprocess.run(
        [sys.executable, "-m", "tf_robust_transfer.report", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
    )


def test_nothing_is_said_where_all_is_well(tmp_path):
    process = report(tmp_path, "--help")
    assert process.returncode == 0 and process.stdout.startswith("  --runs=")
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("then", "code"), [("os.abort()", -6), ("raise ImportError('it is broken')", 2)]
)
def test_all_is_said_where_the_import_fails_or_the_process_dies(then, code, tmp_path):
    (tmp_path / "tensorflow.py").write_text(FAKE.format(then=then))
    process = report(tmp_path, "--help")
    assert process.returncode == code and process.stdout == ""
    lines = process.stderr.splitlines()
    assert lines[0] == "a line of Python" and lines[-1] == "a native line"
    assert code != 2 or lines[1].startswith("error: Keras cannot start: it is broken")


@pytest.mark.parametrize("seen", [True, False])
def test_all_is_said_where_a_gpu_is_not_seen(seen):
    """The functions alone, since no machine of ours has such a GPU."""
    code = f"""
import os, sys, types
sys.argv = ["rt-train"]
sys.modules["tf_robust_transfer"] = package = types.ModuleType("tf_robust_transfer")
package.__path__ = [{os.path.abspath("tf_robust_transfer")!r}]
from tf_robust_transfer import startup
found = ["GPU:0"] if {seen} else []
config = types.SimpleNamespace(list_physical_devices=lambda kind: found)
sys.modules["tensorflow"] = types.SimpleNamespace(config=config)
startup.has_nvidia_driver = lambda: True
startup.hold()
os.write(2, b"no libcudart\\n")
startup.release()
os.write(2, b"later\\n")
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = "" if seen else "no libcudart\n"
    assert (process.returncode, process.stderr) == (0, told + "later\n")
