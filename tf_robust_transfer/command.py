"""How every command starts and ends: flags, log lines, exit codes."""

import logging
import sys
import warnings

import tensorflow as tf

from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import RobustnessWarning
from tf_robust_transfer.models.settings import check_settings, require_tensorflow

_LONGEST = 2000  # characters of an error


def run_command(run, config_class, arguments=None) -> None:
    """Parses arguments, by default the command line's, into config_class and calls run(config).

    Exit codes: 0 done; 2 bad input, with one line on stderr; 1 anything unforeseen, with its
    traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tf_robust_transfer").setLevel(logging.INFO)
    # Each attack on each model is a function of its own, which TensorFlow takes for one function
    # traced again and again.
    tf.get_logger().setLevel(logging.ERROR)
    warnings.simplefilter("always", RobustnessWarning)
    warnings.showwarning = _show_warning
    try:
        require_tensorflow("the commands")
        check_settings()
        run(parse(config_class, sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        sys.stderr.write(f"error: {_a_line(str(error))}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; start the same command again to go on\n")
        sys.exit(130)


def _a_line(text: str) -> str:
    """Text without line breaks and control characters, and not without end."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _show_warning(message, category, filename, lineno, file=None, line=None):
    """Our own warnings as a line for people; the others as Python shows them."""
    if issubclass(category, RobustnessWarning):
        sys.stderr.write(f"warning: {message}\n")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
