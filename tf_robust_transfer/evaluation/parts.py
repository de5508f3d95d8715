"""An evaluation in parts: part i of n attacks every n-th example, from the i-th on.

What an example meets depends on the seed and its index alone (`attacks.search`), so that the parts
find what an evaluation in one piece finds. Each is a `State` in a file beside the results, which a
part that was killed goes on from; `merge` makes one of them all.
"""

import pathlib
import re

import numpy as np

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.state import State
from tf_robust_transfer.files import path_of


def part_of(text: str) -> tuple[int, int] | None:
    """(i, n) of "i/n", i in [0, n); None of ""."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(f"expected I/N such as 0/2, with I from 0 to N-1, got {text!r}")
    return int(found[1]), int(found[2])


def part_path(output, part: tuple[int, int]) -> pathlib.Path:
    """The file of a part, beside the results of the whole."""
    return path_of(f"{output}.part{part[0]}of{part[1]}.npz")


def paths_beside(output) -> list[pathlib.Path]:
    """The files of all parts, in their order.

    Raises:
        InputError: there are none, one is missing, or there are those of two divisions.
    """
    output = path_of(output)
    pattern = re.compile(re.escape(output.name) + r"\.part(\d+)of(\d+)\.npz")
    found = [
        m for path in output.absolute().parent.iterdir() if (m := pattern.fullmatch(path.name))
    ]
    counts = sorted({int(match[2]) for match in found})
    if not counts:
        raise InputError(
            f"there are no parts of {str(output)!r}; run evaluate --part=0/N and so on"
        )
    if len(counts) > 1:
        raise InputError(
            f"beside {str(output)!r} are parts of {counts[0]} and parts of {counts[1]}; remove "
            "those that do not belong to it"
        )
    paths = [part_path(output, (i, counts[0])) for i in range(counts[0])]
    for i, path in enumerate(paths):
        if not path.exists():
            raise InputError(
                f"part {i}/{counts[0]} is missing: run evaluate --part={i}/{counts[0]}"
            )
    return paths


def examples_of(part: tuple[int, int] | None, num_examples: int) -> np.ndarray:
    """Which examples a part has, bool [num_examples]; None: all. Every n-th, so that all parts are
    about equally hard.

    Raises:
        InputError: no part (i, n) with i in [0, n), or more parts than examples, so that one is
            empty.
    """
    index, count = part or (0, 1)
    if not 0 <= index < count <= num_examples:
        raise InputError(
            f"part {index}/{count}: expected I/N with I from 0 to N-1, and N at most "
            f"{num_examples}, the number of examples; give fewer parts, or evaluate in one piece"
        )
    return np.arange(num_examples) % count == index


def merge(paths, whole: State, labels: list[str], identity_of, logits) -> None:
    """Fills in the state of the whole evaluation from the parts', but for the warnings.

    Args:
        paths: the files of the parts, in their order.
        whole: an empty state.
        labels: what the attacks are called in it.
        identity_of: (i, n) -> the identity of a part.
        logits: of `State`.

    Raises:
        InputError: a part of another evaluation, or one that is not finished.
    """
    count = len(paths)
    parts = [State(path, identity_of((i, count)), logits) for i, path in enumerate(paths)]
    for i, part in enumerate(parts):
        if not set(labels) <= set(part.values.get("finished", {})):
            raise InputError(f"part {i}/{count} is not finished: run evaluate --part={i}/{count}")
    for name, array in parts[0].arrays.items():
        if name.startswith("fooled_at/"):
            whole.arrays[name] = np.concatenate([part.arrays[name] for part in parts])
            continue
        whole.arrays[name] = array.copy()
        for i, part in enumerate(parts[1:], start=1):
            own = examples_of((i, count), len(array))
            whole.arrays[name][own] = part.arrays[name][own]
    num_examples = len(whole.arrays["correct/clean"])
    whole.values["finished"] = {}
    for label in labels:
        found = [part.values["finished"][label] for part in parts]
        # Shares of all examples, each of whole ones.
        after = {
            component: sum(round(f["components"][component] * num_examples) for f in found)
            / num_examples
            for component in found[0]["components"]
        }
        seconds = sum(f["seconds"] for f in found)
        whole.values["finished"][label] = {"seconds": seconds, "components": after, "warnings": []}
