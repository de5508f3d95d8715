"""How PyTorch networks name the modules of which checkpoints hold the weights."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Names:
    """How a PyTorch network names the modules that correspond to our layers.

    Attributes:
        outer: layer -> module, outside the groups. "logits" is always here.
        block: a block's module, with {group} and {block}.
        first_group: the {group} of our group2. Blocks count from 0 in both.
        inner: layer -> module, inside a block.
    """

    outer: dict[str, str]
    block: str
    first_group: int
    inner: dict[str, str]

    def module(self, layer: str) -> str:
        """The module of a layer: of "group2_0_conv1" Gowal's "layer.0.block.0.conv_0"."""
        if layer in self.outer:
            return self.outer[layer]
        group, block, part = re.fullmatch(r"group(\d)_(\d+)_(\w+)", layer).groups()
        prefix = self.block.format(group=int(group) - 2 + self.first_group, block=block)
        return f"{prefix}.{self.inner[part]}"


DEEPMIND = Names(
    {"conv1": "init_conv", "final_batch_norm": "batchnorm", "logits": "logits"},
    "layer.{group}.block.{block}",
    0,
    {
        "1_batch_norm": "batchnorm_0",
        "conv1": "conv_0",
        "2_batch_norm": "batchnorm_1",
        "conv2": "conv_1",
        "shortcut": "shortcut",
    },
)
_PREACTIVATION = {"1_batch_norm": "bn1", "conv1": "conv1", "2_batch_norm": "bn2", "conv2": "conv2"}
DEEPMIND_PREACT = Names(
    {"conv1": "conv_2d", "final_batch_norm": "batchnorm", "logits": "logits"},
    "layer_{group}.{block}",
    0,
    {
        "1_batch_norm": "batchnorm_0",
        "conv1": "conv_2d_1",
        "2_batch_norm": "batchnorm_1",
        "conv2": "conv_2d_2",
        "shortcut": "shortcut",
    },
)
WIDE_RESNET = Names(
    {"conv1": "conv1", "final_batch_norm": "bn1", "logits": "fc"},
    "block{group}.layer.{block}",
    1,
    {**_PREACTIVATION, "shortcut": "convShortcut"},
)
WRN_34_R = Names(
    {"conv1": "stem_conv", "final_batch_norm": "bn1", "logits": "fc"},
    "blocks.{group}.layer.{block}",
    0,
    {**_PREACTIVATION, "shortcut": "convShortcut"},
)
WRN_A4 = Names(
    {"conv1": "stem_conv", "final_batch_norm": "norm1", "logits": "fc"},
    "blocks.{group}.layer.{block}",
    0,
    {**_PREACTIVATION, "shortcut": "shortcut.0"},
)
PREACT_RESNET = Names(
    {"conv1": "conv1", "final_batch_norm": "bn", "logits": "linear"},
    "layer{group}.{block}",
    1,
    {**_PREACTIVATION, "shortcut": "shortcut.0"},
)
_CONVOLUTIONS = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)} | {
    f"conv{i}_batch_norm": f"bn{i}" for i in (1, 2, 3)
}
TORCHVISION = Names(
    {"conv1": "conv1", "conv1_batch_norm": "bn1", "logits": "fc"},
    "layer{group}.{block}",
    1,
    {**_CONVOLUTIONS, "shortcut": "downsample.0", "shortcut_batch_norm": "downsample.1"},
)
CIFAR_RESNET = Names(
    {"conv1": "conv1", "conv1_batch_norm": "bn1", "logits": "linear"},
    "layer{group}.{block}",
    1,
    {**_CONVOLUTIONS, "shortcut": "shortcut.0", "shortcut_batch_norm": "shortcut.1"},
)
