"""PyTorch's side of benchmarks/gpu.py, which starts it in a Python that has PyTorch.

    python torch_side.py step KIND:PRECISION:HOW --batch_size=128 --channels=64 --seconds=1.5
    python torch_side.py autoattack TWIN.npz --checkout=CHECKOUT --eps=8/255 --batch_size=500

Prints a line of JSON for each row as it comes. KIND: natural, fgsm or pgd7; PRECISION: float32
(with TF32, as TensorFlow has it) or bfloat16; HOW: eager or compile."""

import argparse
import fractions
import json
import pathlib
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

EPS, STEP = 8 / 255, 2 / 255


class PreActResNet18(nn.Module):
    """tf_robust_transfer's preact_resnet_18: modules have the names of its layers.

    images [batch, 3, height, width] -> logits [batch, classes]."""

    def __init__(self, channels=64, classes=10, in_channels=3):
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks, width = [], channels
        for group in (2, 3, 4, 5):
            out = channels * 2 ** (group - 2)
            for block in (0, 1):
                name, stride = f"group{group}_{block}", 2 if block == 0 and group > 2 else 1
                if stride > 1:
                    self.add_module(f"{name}_shortcut", nn.Conv2d(width, out, 1, 2, bias=False))
                self.add_module(f"{name}_1_batch_norm", nn.BatchNorm2d(width))
                self.add_module(f"{name}_conv1", nn.Conv2d(width, out, 3, stride, 1, bias=False))
                self.add_module(f"{name}_2_batch_norm", nn.BatchNorm2d(out))
                self.add_module(f"{name}_conv2", nn.Conv2d(out, out, 3, 1, 1, bias=False))
                self.blocks.append(name)
                width = out
        self.final_batch_norm = nn.BatchNorm2d(width)
        self.logits = nn.Linear(width, classes)

    def forward(self, x):
        x = self.conv1((x - self.mean[:, None, None]) / self.std[:, None, None])
        for name in self.blocks:
            activated = F.relu(self.get_submodule(f"{name}_1_batch_norm")(x))
            if hasattr(self, f"{name}_shortcut"):
                x = self.get_submodule(f"{name}_shortcut")(activated)
            inner = self.get_submodule(f"{name}_conv1")(activated)
            inner = F.relu(self.get_submodule(f"{name}_2_batch_norm")(inner))
            x = x + self.get_submodule(f"{name}_conv2")(inner)
        return self.logits(F.relu(self.final_batch_norm(x)).mean((2, 3)))


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def say(**row):
    where = torch.cuda.get_device_name() if device() == "cuda" else "cpu"
    print(json.dumps(row | {"library": f"torch {torch.__version__}", "device": where}), flush=True)


def training_step(kind, precision, network, forward, x, y):
    """A function that takes one step of SGD and returns its loss."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True)
    attack_steps = {"natural": 0, "fgsm": 1, "pgd7": 7}[kind]
    step_size = 1.25 * EPS if kind == "fgsm" else STEP

    def step():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            attacked = x
            if attack_steps:
                network.eval()
                delta = torch.empty_like(x).uniform_(-EPS, EPS)
                for _ in range(attack_steps):
                    delta.requires_grad_(True)
                    loss = F.cross_entropy(forward((x + delta).clamp(0, 1)), y)
                    (gradient,) = torch.autograd.grad(loss, delta)
                    delta = (delta.detach() + step_size * gradient.sign()).clamp(-EPS, EPS)
                attacked = (x + delta).clamp(0, 1)
            network.train()
            loss = F.cross_entropy(forward(attacked), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def step(options):
    """Says that it is there, waits for a line, compiles, measures: see gpu_steps.py."""
    print("ready", flush=True)
    sys.stdin.readline()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    kind, precision, how = options.row.split(":")
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    torch.manual_seed(0)
    network = PreActResNet18(options.channels).to(device())
    x = torch.rand(shape, device=device())
    if device() == "cuda":
        x = x.to(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (options.batch_size,), device=device())
    forward = torch.compile(network) if how == "compile" else network
    take = training_step(kind, precision, network, forward, x, y)
    begun = time.perf_counter()
    try:
        for _ in range(3):
            loss = take()
        loss.item()
        first, count, start = time.perf_counter() - begun, 0, time.perf_counter()
        while time.perf_counter() - start < options.seconds:
            for _ in range(5):
                loss = take()
            loss.item()
            count += 5
        seconds = (time.perf_counter() - start) / count
    except Exception as error:  # torch.compile wants a compiler, for one
        say(row=options.row, failed=f"{type(error).__name__}: {error}"[:300])
        return
    say(
        row=options.row,
        ms=1000 * seconds,
        images_per_second=options.batch_size / seconds,
        first_steps_s=first,
    )


def autoattack(options):
    import numpy as np

    sys.path.insert(0, str(options.checkout))
    from autoattack import AutoAttack

    stored = np.load(options.twin)
    weights = {
        key: torch.tensor(stored[key])
        for key in stored.files
        if key not in ("images", "labels", "expected")
    }
    network = PreActResNet18(
        weights["conv1.weight"].shape[0], len(weights["logits.bias"]), stored["images"].shape[-1]
    )
    missing = network.load_state_dict(weights, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    network = network.eval().to(device())
    # The official attacks want contiguous images.
    x = torch.tensor(stored["images"].transpose(0, 3, 1, 2).copy(), device=device())
    y = torch.tensor(stored["labels"], dtype=torch.long, device=device())
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        found = network(x[: len(stored["expected"])]).cpu().numpy()
    apart = np.abs(found - stored["expected"]).max() / np.abs(stored["expected"]).max()
    assert apart < 1e-3, f"the twin's logits are {apart:.1e} apart"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    attack = AutoAttack(
        network,
        norm="Linf",
        eps=float(fractions.Fraction(options.eps)),
        version="standard",
        seed=0,
        device=device(),
        verbose=False,
    )
    begun = time.perf_counter()
    adversarial = attack.run_standard_evaluation(x, y, bs=options.batch_size)
    with torch.no_grad():
        parts = adversarial.split(options.batch_size)
        right = torch.cat([network(part).argmax(1) for part in parts]) == y
    right = right.cpu().numpy()
    say(
        row="official",
        seconds=time.perf_counter() - begun,
        accuracy=float(right.mean()),
        right="".join("01"[int(flag)] for flag in right),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("step")
    part.add_argument("row")
    part.add_argument("--batch_size", type=int, default=128)
    part.add_argument("--image_size", type=int, default=32)
    part.add_argument("--channels", type=int, default=64)
    part.add_argument("--seconds", type=float, default=1.5)
    part = parts.add_parser("autoattack")
    part.add_argument("twin", type=pathlib.Path)
    part.add_argument("--checkout", type=pathlib.Path, required=True)
    part.add_argument("--eps", default="8/255")
    part.add_argument("--batch_size", type=int, default=500)
    options = parser.parse_args()
    {"step": step, "autoattack": autoattack}[options.part](options)


if __name__ == "__main__":
    main()
