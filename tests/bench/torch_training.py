"""Run by the second interpreter: adversarial training as a good user of PyTorch writes it.

    python torch_training.py NETWORK SETTINGS FOLDER

SETTINGS is JSON: batch, steps, attack_steps, eps, step_size, rate, momentum, cores. It reads data
and initial weights from `FOLDER/problem.npz`, tries memory formats and `torch.compile`, takes the
fastest, says so on standard error, and trains once more for each line on standard input.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class ToyCNN(nn.Module):
    """`ntklab.nets.ToyCNN`."""

    def __init__(self):
        super().__init__()
        self.conv_0 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv_1 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(288, 128)
        self.logits = nn.Linear(128, 10)

    def forward(self, x):
        x = F.avg_pool2d(F.relu(self.conv_0(x)), 2)
        x = F.avg_pool2d(F.relu(self.conv_1(x)), 2)
        return self.logits(F.relu(self.hidden(x.flatten(1))))


class CNNMega(nn.Module):
    """`ntklab.nets.CNNMega`."""

    def __init__(self):
        super().__init__()
        widths = (3, 32, 32, 64, 64, 128, 128)
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"conv_{i}", nn.Conv2d(a, b, 3, padding=1))
        self.logits = nn.Linear(8192, 10)

    def forward(self, x):
        for i in range(6):
            x = F.relu(getattr(self, f"conv_{i}")(x))
            if i == 1:
                x = F.max_pool2d(x, 2)
        return self.logits(F.avg_pool2d(x, 2).flatten(1))


NETWORKS = {"ToyCNN": ToyCNN, "CNNMega": CNNMega}


def filled(network, stored):
    """The network with flax's weights: kernels HWIO to OIHW, rows of the dense layer likewise."""
    channels = 0
    with torch.no_grad():
        for name, layer in network.named_children():
            kernel = stored[f"v/{name}/kernel"]
            if kernel.ndim == 4:
                channels = kernel.shape[3]
                kernel = kernel.transpose(3, 2, 0, 1)
            elif channels:
                side = round((len(kernel) / channels) ** 0.5)
                kernel = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
                kernel, channels = kernel.reshape(len(kernel), -1), 0
            else:
                kernel = kernel.T
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.from_numpy(stored[f"v/{name}/bias"]))
    return network


def attacked(forward, x, y, s):
    """PGD from a random point of the ball; only the gradient of the images is computed."""
    low, high = (x - s["eps"]).clamp_(0, 1), (x + s["eps"]).clamp_(0, 1)
    z = torch.empty_like(x).uniform_(-s["eps"], s["eps"]).add_(x).clamp_(0, 1)
    for _ in range(s["attack_steps"]):
        z.requires_grad_(True)
        loss = F.cross_entropy(forward(z), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        with torch.no_grad():
            z = z.detach().add_(gradient.sign_(), alpha=s["step_size"])
            z = torch.minimum(torch.maximum(z, low), high)
    return z.detach()


def train(network, forward, x, y, s, steps):
    """Losses of the first and of the last step."""
    parameters = list(network.parameters())
    descent = torch.optim.SGD(parameters, lr=s["rate"], momentum=s["momentum"], foreach=True)
    losses, batches = [], len(x) // s["batch"]
    for step in range(steps):
        rows = slice(step % batches * s["batch"], (step % batches + 1) * s["batch"])
        for p in parameters:
            p.requires_grad_(False)
        z = attacked(forward, x[rows], y[rows], s)
        for p in parameters:
            p.requires_grad_(True)
        loss = F.cross_entropy(forward(z), y[rows])
        descent.zero_grad(set_to_none=True)
        loss.backward()
        descent.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def variants(name, stored, images):
    """Every way to run the network that this machine has: `(words, network, forward, images)`."""
    for words, layout in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        network = filled(NETWORKS[name](), stored).to(memory_format=layout)
        x = images.contiguous(memory_format=layout)
        yield words, network, network, x
        yield f"{words}, torch.compile", network, torch.compile(network), x


def fastest(name, stored, images, y, s):
    """Time the variants on a few steps, say so, and take the fastest."""
    found, steps = [], min(s["steps"], s["trial"])
    for words, network, forward, x in variants(name, stored, images):
        try:
            train(network, forward, x, y, s, 1)
        except Exception as error:  # torch.compile asks for a compiler
            print(f"torch, {words}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        times = []
        for _ in range(2):
            start = time.perf_counter()
            train(network, forward, x, y, s, steps)
            times.append(time.perf_counter() - start)
        found.append((min(times), words, network, forward, x))
        print(
            f"torch {torch.__version__}, {words}: {min(times) / steps:.4g} s a step",
            file=sys.stderr,
        )
    return min(found, key=lambda one: one[0])[1:]


def main(name: str, settings: str, folder: Path) -> None:
    """Answer every line with one JSON line."""
    s = json.loads(settings)
    torch.set_num_threads(s["cores"])
    torch.manual_seed(0)
    stored = dict(np.load(folder / "problem.npz"))
    images = torch.from_numpy(stored["x"]).permute(0, 3, 1, 2)
    y = torch.from_numpy(stored["y"]).long()
    words, network, forward, x = fastest(name, stored, images, y, s)
    print(json.dumps({"variant": words}), flush=True)
    for _ in sys.stdin:
        filled(network, stored)
        losses = train(network, forward, x, y, s, s["steps"])
        print(json.dumps({"variant": words, "losses": losses}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
