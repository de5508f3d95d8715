"""What the sections found, as JSON, and as lines."""

import dataclasses
import json
import pathlib
import sys
import time


@dataclasses.dataclass
class Record:
    """The counts of one section.

    Attributes:
        section: its name.
        seed: of its moments and damages.
        counts: what was tried -> {"tried": n, "right": n, further figures}.
        failures: a line for each thing that went wrong.
        figures: numbers that are no counts.
        path: of the record of all sections, written after each trial; None: there is none.
        finished: whether the section came to its end.
    """

    section: str
    seed: int
    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    figures: dict[str, object] = dataclasses.field(default_factory=dict)
    started: float = dataclasses.field(default_factory=time.monotonic)
    seconds: float = 0.0
    path: pathlib.Path | None = None
    finished: bool = False

    def add(self, what: str, problem: str = "", **more: int) -> None:
        """Counts one trial; problem: what went wrong, "" where nothing did."""
        counts = self.counts.setdefault(what, {"tried": 0, "right": 0})
        counts["tried"] += 1
        counts["right"] += not problem
        for name, number in more.items():
            counts[name] = counts.get(name, 0) + number
        if problem:
            self.failures.append(f"{what}: {problem}")
            sys.stdout.write(f"FAILED {self.failures[-1]}\n")
        self.seconds = time.monotonic() - self.started
        self.write()
        sys.stdout.flush()

    def write(self) -> None:
        """Into the record of all sections, if there is one, in place of this section's last."""
        if self.path is None:
            return
        everything = json.loads(self.path.read_text()) if self.path.exists() else {}
        everything[self.section] = {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "finished": self.finished,
            "counts": self.counts,
            "failures": self.failures,
            "figures": self.figures,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(everything, indent=1) + "\n")

    def finish(self) -> None:
        """Writes what was found, and prints it."""
        self.finished = True
        self.seconds = time.monotonic() - self.started
        self.write()
        for what, counts in self.counts.items():
            more = "".join(
                f", {number} {name}"
                for name, number in counts.items()
                if name not in ("tried", "right")
            )
            sys.stdout.write(
                f"{self.section}: {what}: {counts['right']} of {counts['tried']} right{more}\n"
            )
        for name, value in self.figures.items():
            sys.stdout.write(f"{self.section}: {name}: {value}\n")
        sys.stdout.flush()
