"""Strict arithmetic and checked shapes for every test."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

# Before anything of ntklab is imported: every annotated shape is checked from here on.
install_import_hook("ntklab", "beartype.beartype")

MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def strict_arithmetic():
    """No silent promotion of dtypes or ranks inside ntklab."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def compiled_code_freed():
    """What tests compiled is freed before it is too much.

    Each compiled function holds some memory maps, of which Linux gives a process 65,530. Beyond
    them the compiler dies of a segmentation fault.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 10_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    """One PRNG key for tests that do not care which."""
    return jax.random.key(0)
