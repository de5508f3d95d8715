"""Kills, disk, bad files, fuzzing, load: python -m scripts.torture.sections kills disk ...

Prints counts, writes them into a JSON record, and ends with 1 where anything went wrong. With all
sections it takes up to 90 minutes on two cores; --quick, a part of each, up to one."""

import argparse
import importlib
import os
import pathlib
import shutil
import sys
import tempfile

_RECORD = "docs/results/torture.json"
NAMES = ("kills", "disk", "bad_files", "fuzz", "load")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a part of each, in a minute")
    parser.add_argument("--record", default="", help="JSON file; with --quick none by default")
    parser.add_argument("--keep", default="", help="an empty folder to work in, which is kept")
    options = parser.parse_args()
    unknown = {*options.sections} - {*NAMES}
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; there are {', '.join(NAMES)}")
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    from scripts.torture import page
    from scripts.torture.record import Record

    folder = pathlib.Path(options.keep or tempfile.mkdtemp(prefix="torture")).absolute()
    path = options.record or ("" if options.quick else _RECORD)
    failures = 0
    try:
        for name in options.sections or NAMES:
            record = Record(name, options.seed, path=pathlib.Path(path) if path else None)
            section = importlib.import_module(f"scripts.torture.{name}")
            section.run(record, folder / name, options.seed, options.quick)
            record.finish()
            failures += len(record.failures)
            if path == _RECORD:
                page.write(pathlib.Path(path))
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(f"{failures} failures\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
