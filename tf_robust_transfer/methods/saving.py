"""How a method is saved: its student, as plain Keras reads it; with `save_weights`, all that a
training resumes from.
"""

from tf_robust_transfer.errors import InputError


class SavesItsStudent:
    """Keras's ways to save a model, of a method."""

    def save(self, filepath, overwrite=True, **kwargs):
        """As keras.Model.save, of the student: what `ModelCheckpoint` writes.

        Raises:
            InputError: a weight is not finite; nothing is written."""
        self.watch.check_saved(self)
        self.student.save(filepath, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """As keras.Model.save_weights: weights of all networks, and the optimizers' state.

        `load_weights` of a method that is made and compiled in the same way goes on from there.

        Raises:
            InputError: a weight is not finite; nothing is written."""
        self.watch.check_saved(self)
        super().save_weights(filepath, overwrite=overwrite, **kwargs)

    def load_own_variables(self, store):
        """The method's own are the steps before a second `compile`, none where there was none."""
        if store.keys() and self._steps_before is None:
            self._count_on_from(self.steps_done)
            self.train_function = None  # which counted without
        if store.keys():
            super().load_own_variables(store)
        elif self._steps_before is not None:
            self._steps_before.assign(0)

    def export(self, filepath, **kwargs):
        """As keras.Model.export, of the student."""
        self.watch.check_saved(self)
        self.student.export(filepath, **kwargs)

    def get_config(self):
        raise InputError(_ADVICE)

    def __deepcopy__(self, memo):
        raise InputError(_ADVICE)

    def __reduce__(self):
        raise InputError(_ADVICE)


_ADVICE = (
    "a method is not copied or serialised: save its student (method.student.save, method.save), or "
    "with method.save_weights all that a method made in the same way resumes from"
)
