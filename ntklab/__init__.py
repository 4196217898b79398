"""Neural tangent kernels and adversarial robustness, in JAX: the package behind the book.

Its floors, lowest first: data and ledger, kernels, predictors, attacks, papers. A submodule is
loaded when it is first used, so that importing the package costs next to nothing.
`ntklab.doctor()` says what this machine has and, in one sentence, what is wrong.
"""

import importlib

__version__ = "0.1.0"

_SUBMODULES = (
    "attacks",
    "certificates",
    "charts",
    "data",
    "dynamics",
    "features",
    "kernels",
    "ledger",
    "nets",
    "papers",
    "predictors",
)

__all__ = ["__version__", "doctor", *_SUBMODULES]


def __getattr__(name: str):
    """Load a submodule when it is first asked for (PEP 562)."""
    if name in _SUBMODULES:
        return importlib.import_module(f"ntklab.{name}")
    raise AttributeError(f"ntklab has no {name!r}; it has {', '.join(__all__[1:])}.")


def __dir__():
    """The public names, loaded or not."""
    return sorted(__all__)


def doctor():
    """Say what this machine has and what is wrong: `python -m ntklab doctor` in Python."""
    from ntklab._doctor import report

    return report()
