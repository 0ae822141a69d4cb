"""What people publish is right until shown otherwise: no layer of these packages is accused.

Optional: a package that is not installed is skipped. To install those that are known to run,

    pip install equinox flax dm-haiku diffrax optimistix lineax \
        entmax ncps torchdiffeq nflows normflows x-transformers mambapy
"""

from collections.abc import Callable

import pytest
import torch

import gradcheck
from gradcheck import Verdict
from tests.thirdparty.layers import LAYERS, Built

# An answer that is neither right nor wrong, and why there is no other.
OPEN = {
    # A softmax does not change when all scores do: the gradient of the keys' bias is rounding.
    "nnx_attention": Verdict.INCONCLUSIVE,
    # Its softmax runs in float32 inside a float64 layer; the steps of that are taken for kinks.
    "x_transformers_attention": Verdict.INCONCLUSIVE,
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_a_published_layer_is_not_accused(build: Callable[[], Built]) -> None:
    torch.manual_seed(0)
    try:
        target, inputs = build()
    except ImportError as missing:
        pytest.skip(f"an optional package is not installed: {missing}")

    result = gradcheck.check(target, *inputs)

    assert result.verdict in (Verdict.PASS, OPEN.get(build.__name__)), str(result)
