"""scripts/*.sh in a copy of the repository, with a fake Python on PATH that records its calls; no
network, no pip.
"""

import json
import os
import pathlib
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import results
from tf_robust_transfer.reports.experiments import Experiment

ROOT = Path(__file__).resolve().parent.parent

# Writes its arguments, separated by tabs, to the file $CALLS. `-m venv` copies it into the new
# environment.
FAKE_PYTHON = r"""#!/usr/bin/env bash
(IFS=$'\t'; printf '%s\n' "$*") >> "$CALLS"
case "$*" in
  -c*) echo "${FAKE_VERSION:-3.11}" ;;
  "-m venv"*)
    [ -z "${FAKE_VENV_FAILS:-}" ] || exit 1
    folder="${!#}"
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python" ;;
  "-m pip install"*)
    [ -z "${FAKE_KILL:-}" ] || { kill -TERM "$(cat "$FAKE_KILL")"; sleep 0.2; }
    [ -z "${FAKE_PIP_FAILS:-}" ] || { echo "ERROR: no network"; exit 1; }
    echo "Collecting tensorflow" ;;
esac
"""


class Repository:
    """A copy of the scripts in a folder whose name holds a space, started from another folder."""

    def __init__(self, folder: Path):
        self.root = folder / "a repository"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.calls_file = folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("python3.11", "python3", "python3.12", "python3.13"):
            (self.bin / name).write_text(FAKE_PYTHON, encoding="utf-8")
            (self.bin / name).chmod(0o755)
        self.root.mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("pyproject.toml", "requirements.txt"):
            shutil.copy(ROOT / name, self.root)
        self.stamp = self.root / ".venv" / "installed"

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Starts scripts/SCRIPT with the fake Python first on PATH; the record of calls starts
        empty.
        """
        self.calls_file.write_text("", encoding="utf-8")
        inherited = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            ["bash", self.root / "scripts" / script, *arguments],
            cwd=self.elsewhere,
            env=inherited | {"CALLS": str(self.calls_file)} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        """The arguments of each call of the fake Python in the last run."""
        return [
            line.split("\t") for line in self.calls_file.read_text(encoding="utf-8").splitlines()
        ]

    def installs(self) -> list[str]:
        """What each `pip install` of the last run was told to install."""
        return [call[-1] for call in self.calls() if call[:3] == ["-m", "pip", "install"]]


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def test_first_start_installs_and_the_second_does_nothing(repository):
    first = repository.run("quickstart.sh")
    assert first.returncode == 0, first.stderr
    assert repository.installs() == ["."]
    assert first.stdout == ""  # progress goes to stderr, so that stdout holds the job's table only

    second = repository.run("quickstart.sh")
    assert second.returncode == 0
    assert repository.calls() == [["-m", "tf_robust_transfer.quickstart"]]
    assert second.stderr == ""


def test_arguments_with_spaces_go_through(repository):
    result = repository.run("quickstart.sh", "--run_dir=my runs", "--seed=3", "")
    assert result.returncode == 0, result.stderr
    assert repository.calls()[-1] == [
        "-m",
        "tf_robust_transfer.quickstart",
        "--run_dir=my runs",
        "--seed=3",
        "",
    ]


def test_the_test_environment_serves_the_quickstart_and_not_the_other_way_round(repository):
    repository.run("quickstart.sh")
    repository.run("test.sh")
    assert repository.installs() == [".[test,torch,hub]"]
    repository.run("quickstart.sh")
    assert repository.installs() == []
    repository.run("test.sh")
    assert repository.installs() == []


def test_changed_requirements_install_again_with_the_extras_of_before(repository):
    repository.run("test.sh")
    with (repository.root / "requirements.txt").open("a", encoding="utf-8") as stream:
        stream.write("tqdm<5\n")
    repository.run("quickstart.sh")
    assert repository.installs() == [".[test,torch,hub]"]
    repository.run("test.sh")
    assert repository.installs() == []


def test_a_moved_repository_installs_again(repository):
    repository.run("quickstart.sh")
    repository.root = repository.root.rename(repository.root.parent / "moved")
    repository.run("quickstart.sh")
    assert repository.installs() == ["."]


def test_failed_install_leaves_no_stamp_and_says_so(repository):
    failed = repository.run("quickstart.sh", FAKE_PIP_FAILS="1")
    assert failed.returncode == 1
    assert not repository.stamp.exists()
    assert "ERROR: no network" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("environment.sh: installing failed, see ")
    assert not any("tf_robust_transfer.quickstart" in call for call in repository.calls())

    assert repository.run("quickstart.sh").returncode == 0
    assert repository.installs() == ["."]


def test_failed_upgrade_takes_the_old_stamp_away(repository):
    repository.run("quickstart.sh")
    assert repository.stamp.exists()
    assert repository.run("test.sh", FAKE_PIP_FAILS="1").returncode == 1
    assert not repository.stamp.exists()


def test_interrupted_install_leaves_no_stamp(repository):
    wrapper = repository.root / "scripts" / "interrupted.sh"
    process_file = repository.elsewhere / "process"
    wrapper.write_text(
        'echo $$ > "$FAKE_KILL"\nexec bash "${0%/*}/quickstart.sh"\n', encoding="utf-8"
    )
    assert repository.run("interrupted.sh", FAKE_KILL=str(process_file)).returncode != 0
    assert len(repository.installs()) == 1
    assert not repository.stamp.exists()


def test_half_made_venv_is_made_again(repository):
    python = repository.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # "No module named pip"
    python.chmod(0o755)
    assert repository.run("quickstart.sh").returncode == 0
    assert ["-m", "venv", "--clear", str(repository.root / ".venv")] in repository.calls()


def test_failing_venv_module_is_reported(repository):
    result = repository.run("quickstart.sh", FAKE_VENV_FAILS="1")
    assert result.returncode == 1
    assert "could not make .venv" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "unset unset"),
        ({"PYTHONDONTWRITEBYTECODE": "1"}, "unset ROOT/.venv/bytecode"),
        ({"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/elsewhere"}, "unset /elsewhere"),
    ],
)
def test_bytecode_is_kept_and_where_it_is_not_wanted_kept_in_the_environment(
    repository, environment, expected
):
    script = (
        'source "${0%/*}/environment.sh"\necho "${PYTHONDONTWRITEBYTECODE-unset} '
        '${PYTHONPYCACHEPREFIX-unset}"\n'
    )
    (repository.root / "scripts" / "show.sh").write_text(script, encoding="utf-8")
    shown = repository.run("show.sh", **environment).stdout.strip()
    assert shown == expected.replace("ROOT", str(repository.root))


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_unsupported_python_is_one_line_and_exit_code_2(repository, version):
    result = repository.run("quickstart.sh", FAKE_VERSION=version)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "needs Python 3.11, 3.12 or 3.13" in line
    assert version in line
    assert not (repository.root / ".venv").exists()


@pytest.mark.parametrize("arguments", [["-n", "4"], ["-n0"], ["--numprocesses=2"], ["-x", "--pdb"]])
def test_test_sh_leaves_the_number_of_processes_to_the_caller(repository, arguments):
    assert repository.run("test.sh", *arguments).returncode == 0
    assert repository.calls()[-1] == ["-m", "pytest", "--durations=10", *arguments]


def test_test_sh_runs_two_processes_by_default(repository):
    assert repository.run("test.sh", "-k", "ball or bounds", "--no-header").returncode == 0
    assert repository.calls()[-1][3:] == [
        "-n",
        "2",
        "--dist",
        "worksteal",
        "-k",
        "ball or bounds",
        "--no-header",
    ]


class TestResults:
    """The order in which scripts/results.py trains and attacks."""

    @pytest.fixture
    def rows(self):
        made = lambda group, name, *needs: Experiment(group, name, name, needs=needs)
        teachers = {"finetuned": made("teachers", "finetuned", "teacher")}
        teachers["teacher"] = made("teachers", "teacher")
        return made("some", "natural"), made("some", "student", "finetuned"), teachers

    def test_students_wait_for_trainings_alone(self, rows):
        natural, student, teachers = rows
        after = results.planned([(student, 0), (natural, 0)], teachers)
        first, second = (
            results.Task(teachers[name], 0, train_only=True) for name in ("finetuned", "teacher")
        )
        assert [(task.row.name, task.train_only) for task in after] == [
            ("finetuned", True), ("teacher", True), ("finetuned", False), ("teacher", False),
            ("student", False), ("natural", False),
        ]  # fmt: skip
        assert after[first] == {second} and after[second] == set()
        assert after[results.Task(student, 0)] == {first}
        assert after[results.Task(natural, 0)] == set()

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            (("--noise=0",), ["--noise=0", "--teacher=RUNS/seed2/teacher"]),
            (("--initial_model={needed[0]}",), ["--initial_model=RUNS/seed2/teacher"]),
        ],
    )
    def test_a_row_starts_from_what_it_needs(self, overrides, expected, tmp_path, monkeypatch):
        row = Experiment("some", "row", "row", "a.flags", overrides, needs=("teacher",))
        calls = []
        monkeypatch.setattr(
            results.Runner, "_run", lambda self, *arguments: calls.append(arguments)
        )
        results.Runner(tmp_path, tmp_path, []).trained(row, 2)
        ((_, _, flag_file, *flags),) = calls
        expected = [flag.replace("RUNS", str(tmp_path)) for flag in expected]
        assert flag_file == "--flagfile=a.flags" and flags[: len(expected)] == expected
        assert not [flag for flag in flags[len(expected) :] if "teacher" in flag]

    def test_figures_of_another_network_go_with_its_flags(self, tmp_path):
        record, folder = tmp_path / "record", tmp_path / "runs" / "seed0" / "row"
        folder.mkdir(parents=True)

        def keep(epochs, run_dir):
            text = f"--epochs={epochs}\n--run_dir={run_dir}\n--data_dir={tmp_path}\n"
            (folder / "flags.txt").write_text(text)
            results.Runner(tmp_path / "runs", tmp_path, [])._keep_flags(record, folder)
            return sorted(file.name for file in record.iterdir())

        assert keep(10, folder) == ["flags.txt"]
        assert (record / "flags.txt").read_text() == (
            "--epochs=10\n--run_dir=runs/results/seed0/row\n--data_dir=\n"
        )
        for name in ("results.json", "results_train.json"):
            (record / name).write_text("{}")
        both = ["flags.txt", "results.json", "results_train.json"]
        assert keep(10, folder) == both and keep(10, "runs/elsewhere") == both
        assert keep(13, folder) == ["flags.txt"]

    def test_a_row_is_attacked_anew_where_its_attacks_are_others(self, tmp_path, monkeypatch):
        """An old evaluation stood in the run folder, and became the record of the new ones."""
        folder, record = tmp_path / "runs" / "seed0" / "row", tmp_path / "record"
        folder.mkdir(parents=True)
        (folder / "flags.txt").write_text("--dataset=digits\n--image_size=\n--eps=0.1\n")
        (folder / "results.json").write_text("{}")

        def attack(self, name, command, *arguments):
            output = next(a for a in arguments if a.startswith("--output=")).partition("=")[2]
            accuracy = {next(a for a in arguments if a.startswith("--attacks=")): 0.5}
            pathlib.Path(output).write_text(json.dumps({"accuracy": accuracy}))

        monkeypatch.setattr(results.Runner, "_run", attack)
        record.mkdir()
        for attacks in ("--attacks=fgsm", "--attacks=pgd20"):
            runner = results.Runner(tmp_path / "runs", tmp_path, [])
            said = runner._evaluate("row", record, [attacks], "results.json", 0)
            assert said == f"{record}: {attacks} 50.0"
            (record / "results.json").unlink()

    def test_one_that_fails_leaves_those_that_do_not_need_it(self, rows, monkeypatch, capsys):
        natural, student, teachers = rows
        taken = []

        def work(task, runner):
            taken.append((task.row.name, task.train_only))
            if task.row.name == "finetuned":
                raise RuntimeError("it died")
            return task.row.name

        monkeypatch.setattr(results, "in_a_process", work)
        after = results.planned([(student, 0), (natural, 0)], teachers)
        # The training of finetuned, and what waits for it: its attack and the student.
        assert results.run(after, 1, ()) == 3
        assert taken == [
            ("teacher", True), ("finetuned", True), ("teacher", False), ("natural", False)
        ]  # fmt: skip
        assert capsys.readouterr().err == "finetuned: it died\n"
