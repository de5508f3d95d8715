"""The term of activated channel maps (sections 5.1 and 5.2 of the MixACM paper)."""

import dataclasses

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.flag_types import boolean, fraction, names
from tf_robust_transfer.losses import channel_maps
from tf_robust_transfer.options import Options, at_least, from_keywords, option
from tf_robust_transfer.terms.term import Term

# What makes maps of other numbers of channels comparable (section 5.2), and whose maps are
# transformed (Table 10).
TRANSFORMS = (*channel_maps.POOLINGS, "affine")
SIDES = ("teacher", "student")


class ChannelMaps(Term):
    """acm_weight times the sum over the blocks of the distance of both networks' channel maps,
    "acm" in the logs.

    Args:
        of: a pass with `student_endpoints` and `teacher_endpoints`, such as `MixedExamples`.
        seed: of the affine transformations' first weights.
        every other keyword: see `rt.MixACM`.

    Attributes:
        affine: {"TEACHERS:STUDENTS": keras.layers.Dense}, the affine transformations, which are
            trained with the student.

    Raises:
        InputError: an endpoint that a network does not have, or that cannot be matched.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        """What is matched, and how; see `MixACM`."""

        acm_weight: float = option(
            5000.0,
            "weight of channel maps; a large one needs a warm-up",
            fraction,
            **at_least(0),
            flag="alpha_acm",
        )
        blocks: tuple = option(
            ("all",),
            "matched endpoints, each NAME or TEACHERS:STUDENTS; all: those of both networks",
            names,
        )
        acm_reduction: str = option(
            "mean", "mean or sum over channels", choices=channel_maps.REDUCTIONS
        )
        acm_mapping: str = option(
            "maximum",
            "of a channel: maximum, mean, mean_of_squares or none (direct features)",
            choices=channel_maps.MAPPINGS,
        )
        acm_normalized: bool = option(True, "maps are divided by their l2 norm", boolean)
        acm_transform: str = option(
            "max",
            "for other numbers of channels: max or average (pooling), affine (trained)",
            choices=TRANSFORMS,
        )
        acm_transform_of: str = option(
            "teacher", "whose maps are transformed: teacher or student", choices=SIDES
        )

    def __init__(self, *, of, seed=0, **keywords):
        self.options = from_keywords(self.Options, keywords)
        super().__init__("acm", self.options.acm_weight, self._distance, of=of)
        blocks = self.options.blocks
        self.pairs = self._all() if blocks == ("all",) else tuple(map(_pair, blocks))
        self._check_names()
        self.affine = {}
        for number, pair in enumerate(self.pairs):
            theirs, ours = self._shapes(*pair)
            if self.options.acm_transform == "affine" and theirs[-1] != ours[-1]:
                widths = theirs[-1], ours[-1]
                self.affine[":".join(pair)] = self._affine(seed + number, pair, widths)

    @property
    def variables(self):
        return [
            variable for layer in self.affine.values() for variable in layer.trainable_variables
        ]

    def state(self):
        return {layer.name: layer for layer in self.affine.values()}

    def _distance(self, seen):
        return tf.add_n([self._distance_of(seen, *pair) for pair in self.pairs])

    def _distance_of(self, seen, theirs, ours):
        options = self.options
        return channel_maps.acm_loss(
            seen["teacher_endpoints"][theirs],
            seen["endpoints"][ours],
            options.acm_reduction,
            mapping=options.acm_mapping,
            normalized=options.acm_normalized,
            transform=self.affine.get(f"{theirs}:{ours}", options.acm_transform),
            transform_of=options.acm_transform_of,
        )

    def _all(self):
        """Every block, which both networks name alike."""
        theirs, ours = (
            [name for name, x in side.output.items() if name != "logits" and len(x.shape) == 4]
            for side in (self.of.teacher_endpoints, self.of.student_endpoints)
        )
        if not ours or set(theirs) != set(ours):
            raise InputError(
                f"blocks: the teacher has {_listed(theirs)}, the student {_listed(ours)}; say what "
                "is matched, NAME or TEACHERS:STUDENTS each (--blocks=block2:block3), or name "
                "layers of yours: student_endpoints=rt.endpoints(student, {'block1': 'a layer of "
                "shape [batch, height, width, channels]'})"
            )
        return tuple((name, name) for name in ours)

    def _check_names(self):
        for role, outputs, matched in (
            ("student", self.of.student_endpoints.output, [ours for _, ours in self.pairs]),
            ("teacher", self.of.teacher_endpoints.output, [theirs for theirs, _ in self.pairs]),
        ):
            for name in matched:
                if name not in outputs:
                    raise InputError(
                        f"blocks: the {role} has no endpoint {name!r}; {nearest(name, outputs)}; "
                        f"name layers of yours: {role}_endpoints=rt.endpoints({role}, "
                        f"{{{name!r}: 'a layer of shape [batch, height, width, channels]'}})"
                    )

    def _shapes(self, theirs, ours):
        """(the teacher's, the student's): each [None, height, width, channels]."""
        shapes = (
            self.of.teacher_endpoints.output[theirs].shape,
            self.of.student_endpoints.output[ours].shape,
        )
        if any(len(shape) != 4 for shape in shapes):
            raise InputError(
                "only endpoints of shape [batch, height, width, channels] can be matched; "
                f"{theirs!r} is {shapes[0]}, {ours!r} {shapes[1]}"
            )
        if self.options.acm_mapping == "none" and shapes[0][1:3] != shapes[1][1:3]:
            raise InputError(
                f"acm_mapping none matches features place by place, but {theirs!r} of the teacher "
                f"is {shapes[0][1:3]} and {ours!r} of the student {shapes[1][1:3]} high and wide; "
                "match other blocks or use another mapping"
            )
        return shapes

    def _affine(self, seed, pair, widths):
        given, wanted = widths if self.options.acm_transform_of == "teacher" else widths[::-1]
        layer = keras.layers.Dense(
            wanted,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            name="_".join(("affine", *pair)),
        )
        layer.build((None, given))
        return layer


def _listed(names) -> str:
    return ", ".join(names) or "no endpoint"


def _pair(block: str) -> tuple[str, str]:
    """(teacher's endpoint, student's endpoint) of "block2:block3", or of "block2" for both."""
    theirs, colon, ours = block.partition(":")
    return theirs, ours if colon else theirs
