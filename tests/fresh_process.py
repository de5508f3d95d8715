"""Python code in a process of its own, for what has to be done before TensorFlow starts, or to a
process that dies.

Forked from a server that has imported TensorFlow and not used it: the import, by far the slowest
part, is paid once."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tf_robust_transfer.runs", "tests.fresh_process"])


def run(code: str, *arguments) -> subprocess.CompletedProcess:
    """Runs the code as `python -c CODE ARGUMENTS` would, here and without a GPU; what it prints is
    in the result.
    """
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _context.Process(target=_run, args=(code, arguments, os.getcwd(), *paths))
        process.start()
        process.join(timeout=600)
        if process.is_alive():
            process.kill()
            raise TimeoutError("still running after 600 seconds")
        return subprocess.CompletedProcess(
            arguments, process.exitcode, *(path.read_text() for path in paths)
        )


def run_module(module: str, *arguments) -> subprocess.CompletedProcess:
    """As `python -m MODULE ARGUMENTS`."""
    return run(f"import runpy\nrunpy.run_module({module!r}, run_name='__main__')", *arguments)


def _run(code, arguments, folder, *paths):
    for number, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    sys.argv[1:] = arguments
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
