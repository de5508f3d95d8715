"""How every command starts and ends: flags, log lines, exit codes."""

import errno
import logging
import os
import signal
import sys
import warnings

import tensorflow as tf

from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError, LostWorkerError
from tf_robust_transfer.evaluation import RobustnessWarning
from tf_robust_transfer.models.settings import check_settings, require_tensorflow
from tf_robust_transfer.runs import device
from tf_robust_transfer.runs.strategy import tell_others

_LONGEST = 2000  # characters of an error
_FULL = {errno.ENOSPC, errno.EDQUOT}  # a disk
# What a path of the user's meets, wherever it is read: rights, a name that is too long.
_OF_A_PATH = _FULL | {
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EROFS,
}  # fmt: skip


def run_command(run, config_class, arguments=None) -> None:
    """Parses arguments, by default the command line's, into config_class and calls run(config).

    Exit codes: 0 done; 2 bad input or too little memory, with one line on stderr; 1 a lost worker,
    with one line, and anything unforeseen, with its traceback; 143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Stderr()])
    logging.getLogger("tf_robust_transfer").setLevel(logging.INFO)
    # Each attack on each model is a function of its own, which TensorFlow takes for one function
    # traced again and again.
    tf.get_logger().setLevel(logging.ERROR)
    warnings.simplefilter("always", RobustnessWarning)
    warnings.showwarning = _show_warning
    try:
        require_tensorflow("the commands")
        check_settings()
        config = parse(config_class, arguments)
        _tell_unused(config)
        device.prepare()
        try:
            run(config)
            sys.stdout.flush()
        except tf.errors.ResourceExhaustedError as error:
            if not device.is_out_of_memory(error):
                raise
            raise InputError(device.out_of_memory(config)) from error
        except MemoryError as error:
            raise InputError(
                f"the memory of this machine is too small ({error}); fewer images "
                "(--max_examples, --train_fraction) or smaller ones (--image_size) need less"
            ) from error
    except InputError as error:
        _end_with(error, arguments)
    except LostWorkerError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read the output has had enough (`| head`); nothing is to be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in _FULL and error.filename is None:  # of what is printed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _end_with(InputError(f"the output cannot be written: {error.strerror}"), arguments)
        if error.errno not in _OF_A_PATH or error.filename is None:
            raise
        _end_with(InputError(f"{str(error.filename)!r}: {error.strerror}"), arguments)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; start the same command again to go on\n")
        sys.exit(130)


def _end_with(error, arguments):
    """One line, which the other workers of the training are told too."""
    sys.stderr.write(f"error: {_a_line(str(error))}\n")
    tell_others(arguments, error)
    sys.exit(2)


def _tell_unused(config):
    """A line for each flag of every command that has no effect on this one."""
    strategy = getattr(config, "distribution_strategy", "auto")
    unused = {"distribution_strategy": strategy not in getattr(config, "strategies", (strategy,))}
    unused["run_dir"] = bool(getattr(config, "run_dir", "")) and not getattr(
        config, "writes_run_folders", True
    )
    for name in (name for name, told in unused.items() if told):
        logging.getLogger("tf_robust_transfer").warning(
            "--%s=%s has no effect on this command", name, getattr(config, name)
        )


class _Stderr(logging.StreamHandler):
    """To what is stderr at the time, which a line that is redrawn takes over while it stands."""

    def emit(self, record):
        self.stream = sys.stderr
        super().emit(record)


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
