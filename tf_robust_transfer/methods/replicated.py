"""How a method's step runs on several replicas and workers, where Keras's own would not do."""

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import workers
from tf_robust_transfer.ops.batch_norm import batch_norm_layers, with_our_moments

ASKED = "asked to stop"  # how many workers are, among the logs of a step


class RunsOnReplicas:
    """Keras's ways to run a step, of a method."""

    terms: list  # of the method
    distribute_strategy: tf.distribute.Strategy  # of keras.Model

    # Keras's own setter turns XLA off, with a warning, under deterministic operations. Every
    # method's step compiles and runs under them.
    @keras.Model.jit_compile.setter
    def jit_compile(self, value):
        """Raises an InputError where XLA is asked for and cannot be had."""
        if value:
            refused = sorted({x.name for x in self._flatten_layers() if not x.supports_jit})
            if refused:
                raise InputError(
                    f"XLA cannot compile the layers {', '.join(refused)}: jit_compile=False "
                    "(--jit=off)"
                )
            if self.distribute_strategy.num_replicas_in_sync > 1:
                raise InputError(
                    "XLA compiles the steps of one device, here are "
                    f"{self.distribute_strategy.num_replicas_in_sync}: jit_compile=False "
                    "(--jit=off), or --distribution_strategy=one_device"
                )
        self._jit_compile = value

    def make_train_function(self, force=False):
        """As keras.Model's; under several replicas with the statistics of the whole batch."""
        self._refresh_passes()
        if self.train_function is None or force:
            if workers.several(self.distribute_strategy):
                self.train_function = self._step_of_several_workers()
            else:
                super().make_train_function(force=True)
            several = self.distribute_strategy.num_replicas_in_sync > 1
            if several and self.options.synchronized_batch_norm:
                layers = batch_norm_layers(self.networks())
                self.train_function = _of_the_whole_batch(layers, self.train_function)
        return self.train_function

    def make_test_function(self, force=False):
        """As keras.Model's, which several workers cannot run: as `_step_of_several_workers`."""
        if not workers.several(self.distribute_strategy):
            return super().make_test_function(force)
        if self.test_function is None or force:
            strategy = self.distribute_strategy

            @tf.function(reduce_retracing=True, autograph=False)
            def step(iterator):
                logs = strategy.run(self.test_step, args=(iterator.get_next(),))
                return {n: strategy.experimental_local_results(logs[n])[0] for n in logs}

            self.test_function = step
        return self.test_function

    def _refresh_passes(self):
        """Passes that keep a copy of the teacher take the weights that it may have got since."""
        for of in {term.of for term in self.terms}:
            if hasattr(of, "refresh"):
                of.refresh()

    def _step_of_several_workers(self):
        """Keras's own would reduce each entry of the logs once more, over an axis of examples."""
        if self.steps_per_execution != 1:
            raise InputError("several workers take single steps: steps_per_execution must be 1")
        strategy = self.distribute_strategy

        def of_replica(data, asked):
            self._asked = asked
            return self.train_step(data)

        @tf.function(reduce_retracing=True, autograph=False)
        def step(iterator, asked):
            logs = strategy.run(of_replica, args=(iterator.get_next(), asked))
            # They are the same on every replica.
            return {name: strategy.experimental_local_results(logs[name])[0] for name in logs}

        def train_function(iterator):
            logs = step(iterator, tf.constant(float(self.asked_to_stop)))
            self.told_to_stop = float(logs.pop(ASKED)) > 0
            return logs

        return train_function

    def _asked_to_stop(self) -> dict:
        """What the logs of a step have beside its terms: of several workers, who asked to stop."""
        return {ASKED: self._asked} if workers.several(self.distribute_strategy) else {}

    def networks(self) -> list:
        """The models and layers that a step runs."""
        of_terms = (part for term in self.terms for part in term.state().values())
        return [self, *(part for part in of_terms if isinstance(part, keras.Layer))]

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: student and optimizer are built.

        Keras would draw a batch for it, and under several workers fails to reduce that one."""


def _of_the_whole_batch(layers, train_function):
    def step(iterator):
        # It traces for every new shape of a batch.
        with with_our_moments(layers, whole_batch=True):
            return train_function(iterator)

    return step
