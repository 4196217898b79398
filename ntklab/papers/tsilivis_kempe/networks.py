"""The convolutional networks of section 5, and how the paper trains them."""

from dataclasses import dataclass, replace
from typing import Any

from ntklab import attacks, data, nets, training
from ntklab._typing import Number

#: On which examples a network is trained.
ARMS = ("standard", "fgsm", "pgd")
_MODULES = {"mnist": nets.MnistCNN, "cifar10": nets.CNNMega}


@dataclass(frozen=True)
class Setting:
    """A data set with its network, and how the network is trained on it.

    Attributes:
      data: `mnist` with `nets.MnistCNN`, or `cifar10` with `nets.CNNMega`.
      n_train: training images, None for all.
      n_test: test images, None for all.
      side: pixels a side, None for all.
      epochs: of training.
      batch_size: examples a step.
      learning_rate: of SGD, constant.
      momentum: of SGD.
      shuffle: draw a new order every epoch; the authors' code keeps the order of the files.
      eps: budget of attacks in training and test, linf, on [0, 1] images.
      step_size: of PGD, in training and test.
      train_steps: PGD steps in training.
      test_steps: PGD steps against the trained network.
      random_start: of PGD; the authors' code has none.
    """

    data: str = "mnist"
    n_train: int | None = None
    n_test: int | None = None
    side: int | None = None
    epochs: int = 200
    batch_size: int = 300
    learning_rate: float = 0.01
    momentum: float = 0.0
    shuffle: bool = False
    eps: float = 0.3
    step_size: float = 0.1
    train_steps: int = 20
    test_steps: int = 20
    random_start: bool = False


#: Section 5 and supplement E; what is not said there is as in the authors' robust_train_CNN.py.
MNIST = Setting()
CIFAR = replace(MNIST, data="cifar10", batch_size=250, eps=8 / 255, step_size=2 / 255)


def load(setting: Setting, seed: int) -> data.Dataset:
    """The images of a seed."""
    sizes = {"n_train": setting.n_train, "n_test": setting.n_test, "side": setting.side}
    return data.load(setting.data, seed=seed, **sizes)


def module(setting: Setting) -> Any:
    """The network."""
    return _MODULES[setting.data]()


def strategy(setting: Setting, arm: str) -> Any:
    """On which examples a batch is learned, `arm` being one of `ARMS`."""
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}.")
    if arm == "standard":
        return training.Standard()
    if arm == "fgsm":
        return training.FGSM(setting.eps)
    s = setting
    return training.PGD(s.eps, s.train_steps, s.step_size, random_start=s.random_start)


def phase(
    setting: Setting, arm: str, epochs: Number | None = None, model: str = "nonlinear"
) -> training.Phase:
    """Training for `epochs`, all of them where None, of the network or of its tangent."""
    return training.Phase(
        setting.epochs if epochs is None else epochs,
        strategy(setting, arm),
        model=model,
        learning_rate=training.constant(setting.learning_rate),
        momentum=setting.momentum,
    )


def test_attack(setting: Setting) -> Any:
    """PGD against a trained network."""
    s = setting
    settings = {"step_size": s.step_size, "random_start": s.random_start}
    return attacks.pgd(s.eps, steps=s.test_steps, **settings)


def products(setting: Setting) -> float:
    """Multiplications of one forward pass on one image."""
    full = 28 if setting.data == "mnist" else 32
    side = setting.side or full
    if setting.data == "mnist":
        half, quarter = side // 2, side // 4
        convolutions = side**2 * 9 * 32 + half**2 * 9 * 32 * 64
        return float(convolutions + quarter**2 * 64 * 256 + 256 * 10)
    half, quarter = side // 2, side // 4
    early = side**2 * 9 * (3 * 32 + 32 * 32)
    late = half**2 * 9 * (32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
    return float(early + late + quarter**2 * 128 * 10)
