"""Trains a run alone and one that is killed and goes on, and compares their weights.

    python scripts/kill_and_resume.py FOLDER [SETTING ...] -- FLAGS OF TRAIN

SETTING: flags that are joined by commas; by default two settings, "--jit=on,--deterministic=on" and
"--deterministic=auto". A run alone that is there is not trained again. Prints a line of JSON for
each, with the largest difference of a weight: 0 is to the bit. The kill is SIGKILL, soon after the
first checkpoint."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

SETTINGS = ("--jit=on,--deterministic=on", "--deterministic=auto")


def command(folder, flags):
    return [sys.executable, "-m", "tf_robust_transfer.train", *flags, f"--run_dir={folder}"]


def killed_after_a_checkpoint(folder, flags) -> int:
    """Starts the run, kills it once it has a checkpoint; returns the checkpoint's step."""
    process = subprocess.Popen(command(folder, [*flags, "--checkpoint_minutes=0.001"]))
    index = folder / "checkpoints" / "checkpoint"
    while process.poll() is None and not index.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL or (folder / "model.keras").exists():
        raise SystemExit(f"kill_and_resume.py: {folder} ended before it was killed")
    return int(index.read_text().split("ckpt-")[1].split('"')[0])


def main():
    place = sys.argv.index("--")
    folder, *settings = sys.argv[1:place]
    flags = sys.argv[place + 1 :]
    root = pathlib.Path(folder)
    for number, setting in enumerate(settings or SETTINGS):
        alone, killed = root / f"{number}_alone", root / f"{number}_killed"
        shutil.rmtree(killed, ignore_errors=True)
        chosen = [*flags, *setting.split(",")]
        subprocess.run(command(alone, chosen), check=True)
        step = killed_after_a_checkpoint(killed, chosen)
        subprocess.run(command(killed, [*chosen, "--checkpoint_minutes=0.001"]), check=True)
        print(
            json.dumps({"setting": setting, "killed_at": step} | apart(alone, killed)), flush=True
        )


def apart(one, other) -> dict:
    import numpy as np

    import tf_robust_transfer as rt

    weights = [rt.load_model(str(folder)).get_weights() for folder in (one, other)]
    most = max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True))
    training = json.loads((one / "results.json").read_text())["training"]
    return {"largest_difference": most, "training": training}


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
