"""Which way the logged values improve, in the form in which Keras's callbacks look for it."""

# Keras has no public way to tell a direction: `MonitorCallback` reads the private `_direction` of
# metrics inside its own two containers, of which compile() makes the one and this module the other.
from keras.src.trainers.compile_utils import MetricsList

# Neither is better for the discriminator's accuracy: 0.5 is a student that fools it, or a
# discriminator that learns nothing.
UNDIRECTED = ("discriminator_accuracy",)


class Directions(MetricsList):
    """Shows metrics to callbacks: EarlyStopping, ModelCheckpoint and ReduceLROnPlateau find their
    `mode` by it.

    The accuracies go up, losses and their terms down. It counts nothing itself: the metrics stand
    beside it in `Method.metrics`, which resets, saves and reports them.

    Args:
        metrics: list of keras.metrics.Metric, whose names are those of the logs.
    """

    def __init__(self, metrics):
        super().__init__(list(metrics), name="directions")
        for metric in self.metrics:
            if metric.name not in UNDIRECTED:
                metric._direction = "up" if metric.name == "accuracy" else "down"

    @property
    def variables(self):
        return []

    def reset_state(self):
        pass

    def result(self):
        return {}
