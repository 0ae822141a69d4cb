"""What people publish is right until shown otherwise: every layer of these packages passes.

Optional: a package that is not installed is skipped. To install those that are known to run,

    pip install equinox flax dm-haiku diffrax optimistix lineax \
        entmax ncps torchdiffeq nflows normflows x-transformers mambapy transformers
"""

from collections.abc import Callable

import pytest
import torch

import gradcheck
from tests.thirdparty.layers import LAYERS, Built


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_a_published_layer_passes(build: Callable[[], Built]) -> None:
    torch.manual_seed(0)
    try:
        target, inputs = build()
    except ImportError as missing:
        pytest.skip(f"an optional package is not installed: {missing}")

    result = gradcheck.check(target, *inputs)

    assert result.passed, str(result)
