"""Plain training on natural images: the baseline of both papers."""

from tf_robust_transfer.losses import classification
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.ops import replicas


class Natural(Method):
    """Cross-entropy on the images as they come (Eq. 1 of IGAM). Arguments: see `Method`."""

    def loss_terms(self, images, labels):
        logits = self.student(images, training=True)
        return logits, {
            "cross_entropy": (
                1.0,
                replicas.global_mean(classification.cross_entropy(logits, labels)),
            )
        }
