"""Prints the table of run folders: python -m tf_robust_transfer.report --runs=runs/quickstart

or a paper's table with what was measured beside it: python -m tf_robust_transfer.report
--table=igam_table1"""

import dataclasses
import json
import sys

from tf_robust_transfer.command import run_command
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import boolean
from tf_robust_transfer.options import Options, option
from tf_robust_transfer.reports.table import paper_table, robustbench_entries, show
from tf_robust_transfer.runs.folder import RESULTS, run_folders


@dataclasses.dataclass(frozen=True)
class ReportConfig(Options):
    """Flags of `report`."""

    runs: str = option("runs", "a run folder, or a folder of run folders")
    robustbench: bool = option(
        "false", "print RobustBench's JSON entry of each result with AutoAttack instead", boolean
    )
    table: str = option(
        "",
        "print this table of a paper instead, such as igam_table1, our columns beside the paper's",
    )


def run(config: ReportConfig) -> None:
    folders = run_folders(config.runs)
    if config.table:
        sys.stdout.write(paper_table(config.table, folders))
        return
    if not folders:
        raise InputError(
            f"no {RESULTS} in {config.runs!r} or below; give a run folder, or train first"
        )
    if config.robustbench:
        sys.stdout.write(json.dumps(robustbench_entries(folders), indent=2) + "\n")
    else:
        show(folders)


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, ReportConfig, argv)


if __name__ == "__main__":
    main()
