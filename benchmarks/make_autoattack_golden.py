"""Golden data for the attacks: what the official AutoAttack finds on small networks, in
tests/golden.

    python benchmarks/make_autoattack_golden.py --official=PATH [--names=digits_robust_linf]

PATH is a checkout of github.com/fra31/auto-attack at a392200, imported from there and never copied.
It runs in PyTorch on one CPU thread, on twins of the Keras networks that
benchmarks/train_golden_networks.py made. Takes about a quarter of an hour. tests/golden/README.md
says what each array is."""

import argparse
import contextlib
import hashlib
import importlib
import json
import pathlib
import sys
import time
import types

import keras
import numpy as np
import torch

from tf_robust_transfer.files import replacing

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import golden_networks  # noqa: E402

SEEDS = (0, 1, 2)  # the colour network, on which all takes longer, gets the first alone
TRAJECTORIES = 32  # examples whose loss is kept at every step


def write(file, arrays):
    with replacing(golden_networks.FOLDER / file) as temporary:
        np.savez_compressed(temporary, **arrays)


def torch_twin(model):
    """The PyTorch network with the same weights: images [batch, channels, height, width] -> logits.

    Its weights need no gradients, which spares the official FAB their computation.
    """
    modules = []
    for layer in model.layers:
        weights = [torch.tensor(weight) for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.Conv2D):
            size, stride = layer.kernel_size[0], layer.strides[0]
            shape = layer.output.shape[1:]
            total = max(
                (shape[0] - 1) * stride + size - layer.input.shape[1], 0
            )  # padding="same", square images
            modules.append(torch.nn.ZeroPad2d((total // 2, total - total // 2) * 2))
            module = torch.nn.Conv2d(
                layer.input.shape[-1], layer.filters, size, stride, bias=layer.use_bias
            )
            weights[0] = weights[0].permute(3, 2, 0, 1)
        elif isinstance(layer, keras.layers.BatchNormalization):
            module = torch.nn.BatchNorm2d(layer.output.shape[-1], layer.epsilon)
            weights.append(torch.tensor(0))  # number of batches seen
        elif isinstance(layer, keras.layers.Dense):
            if isinstance(modules[-1], torch.nn.Flatten):  # channels come first in PyTorch
                weights[0] = (
                    weights[0].reshape(*shape, -1).permute(2, 0, 1, 3).reshape(weights[0].shape)
                )
            module = torch.nn.Linear(*weights[0].shape)
            weights[0] = weights[0].T
        else:
            module = {
                "ReLU": torch.nn.ReLU,
                "Flatten": torch.nn.Flatten,
                "InputLayer": torch.nn.Identity,
            }[type(layer).__name__]()
        module.load_state_dict(dict(zip(module.state_dict(), weights, strict=True)))
        modules.append(module)
        if isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.relu:
            modules.append(torch.nn.ReLU())
    return torch.nn.Sequential(*modules).eval().requires_grad_(False)


def logit_margin(logits, y):
    """max_{i != y} z_i - z_y: positive where the model errs. float [batch]."""
    others = logits.clone()
    rows = torch.arange(len(y))
    others[rows, y] = -torch.inf
    return others.max(1)[0] - logits[rows, y]


class Official:
    """The official attacks on one network, its examples and a threat model."""

    def __init__(self, name):
        network, norm, self.eps = golden_networks.THREATS[name]
        keras_model, images, labels = golden_networks.load_network(network)
        self.model, self.classes = torch_twin(keras_model), keras_model.output_shape[-1]
        self.x = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous()
        self.y = torch.tensor(labels, dtype=torch.long)
        self.norm = {"linf": "Linf", "l2": "L2"}[norm]
        with torch.no_grad():
            logits = self.model(self.x)
        difference = np.abs(logits.numpy() - keras_model.predict(images, verbose=0)).max()
        if difference > 1e-4:
            raise RuntimeError(f"{name}: logits of the two networks differ by {difference}")
        self.logits = logits
        self.clean = logits.argmax(1) == self.y
        self.seconds = {}

    def components(self):
        """What the number of classes allows, with the restarts of its version."""
        names = ["apgd-ce", "fab", "fab-t", "square"]
        names += ["apgd-dlr"] if self.classes >= 3 else []
        names += ["apgd-t"] if self.classes >= 4 else []
        return names

    def autoattack(self, attacks, seed, version="custom"):
        """An official AutoAttack object with `standard`'s number of restarts; `fab` keeps the 5 of
        `plus`.
        """
        module = importlib.import_module("autoattack")
        attack = module.AutoAttack(
            self.model,
            norm=self.norm,
            eps=self.eps,
            seed=seed,
            version=version,
            device="cpu",
            attacks_to_run=list(attacks),
            verbose=False,
        )
        if version == "custom":
            attack.apgd.n_restarts = 1
            attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = min(
                9, self.classes - 1
            )
        return attack

    def run(self, attack, label):
        """bool [n]: what is still robust after the attacks of the official object."""
        start = time.process_time()
        adversarial = attack.run_standard_evaluation(self.x, self.y, bs=len(self.x))
        self.seconds[label] = round(time.process_time() - start, 2)
        with torch.no_grad():
            return (self.model(adversarial).argmax(1) == self.y).numpy()

    def distance(self, adversarial, x):
        flat = (adversarial - x).flatten(1)
        return flat.abs().amax(1) if self.norm == "Linf" else flat.square().sum(1).sqrt()

    def component(self, component, seed):
        """One component on all examples. Returns ({"robust": ..., and what else it reached}, of one
        value an example).
        """
        attack = self.autoattack([component], seed)
        inner = {
            "apgd-ce": attack.apgd,
            "apgd-dlr": attack.apgd,
            "apgd-t": attack.apgd_targeted,
            "square": attack.square,
            "fab": attack.fab,
            "fab-t": attack.fab,
        }[component]
        runs, single_run = [], inner.attack_single_run

        def recorded(x, y, **kwargs):
            runs.append((x, y, single_run(x, y, **kwargs)))
            return runs[-1][-1]

        inner.attack_single_run = recorded
        robust = self.run(attack, component)
        result = {"robust": robust}
        # Single runs get the examples that were right and not yet fooled, in order; find them by
        # their pixels.
        rows = {image.numpy().tobytes(): row for row, image in enumerate(self.x)}
        kinds = {"square": ["margin"], "fab": ["distance"], "fab-t": ["distance"]}.get(
            component, ["loss", "margin"]
        )
        table = {kind: np.full((len(runs), len(self.x)), np.nan, np.float32) for kind in kinds}
        for number, (x, y, found) in enumerate(runs):
            chosen = [rows[image.numpy().tobytes()] for image in x]
            with torch.no_grad():
                if kinds == ["distance"]:
                    distance = self.distance(found, x)
                    table["distance"][number, chosen] = torch.where(
                        distance > 0, distance, torch.inf
                    )
                else:
                    best = found[1] if component == "square" else found[0]
                    table["margin"][number, chosen] = logit_margin(self.model(best), y)
                    if "loss" in table:
                        table["loss"][number, chosen] = found[2]
        for kind, values in table.items():
            best = np.fmin if kind == "distance" else np.fmax
            result[kind] = (
                best.reduce(values, axis=0) if runs else np.full(len(self.x), np.nan, np.float32)
            )
        return result

    def fixed_apgd(self, loss):
        """APGD without chance: it starts at the image, and the targeted form goes for the class
        that is ranked second.
        """
        base = importlib.import_module("autoattack.autopgd_base")
        logits_seen = []

        def watched(x):
            logits = self.model(x)
            logits_seen.append(logits.detach())
            return logits

        cls = base.APGDAttack_targeted if loss == "dlr-targeted" else base.APGDAttack
        attack = cls(watched, n_iter=100, norm=self.norm, eps=self.eps, seed=0, device="cpu")
        attack.loss = loss
        attack.logger = types.SimpleNamespace(log=lambda text: None)
        attack.init_hyperparam(self.x)
        result = {}
        if loss == "dlr-targeted":
            attack.y_target = self.logits.sort(dim=1)[1][:, -2]
            result["target"] = attack.y_target.numpy().astype(np.uint8)
        best, robust, best_loss, _ = attack.attack_single_run(
            self.x.clone(), self.y, x_init=self.x.clone()
        )
        losses = {
            "dlr": getattr(attack, "dlr_loss", None),
            "dlr-targeted": getattr(attack, "dlr_loss_targeted", None),
        }
        of = losses.get(loss) or torch.nn.CrossEntropyLoss(reduction="none")
        trajectory = torch.stack(
            [of(logits, self.y) for logits in logits_seen]
        )  # the start and 100 steps
        return {**result, "loss": best_loss.numpy(), "robust": robust.numpy().astype(bool),
                "trajectory": trajectory[:, :TRAJECTORIES].numpy()}  # fmt: skip

    def fixed_fab(self, targets):
        """FAB's first restart, which starts at the image. targets: ranks of the target classes, or
        () for untargeted.

        float32 [len(targets) or 1, n]: distance of the nearest adversarial example; inf: none; NaN:
        misclassified."""
        attack = self.autoattack(["fab"], 0).fab
        distances = []
        for target in targets or [None]:
            attack.target_class = target
            found = attack.attack_single_run(
                self.x, self.y, use_rand_start=False, is_targeted=bool(targets)
            )
            distance = self.distance(found, self.x).numpy()
            distance[distance == 0] = np.inf
            distance[~self.clean.numpy()] = np.nan
            distances.append(distance)
        return np.stack(distances)


def make(name, about, seeds):
    official = Official(name)
    golden = {"clean": official.clean.numpy()}
    for component in official.components():
        results = [official.component(component, seed) for seed in seeds]
        golden.update({f"{component}/{key}": value for key, value in results[0].items()})
        if results[1:]:
            golden[f"{component}/robust_other_seeds"] = np.array(
                [result["robust"] for result in results[1:]]
            )
        report(name, component, official, results)
    whole = ["standard", "plus"] if official.classes == 10 else []
    for version in whole if name == "digits_robust_linf" else whole[:1]:
        used = seeds if version == "standard" else seeds[:1]
        runs = [official.run(official.autoattack([], seed, version), version) for seed in used]
        golden[f"{version}/robust"] = runs[0]
        if runs[1:]:
            golden[f"{version}/robust_other_seeds"] = np.array(runs[1:])
        report(name, version, official, [{"robust": robust} for robust in runs])
    losses = [
        "ce",
        *(["dlr"] if official.classes >= 3 else []),
        *(["dlr-targeted"] if official.classes >= 4 else []),
    ]
    for loss, component in zip(losses, ["apgd-ce", "apgd-dlr", "apgd-t"]):
        golden.update(
            {f"fixed/{component}/{key}": value for key, value in official.fixed_apgd(loss).items()}
        )
    golden["fixed/fab/distance"] = official.fixed_fab(())[0]
    golden["fixed/fab-t/distance"] = official.fixed_fab(
        tuple(range(2, min(official.classes, 10) + 1))
    )
    threat = {
        "network": golden_networks.THREATS[name][0],
        "norm": golden_networks.THREATS[name][1],
        "eps": official.eps,
    }
    golden["about"] = json.dumps(
        {**threat, **about, "seeds": list(seeds), "cpu_seconds": official.seconds}
    )
    write(f"{name}.npz", golden)


def report(name, what, official, results):
    robust = ", ".join(f"{result['robust'].mean():.1%}" for result in results)
    print(f"{name:<22} {what:<9} robust {robust}, {official.seconds[what]:.1f} s", flush=True)


def make_projections(about):
    """FAB's projections onto a hyperplane inside the box [0, 1], on random cases and on degenerate
    ones.
    """
    module = importlib.import_module("autoattack.fab_projections")
    rng = np.random.default_rng(0)
    cases, size = 56, 12
    points = rng.uniform(0, 1, (cases, size))
    normals = rng.standard_normal((cases, size))
    inside = rng.uniform(
        0, 1, (cases, size)
    )  # a point of the box through which the hyperplane goes
    points[8:16] = np.round(points[8:16])  # corners
    points[12:20, ::2] = inside[12:20, ::2]
    normals[16:24, ::3] = 0.0  # directions that do not count
    normals[24:28, 1:] = 0.0  # one that does alone
    normals[28:32] *= 1e-4
    normals[32:36] *= 1e4
    normals[36:40] = np.sign(normals[36:40])  # ties
    normals, points = normals.astype(np.float32), points.astype(np.float32)
    offsets = (normals * inside.astype(np.float32)).sum(1)
    offsets[40:44] = np.abs(normals[40:44]).sum(1) + 1  # out of the box's reach, beyond either end
    offsets[44:48] = -np.abs(normals[44:48]).sum(1) - 1
    offsets[48:50] = (normals[48:50] * points[48:50]).sum(1)  # through the point itself
    given = {"points": points, "normals": normals, "offsets": offsets.astype(np.float32)}
    tensors = [torch.tensor(array) for array in given.values()]
    for norm in ("linf", "l2"):
        given[norm] = getattr(module, f"projection_{norm}")(
            *[tensor.clone() for tensor in tensors]
        ).numpy()
    write("fab_projections.npz", {**given, "about": json.dumps(about)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--official", required=True, help="path of a checkout of github.com/fra31/auto-attack"
    )
    parser.add_argument("--commit", default="a392200", help="the checkout's commit, to be recorded")
    parser.add_argument("--names", default=",".join(golden_networks.NAMES), help="which to make")
    options = parser.parse_args()
    folder = pathlib.Path(options.official)
    if not (folder / "autoattack" / "autoattack.py").is_file():
        parser.error(f"--official: {str(folder)!r} is no checkout of github.com/fra31/auto-attack")
    names = options.names.split(",")
    if unknown := set(names) - set(golden_networks.NAMES):
        parser.error(
            f"unknown names {', '.join(sorted(unknown))}; known are "
            f"{', '.join(golden_networks.NAMES)}"
        )
    sys.path.insert(0, str(folder))
    torch.set_num_threads(1)
    digest = hashlib.sha256()
    for path in sorted((folder / "autoattack").glob("*.py")):
        digest.update(path.read_bytes())
    about = {
        "official_commit": options.commit,
        "official_sha256": digest.hexdigest(),
        "torch": torch.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }

    with contextlib.redirect_stderr(sys.stdout):
        for name in names:
            make(name, about, SEEDS if name.startswith("digits") else SEEDS[:1])
        make_projections(about)


if __name__ == "__main__":
    main()
