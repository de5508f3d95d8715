"""What a method is made from on the command line."""

import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class Context:
    """What a method is made from on the command line, beside its own flags.

    Attributes:
        student: the network to train; None for a method that makes it of its teacher.
        teacher: keras.Model or None.
        threat_model: that of the evaluation.
        input_shape, num_classes: of the data.
        seed: of the run.
        steps_per_epoch: what turns epochs into steps.
        smoke: whether this run is to see the whole step at once, without any warm-up.
    """

    student: keras.Model | None
    teacher: keras.Model | None
    threat_model: object
    input_shape: tuple[int, int, int]
    num_classes: int
    seed: int
    steps_per_epoch: int
    smoke: bool = False

    def steps(self, epochs: float) -> int:
        return 0 if self.smoke else round(epochs * self.steps_per_epoch)
