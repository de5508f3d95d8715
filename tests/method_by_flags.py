"""A method as `train` makes it of its flags, so that a test over `METHODS` knows none of them."""

import keras

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.methods import METHODS, Context, Method
from tf_robust_transfer.options import from_texts


def method_by_flags(name: str, student: keras.Model, teacher: keras.Model, **texts) -> Method:
    """The method, not yet compiled; it takes of both networks what it needs.

    texts: flag -> text, of those that differ from their defaults.
    """
    cls = METHODS[name]
    context = Context(
        student=None if cls.makes_its_student else student,
        teacher=teacher,
        threat_model=ThreatModel(norm="linf", eps=0.1),
        input_shape=student.input_shape[1:],
        num_classes=student.output_shape[-1],
        seed=0,
        steps_per_epoch=3,
    )
    return cls.from_flags(from_texts(cls.Flags, texts), context)
