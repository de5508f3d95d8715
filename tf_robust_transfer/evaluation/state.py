"""An evaluation on disk: what is decided, and the search in work, so that a killed evaluation goes
on where it was.
"""

import json
import time
import zipfile

import numpy as np

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import check_unpacked, path_of, replacing

SECONDS_BETWEEN_WRITES = 20.0


class State:
    """Arrays and numbers of an evaluation, written now and then to one .npz file.

    Args:
        path: the file; None: nothing is written.
        identity: what the evaluation is of, str -> str; a file that was written for another one is
            refused.
        logits: float [images, classes] of some of its images: of another function of the same
            weights (another normalisation, say) a file is refused as well. A device's rounding may
            differ.

    Attributes:
        values: JSON-serialisable values by name.
        arrays: NumPy arrays by name.

    Raises:
        InputError: the file is none of ours, or belongs to another evaluation.
    """

    def __init__(self, path, identity: dict[str, str], logits=None):
        self.path = path_of(path) if path else None
        self.identity, self.logits = identity, logits
        self.values, self.arrays = {}, {}
        self._written = time.monotonic()
        if self.path and self.path.exists():
            self._read()

    def _read(self):
        try:
            with zipfile.ZipFile(self.path) as archive:
                check_unpacked(self.path, archive)
            with np.load(self.path, allow_pickle=False) as stored:
                self.arrays = {name: stored[name] for name in stored.files}
            header = json.loads(str(self.arrays.pop("header")))
            identity, self.values = header["identity"], header["values"]
            self._check()
            identity.items()
            same_function = self._gives(header.get("logits"))
        except InputError:
            raise
        # Whatever a damaged file makes of itself.
        except Exception as error:
            raise InputError(
                f"{str(self.path)!r} is no state of an evaluation; remove it or name another file"
            ) from error
        different = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if not same_function and "model" not in different:
            different.insert(0, "model")
        if different:
            raise InputError(
                f"the state {str(self.path)!r} belongs to an evaluation with another "
                f"{', '.join(different)}; remove it or name another file"
            )

    def _gives(self, logits) -> bool:
        """Whether the model has the logits of the file, to rounding."""
        if self.logits is None or logits is None:
            return True
        logits = np.asarray(logits, float)
        near = 0.02 * np.max(np.abs(logits), initial=0.0, where=np.isfinite(logits))
        return np.allclose(self.logits, logits, rtol=0, atol=near, equal_nan=True)

    def _check(self):
        """Raises a ValueError or a KeyError where the values and the arrays are not ours."""
        parts = {"seconds": (int, float), "components": dict, "warnings": list}
        finished = self.values.get("finished", {})
        running = [self.values["running"]] if "running" in self.values else []
        for entry in (*finished.values(), *running):
            if not all(isinstance(entry[name], kind) for name, kind in parts.items()):
                raise ValueError
        known = {self.arrays[f"correct/{label}"].shape for label in finished}
        if running:
            known.add(self.arrays["running/resists"].shape)
        if len(known) > 1 or any(len(shape) != 1 for shape in known):
            raise ValueError

    def write(self, arrays=None, *, now=True) -> None:
        """Writes everything, whole or not at all.

        arrays: a function that returns further arrays, called only when it is time; now: False
        writes only where the last write is some time ago."""
        if self.path is None or not (
            now or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES
        ):
            return
        header = {"identity": self.identity, "values": self.values}
        if self.logits is not None:
            header["logits"] = self.logits.tolist()
        header = json.dumps(header)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(header), **self.arrays, **(arrays() if arrays else {}))
        self._written = time.monotonic()
