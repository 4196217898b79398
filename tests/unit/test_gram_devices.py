"""`gram` on several devices and on several hosts: bit for bit what one device gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntklab.kernels import FullyConnected, gram

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).normal(size=(301, 20)).astype(np.float32)
KERNEL = FullyConnected(depth=2)

DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from ntklab.kernels import FullyConnected, gram, plan_gram

def network(a, b):  # entries (2, 2)
    features = lambda x: jnp.stack([jnp.tanh(x), jnp.cos(x)], 2)
    return jnp.einsum("idk,jdl->ijkl", features(a), features(b))

assert len(jax.devices()) == 8
x = np.random.default_rng(0).normal(size=(301, 20)).astype(np.float32)
out = {}
for count in (1, 2, 8):
    devices = jax.devices()[:count]
    assert plan_gram(FullyConnected(depth=2), x, devices=devices).devices == count
    out[f"symmetric{count}"] = gram(FullyConnected(depth=2), x, devices=devices)
    out[f"other{count}"] = gram(FullyConnected(depth=2), x, x[:77], devices=devices, block=100)
    out[f"classes{count}"] = gram(network, x[:60], devices=devices)
np.savez(sys.argv[1], **out)
"""

HOST = """
import sys
import jax, numpy as np
number, address, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
from ntklab.kernels import FullyConnected, gram

assert jax.process_count() == 2 and len(jax.devices()) == 4
x = np.random.default_rng(0).normal(size=(301, 20)).astype(np.float32)
kernel = FullyConnected(depth=2)
own = gram(kernel, x, memory_budget=f"{1 + int(number)}GiB")  # hosts may find unequal memory
other = gram(kernel, x, x[:77], path=f"{folder}/k.npy")
np.savez(f"{folder}/{number}.npz", own=own, other=other)
jax.distributed.shutdown()
"""


def start(code, devices, *arguments):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*children):
    try:
        for child in children:
            _, errors = child.communicate(timeout=240)
            assert child.returncode == 0, errors[-2000:]
    finally:
        for child in children:
            child.kill()
            child.communicate()


@pytest.fixture(scope="module")
def here():
    return {"symmetric": gram(KERNEL, X), "other": gram(KERNEL, X, X[:77])}


def test_one_two_and_eight_devices_agree_to_the_last_bit(tmp_path, here):
    finish(start(DEVICES, 8, tmp_path / "out.npz"))
    with np.load(tmp_path / "out.npz") as out:
        for name in ("symmetric", "other", "classes"):
            first = out[f"{name}1"]
            assert (first == out[f"{name}2"]).all() and (first == out[f"{name}8"]).all()
        for name, matrix in here.items():
            assert (out[f"{name}8"] == matrix).all()
        classes = out["classes8"]
    assert (classes == classes.swapaxes(0, 1).swapaxes(2, 3)).all()


def test_two_hosts_get_the_whole_matrix(tmp_path, here):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    finish(*(start(HOST, 2, number, address, tmp_path) for number in (0, 1)))
    for number in (0, 1):
        with np.load(tmp_path / f"{number}.npz") as out:
            assert (out["own"] == here["symmetric"]).all() and (out["other"] == here["other"]).all()
