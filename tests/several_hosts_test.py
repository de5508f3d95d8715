"""Workers that are not on one host, or that another system starts.

    pytest tests/several_hosts_test.py -m slow    # as root, with the extra [ray]

Two hosts are two network namespaces of this machine, joined by a cable of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fresh_process
from tests.several_workers_test import SHARED, apart, done, two_workers, weights

pytestmark = pytest.mark.slow
ADDRESSES = ("10.213.77.1", "10.213.77.2")
# Before TensorFlow starts a thread: one belongs to the namespace that it was started in.
_ON_HOST = """
import ctypes

network = os.open("/run/netns/{}", os.O_RDONLY)
assert ctypes.CDLL(None).setns(network, 0) == 0
"""


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts():
    """The names of two namespaces that see nothing but each other."""
    names = [f"rt{os.getpid()}{side}" for side in "ab"]
    if not shutil.which("ip"):
        pytest.skip("network namespaces need the command ip")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth",
           "peer", "name", names[1], "netns", names[1])  # fmt: skip
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not to be had here: {error.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def sent(host):
    """Bytes that went into the cable at a host's end."""
    (link,) = json.loads(ip("-n", host, "-s", "-json", "link", "show", "dev", host))
    return link["stats64"]["tx"]["bytes"]


def test_two_hosts_train_one_model(hosts, tmp_path):
    arguments = "--train_steps=6", *SHARED
    before = [sent(host) for host in hosts]
    code = [_ON_HOST.format(host) for host in hosts]
    done(two_workers(*arguments, f"--run_dir={tmp_path}/two", first=code, hosts=ADDRESSES))
    one = fresh_process.run_module("tf_robust_transfer.train", *arguments,
                                   f"--run_dir={tmp_path}/one")  # fmt: skip
    done([one])
    assert apart(tmp_path / "one", tmp_path / "two") <= 1e-5
    gradients = 6 * sum(array.nbytes for array in weights(tmp_path / "two"))
    for host, bytes_before in zip(hosts, before, strict=True):
        # A ring of two sends each gradient once; the rest is small.
        assert sent(host) - bytes_before > gradients


def test_two_workers_of_ray_train(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    arguments = "--train_steps=6", *SHARED
    root = Path(__file__).resolve().parents[1]
    found = subprocess.run(
        [sys.executable, root / "examples/ray_train.py", *arguments, f"--run_dir={tmp_path}/two"],
        cwd=root,
        # Ray keeps a token at home. Its workers are nice by 15: they starve beside other tests.
        env=os.environ | {"HOME": str(tmp_path), "RAY_worker_niceness": "0"},
        timeout=600,
        check=False,
    )
    assert found.returncode == 0
    one = fresh_process.run_module("tf_robust_transfer.train", *arguments,
                                   f"--run_dir={tmp_path}/one")  # fmt: skip
    done([one])
    assert apart(tmp_path / "one", tmp_path / "two") <= 1e-5
