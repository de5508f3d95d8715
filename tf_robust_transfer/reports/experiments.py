"""The rows of the results pages as data: docs/results/rows/*.toml."""

import dataclasses
import pathlib
import tomllib

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.reports.records import Record, records


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """One network: how it is trained, what attacks it, where its records lie.

    Attributes:
        group: the folder of its records.
        name: of its records and run folder.
        label: what tables call it.
        flag_file: from the root of the repository; empty for a row that is not run any more.
        overrides: flags that win over the file's.
        evaluations: results file -> flags of `evaluate`.
        seeds: that it is run with.
        needs: rows of the group "teachers" whose networks it starts from: as its teacher, or as
            what an override says of "{needed[0]}".
    """

    group: str
    name: str
    label: str
    flag_file: str = ""
    overrides: tuple[str, ...] = ()
    evaluations: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    needs: tuple[str, ...] = ()

    def folder(self, root: pathlib.Path, seed: int) -> pathlib.Path:
        """Where the record of a seed lies, below the folder of all records."""
        return root / self.group / f"seed{seed}" / self.name

    def records(self, root: pathlib.Path) -> tuple[Record, ...]:
        """What was measured, by seed; empty where nothing was."""
        folders = root.glob(f"{self.group}/seed*/{self.name}")
        found = records(sorted(folders))
        return tuple(sorted(found, key=lambda record: record.seed))


def read_experiments(path) -> dict[str, Experiment]:
    """The rows of one TOML file, by name.

    The file's own keys are the fields of `Experiment` that its rows share; each table of `rows` has
    those of one row.

    Raises:
        InputError: a key that is no field, or text that is no TOML.
    """
    path = pathlib.Path(path)
    try:
        data = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{str(path)!r} is no TOML: {error}") from None
    rows = data.pop("rows", {})
    shared = {"group": path.stem} | data
    known = {field.name for field in dataclasses.fields(Experiment)} - {"name"}
    found = {}
    for name, row in rows.items():
        fields = {"label": name} | shared | row
        for key in fields:
            if key not in known:
                raise InputError(f"{str(path)!r}: unknown key {key!r}; {nearest(key, known)}")
        for key in ("overrides", "seeds", "needs"):
            fields[key] = tuple(fields.get(key, getattr(Experiment, key, ())))
        fields["evaluations"] = {
            file: tuple(flags) for file, flags in fields.get("evaluations", {}).items()
        }
        found[name] = Experiment(name=name, **fields)
    return found


def all_experiments(folder) -> dict[str, dict[str, Experiment]]:
    """Those of every file of a folder, by the file's name without its ending."""
    return {
        path.stem: read_experiments(path) for path in sorted(pathlib.Path(folder).glob("*.toml"))
    }
