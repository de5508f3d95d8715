"""An evaluation in work: what `evaluate_robustness` goes through, one attack after the other."""

import hashlib
import time
import zlib

import keras
import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.autoattack import fewer_classes
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.names import full_name
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.evaluation import checks
from tf_robust_transfer.evaluation.parts import examples_of, merge
from tf_robust_transfer.evaluation.result import RobustnessResult, WorstCase, clopper_pearson
from tf_robust_transfer.inference.faster_copy import FasterCopy
from tf_robust_transfer.inference.kept import kept
from tf_robust_transfer.progress import Bar

# Images that the checks of the model look at.
CHECKED = 64

_NO_ATTACK = Attack()


def _digest(arrays) -> str:
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


class Evaluation:
    """The examples, and what is done about them. What is decided stands in `state`, which may be on
    disk.
    """

    kept = None
    precision = "float32"

    def __init__(self, model, images, labels, threat_models, seed, batch_size, progress):
        self.model, self.images, self.labels = model, images, labels
        # One for each radius, the largest last; they differ in nothing else.
        self.threat_models, self.threat_model = threat_models, threat_models[-1]
        self.seed, self.batch_size, self.progress = seed, batch_size, progress
        self._copies = {}
        self.take(None)

    def take(self, part):
        """Attacks this part, (i, n), alone; None: all."""
        self.part, self.own = part, examples_of(part, len(self.labels))

    def merge(self, paths, attacks, identity_of, logits):
        """Takes over what the parts have found. attacks: by name, without "clean"."""
        labels = {
            self._label(name, at): (name, attack)
            for name, attack in attacks.items()
            for at in self.threat_models
        }
        merge(paths, self.state, ["clean", *labels], identity_of, logits)
        for label, (name, attack) in labels.items():
            finished, components = self.state.values["finished"][label], self._components(attack)
            for component, part in components.items():
                fooled_at = self.state.arrays[f"fooled_at/{label}/{component}"]
                finished["warnings"] += self._of_progress(name, component, part, fooled_at)
            finished["warnings"] += self._of_components(name, components, finished["components"])

    def identity(self, attacks, keep_adversarial):
        """What a state has to be of, so that going on with it gives what an evaluation in one piece
        gives. attacks: by name, without "clean".
        """
        named = ["clean", *(f"{name}: {full_name(attack)}" for name, attack in attacks.items())]
        return {
            "model": _digest(self.model.get_weights()),
            "set of examples": _digest([self.images, self.labels]),
            "threat model": ", ".join(map(repr, self.threat_models)),
            "list of attacks and their options": ", ".join(named),
            "seed": str(self.seed),
            "batch size": str(self.batch_size),
            "precision": self._copy(self.precision).precision,
            "choice of what is kept": str(keep_adversarial),
        }

    def some_logits(self):
        """The model's logits of the first images, since it may be another one of the same weights;
        None of a random one, which tells nothing by them.
        """
        once, again = (
            keras.ops.convert_to_numpy(self.model(self.images[:8], training=False))
            for _ in range(2)
        )
        return once if np.allclose(once, again, rtol=1e-3, atol=1e-5, equal_nan=True) else None

    def _search(self, attack, threat_model=None):
        precision = self.precision if attack.uses_gradients else "float32"
        return Search(
            attack,
            self.model,
            threat_model or self.threat_model,
            batch_size=self.batch_size,
            logits_of=self._copy(precision),
            keep_images=self.kept is not None,
        )

    def _copy(self, precision):
        """A `FasterCopy` with the model's present weights."""
        if precision not in self._copies:
            copy = kept(
                self.model, ("copy", precision), lambda: FasterCopy(self.model, precision=precision)
            )
            copy.refresh()  # the model may have been trained since
            self._copies[precision] = copy
        return self._copies[precision]

    def clean(self):
        """Fills in "clean"."""
        if "finished" in self.state.values:
            return
        start = time.perf_counter()
        right = np.zeros(len(self.labels), bool)
        right[self.own] = self._search(_NO_ATTACK).judge(
            self.images[self.own], self.labels[self.own]
        )[0]
        self.state.arrays["correct/clean"] = right
        seconds = time.perf_counter() - start
        self.state.values["finished"] = {
            "clean": {"seconds": seconds, "components": {}, "warnings": []}
        }
        self.state.write()

    def doubts(self, attacks) -> list[str]:
        """Lines about the model. It is looked at once for the same weights and images.

        attacks: those of the evaluation; where all of them are for random models, nobody is told to
            take them."""
        some = self.images[:CHECKED], self.labels[:CHECKED]
        about = _digest([*self.model.get_weights(), *some]), self.threat_model
        last = kept(self.model, "doubts", dict)
        if about not in last:
            lines = checks.check_model(
                self.model, *map(tf.constant, some), self.threat_model, self.seed
            )
            last.clear()
            last[about] = lines
        parts = [part for attack in attacks for part in self._components(attack).values()]
        for_random = parts and all(part.judged_at_the_end for part in parts)
        return [line for line in last[about] if not (for_random and line == checks.RANDOM)]

    def _label(self, name, threat_model):
        """What an attack is called in the state."""
        alone = name == "clean" or len(self.threat_models) == 1
        return name if alone else f"{name} at {threat_model.eps!r}"

    def attack(self, name, attack, threat_model):
        """Fills in the attack of this name at a radius, or the rest of it."""
        state, label = self.state, self._label(name, threat_model)
        if label in state.values["finished"]:
            return
        if state.values.get("running", {}).get("name") != label:
            state.values["running"] = {
                "name": label,
                "seconds": 0.0,
                "components": {},
                "warnings": [],
            }
            # What fell at the radius before has fallen.
            smaller = self.threat_models.index(threat_model) - 1
            before = "clean" if smaller < 0 else self._label(name, self.threat_models[smaller])
            state.arrays["running/resists"] = state.arrays[f"correct/{before}"].copy()
            if self.kept is not None:
                images = state.arrays.get(f"adversarial/{before}", self.images)
                state.arrays["running/images"] = images.copy()
                state.arrays["running/margins"] = np.full(len(self.labels), -np.inf, np.float32)
        running = state.values["running"]
        components = self._components(attack)
        for component, part in components.items():
            if component not in running["components"]:
                self._component(name, component, part, threat_model)
        running["warnings"] += self._of_components(name, components, running["components"])
        state.values["finished"][label] = {
            key: running[key] for key in ("seconds", "components", "warnings")
        }
        state.arrays[f"correct/{label}"] = state.arrays.pop("running/resists")
        if self.kept is not None:
            state.arrays[f"adversarial/{label}"] = state.arrays.pop("running/images")
            del state.arrays["running/margins"]
        del state.values["running"]
        state.write()

    def _components(self, attack):
        return attack.components(self.model.output_shape[-1], self.threat_model.norm)

    def _of_components(self, name, components, accuracies) -> list[str]:
        """Warnings. accuracies: after each component."""
        named = {component or name: attack for component, attack in components.items()}
        lines = fewer_classes(named, self.model.output_shape[-1])
        of_own = self._of_own(accuracies)
        return lines + [line for line in [checks.check_square(of_own)] if line]

    def _of_own(self, shares):
        """Shares of all examples as those of this part's own."""
        return {name: share / float(self.own.mean()) for name, share in shares.items()}

    def _of_progress(self, name, component, attack, fooled_at) -> list[str]:
        """Warnings. fooled_at: of `checks.check_progress`."""
        if attack.rounds(self.model.output_shape[-1]) != attack.restarts:
            return []
        full = f"{name} {component}".strip()
        return checks.check_progress(full, attack, fooled_at, int(self.own.sum()))

    def _component(self, name, component, attack, threat_model):
        """One component, on what resists those before it."""
        state, running = self.state, self.state.values["running"]
        resists = state.arrays["running/resists"]
        start, before = time.perf_counter(), running["seconds"]
        search = self._search(attack, threat_model)
        restored = {
            key[6:]: state.arrays.pop(key) for key in list(state.arrays) if key.startswith("lanes/")
        } or None
        fooled_at = state.arrays.setdefault("running/fooled_at", np.zeros(0, int))
        # The examples that were in work, or yet to come, are those to attack.
        examples = np.flatnonzero(
            resists & ~state.arrays.setdefault("running/done", np.zeros(len(resists), bool))
        )
        full = f"{name} {component}".strip()
        keys = (self.seed, zlib.crc32(full.encode()))
        work = int(resists.sum()) * search.steps
        with Bar(full, work, unit="steps", shown=self.progress) as bar:
            for decided in search.run(
                self.images,
                self.labels,
                examples,
                eps=threat_model.eps,
                seed=keys,
                restored=restored,
            ):
                state.arrays["running/done"][decided.examples] = True
                resists[decided.examples] = ~decided.fooled
                fooled_at = np.concatenate([fooled_at, decided.taken[decided.fooled]])
                state.arrays["running/fooled_at"] = fooled_at
                if self.kept is not None:
                    self._keep(decided)
                running["seconds"] = before + time.perf_counter() - start
                state.write(
                    lambda: {f"lanes/{key}": part for key, part in search.snapshot().items()},
                    now=False,
                )
                # A decided example is spared the steps that are left.
                left = int((resists & ~state.arrays["running/done"]).sum())
                bar.update(
                    work - left * search.steps + decided.steps,
                    lambda left=left: (
                        f"{left} examples left, robust at most {resists[self.own].mean():.1%}"
                    ),
                )
            running["seconds"] = before + time.perf_counter() - start
            bar.write(
                f"{full}  robust {resists[self.own].mean():.1%}  in {running['seconds']:.0f} s"
            )
        running["components"][component] = float(resists.mean())
        running["warnings"] += self._of_progress(name, component, attack, fooled_at)
        if self.part:
            state.arrays[f"fooled_at/{running['name']}/{component}"] = fooled_at
        del state.arrays["running/done"], state.arrays["running/fooled_at"]
        state.write()

    def result(self, names, threat_model) -> RobustnessResult:
        """What was found at a radius. names: of all attacks, "clean" first."""
        arrays, finished = self.state.arrays, self.state.values["finished"]
        labels = {name: self._label(name, threat_model) for name in names}
        correct = {name: arrays[f"correct/{label}"] for name, label in labels.items()}
        own = {name: right[self.own] for name, right in correct.items()}
        accuracy = {name: float(right.mean()) for name, right in own.items()}
        components = {
            name: self._of_own(finished[label]["components"]) for name, label in labels.items()
        }
        doubts = [line for label in labels.values() for line in finished[label]["warnings"]]
        doubts += [line for line in [checks.check_autoattack(accuracy)] if line]
        worst_case = None
        if len(names) > 2:
            together = np.logical_and.reduce(list(correct.values()))
            tried = together[self.own]
            worst_case = WorstCase(together, float(tried.mean()), clopper_pearson(tried))
        return RobustnessResult(
            threat_model=threat_model,
            num_examples=int(self.own.sum()),
            seed=self.seed,
            attacks=names,
            correct=correct,
            accuracy=accuracy,
            confidence_interval_95={name: clopper_pearson(right) for name, right in own.items()},
            seconds={name: finished[label]["seconds"] for name, label in labels.items()},
            components={name: after for name, after in components.items() if len(after) > 1},
            warnings=tuple(doubts),
            worst_case=worst_case,
            adversarial={}
            if self.kept is None
            else {name: arrays[f"adversarial/{labels[name]}"] for name in names[1:]},
        )

    def _keep(self, decided):
        margins, found = self.state.arrays["running/margins"], self.state.arrays["running/images"]
        closer = decided.fooled | (decided.margins > margins[decided.examples])
        if closer.any():
            found[decided.examples[closer]] = decided.images[closer]
            margins[decided.examples[closer]] = decided.margins[closer]
