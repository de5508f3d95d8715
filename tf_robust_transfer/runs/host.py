"""What keeps the host out of a training's way: logs that are read on demand, an allowance for all
that is not training."""

import time
from collections.abc import Mapping

import keras


class UnreadLogs(Mapping):
    """The logs of a step, float by name, read from the device when someone looks.

    Keras's own `CallbackList` reads all of them after each step, and the device waits for it.
    """

    def __init__(self, logs):
        self._logs = logs or {}

    def __getitem__(self, name):
        return float(keras.ops.convert_to_numpy(self._logs[name]))

    def __iter__(self):
        return iter(self._logs)

    def __len__(self):
        return len(self._logs)


class Callbacks(keras.callbacks.CallbackList):
    """The callbacks of one `fit` of a run, which get `UnreadLogs` after each step.

    Args:
        callbacks: list of keras.callbacks.Callback.
        method: the keras.Model that is fitted.
        epochs, steps: of the `fit`, for callbacks that ask.
    """

    def __init__(self, callbacks, method, *, epochs, steps):
        super().__init__(callbacks, add_history=True, model=method, epochs=epochs, steps=steps)

    def on_train_batch_begin(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        unread = UnreadLogs(logs)
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, unread)


class Allowance:
    """What of a run's time may go into watching, pictures and the checkpoints of epochs.

    `SHARE` of the time that has passed, or `FREE` seconds where that is more, so that a short run
    is watched whole. What is left out changes nothing about the training.
    """

    SHARE, FREE = 0.1, 60.0

    def __init__(self):
        self._start, self._spent = time.monotonic(), 0.0

    def limit(self, callback) -> None:
        """Leaves a callback's work at the end of an epoch out where it would take more than is
        left.
        """
        work, times = callback.on_epoch_end, []

        def where_there_is_time(epoch, logs=None):
            begun = time.monotonic()
            takes = min(times[1:], default=0.0)  # the first compiles
            if self._spent + takes > max(self.FREE, self.SHARE * (begun - self._start)):
                return
            work(epoch, logs)
            times.append(time.monotonic() - begun)
            self._spent += times[-1]

        callback.on_epoch_end = where_there_is_time
