"""Prints the table of run folders: python -m tf_robust_transfer.report --runs=runs/quickstart

or a paper's table with what was measured beside it, --table=igam_table1; --write=docs fills the
results pages from their records."""

import dataclasses
import json
import sys

from tf_robust_transfer.command import run_command
from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.files import path_of
from tf_robust_transfer.flag_types import boolean
from tf_robust_transfer.options import Options, one_of, option
from tf_robust_transfer.reports.pages import write_pages
from tf_robust_transfer.reports.papers import paper_table, robustbench_entries
from tf_robust_transfer.reports.records import records
from tf_robust_transfer.reports.table import FORMATS, files
from tf_robust_transfer.runs.folder import RESULTS, run_folders

_RUNS = "runs"


@dataclasses.dataclass(frozen=True)
class ReportConfig(Options):
    """Flags of `report`."""

    runs: str = option(_RUNS, "a run folder, or a folder of run folders")
    robustbench: bool = option(
        "false", "print RobustBench's JSON entry of each result with AutoAttack instead", boolean
    )
    table: str = option(
        "",
        "print this table of a paper instead, such as igam_table1, our columns beside the paper's",
    )
    format: str = option(
        "text",
        "text or markdown: a table for each data set and threat model; csv or json: a line or an "
        "object for each figure",
        **one_of(*FORMATS),
    )
    write: str = option(
        "", "fill the tables and figures of the pages in this folder from its results/records"
    )


def run(config: ReportConfig) -> None:
    if config.write:
        with of_flag("write"):
            for page in write_pages(path_of(config.write)):
                sys.stdout.write(f"written: {page}\n")
        return
    if config.format != "text" and (config.table or config.robustbench):
        raise InputError(
            f"--format={config.format} is of the table of runs: leave it out beside --table and "
            "--robustbench, which have a form of their own"
        )
    with of_flag("runs"):
        folders = run_folders(config.runs)
    if config.table and (config.runs == _RUNS or path_of(config.runs).is_dir()):
        sys.stdout.write(paper_table(config.table, folders))
        return
    if not folders:
        raise InputError(
            f"--runs: no {RESULTS} in {config.runs!r} or below; give a run folder, or train first"
        )
    if config.robustbench:
        sys.stdout.write(json.dumps(robustbench_entries(folders), indent=2) + "\n")
    else:
        found = records(folders)
        sys.stdout.write(FORMATS[config.format](found))
        if config.format == "text":
            sys.stdout.write(files(found))


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, ReportConfig, argv)


if __name__ == "__main__":
    main()
