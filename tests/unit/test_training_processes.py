"""Training in processes of its own: killed at a random moment, and spread over devices."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import sys
import jax, jax.numpy as jnp, numpy as np
from ntklab import nets, training as tr

rng = np.random.default_rng(0)
x = jnp.asarray(rng.integers(0, 256, (96, 8, 8, 1)), jnp.uint8)
y = jnp.asarray(rng.integers(0, 3, 96), jnp.int32)
net = nets.ResNet(blocks=(1,), widths=(4,), outputs=3)
rate = tr.constant(0.05)
phases = [
    tr.Phase(3, tr.RSFGSM(0.03), learning_rate=rate),
    tr.Phase(2, model="centred", statistics="frozen", learning_rate=rate),
]
"""

KILLED = """
trained = tr.train(
    net, (x, y), phases, batch_size=8, folder=sys.argv[1], resume=True, save_seconds=0.0,
    save_at=(1.5, 4), augment=tr.CropFlip(1), show_progress=False,
)
logits = trained.logits_fn()(x[:8].astype(jnp.float32) / 255)
np.save(f"{sys.argv[1]}/logits.npy", logits)
"""

SPREAD = """
curves = {}
for count in (1, 2, 8):
    devices = jax.devices()[:count]
    trained = tr.train(net, (x, y), phases, batch_size=16, devices=devices, show_progress=False)
    curves[f"loss{count}"] = [row["loss"] for row in trained.metrics]
    leaves = jax.tree.leaves(trained.weights)
    assert all(len(a.sharding.device_set) == count for a in leaves)
    curves[f"mean{count}"] = np.asarray(leaves[-1])
np.savez(sys.argv[1], **curves)
"""


def start(code, *arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", RUN + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_killed_at_a_random_moment_and_resumed_equals_an_undisturbed_run(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(KILLED, whole)
    finish(undisturbed)
    process = start(KILLED, killed)
    metrics = killed / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n")):
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))  # somewhere after the first epoch
    assert process.poll() is None, "it was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "logits.npy").exists()
    assert 0 < len(rows(killed)) < len(rows(whole))
    finish(start(KILLED, killed))
    assert rows(killed) == rows(whole)
    np.testing.assert_array_equal(*(np.load(f / "logits.npy") for f in (killed, whole)))
    for name in ("epoch-1.5.npz", "epoch-4.npz"):
        one, other = np.load(killed / name), np.load(whole / name)
        assert all(np.array_equal(one[k], other[k]) for k in other.files)


def test_two_and_eight_devices_give_the_loss_curve_of_one(tmp_path):
    path = tmp_path / "curves.npz"
    finish(start(SPREAD, path, devices=8))
    found = np.load(path)
    for count in (2, 8):
        np.testing.assert_allclose(found[f"loss{count}"], found["loss1"], rtol=1e-4)
        np.testing.assert_allclose(found[f"mean{count}"], found["mean1"], rtol=1e-3, atol=1e-4)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    from jax import devices

    from ntklab import nets, training

    x, y = np.zeros((9, 2), np.float32), np.arange(9, dtype=np.int32) % 2
    with pytest.raises(ValueError, match="multiple of the number of devices"):
        training.train(
            nets.FC(widths=(2,), outputs=2),
            (x, y),
            [training.Phase(1)],
            batch_size=9,
            devices=devices() * 2,
        )
