"""What every test starts from."""

import gc
import socket
from pathlib import Path

import pytest
import tensorflow as tf

# The oracles round as float32 does; a GPU from Ampere on would use TF32.
tf.config.experimental.enable_tensor_float_32_execution(False)

# Tracing makes many objects, and the collector would look through all of TensorFlow's again and
# again.
gc.freeze()
gc.set_threshold(20_000, 20, 50)


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not tf.config.list_physical_devices("GPU"):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def at_the_root(monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[1])


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"the network was used: {arguments}")

    def connect(self, *arguments, connect=socket.socket.connect):
        return (connect if self.family == socket.AF_UNIX else refuse)(self, *arguments)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
