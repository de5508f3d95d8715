"""How a method is made of a run's flags."""

import keras

from tf_robust_transfer.methods.context import Context
from tf_robust_transfer.options import flags_of


class MadeFromFlags(keras.Model):
    """What `train` asks of a method's class. A method whose flags are its arguments, as most are,
    has nothing to add.
    """

    takes_teacher = False
    makes_its_student = False  # of its teacher, so that no network of its own is built
    several_losses = False  # its `other_losses`, which float16 cannot scale

    @classmethod
    def from_flags(cls, flags, context: Context):
        """The method that the flags, an instance of `cls.Flags`, describe; not yet compiled."""
        roles = {"student": context.student} | (
            {"teacher": context.teacher} if cls.takes_teacher else {}
        )
        return cls(**roles, seed=context.seed, **cls.keywords(flags, context))

    @classmethod
    def keywords(cls, flags, context: Context) -> dict:
        """The flags that are arguments, as arguments: epochs are steps."""
        known = {flag.path[-1] for flag in flags_of(cls.Options)}
        return {
            flag.path[-1]: context.steps(flag.value(flags))
            if flag.metadata["in_epochs"]
            else flag.value(flags)
            for flag in flags_of(type(flags))
            if flag.path[-1] in known
        }

    def compile_arguments(self, flags) -> dict:
        """What `compile` takes of the flags beside the optimizer."""
        return {}
