"""Ask about the custom functions, custom operators and control flow in PyTorch's own tests.

    python benchmarks/function_sweep_torch.py       # needs expecttest

`autograd_function_db`, `custom_op_db` and `hop_db` of `torch.testing._internal`, with the inputs
that are sampled there, in float64 and float32, with the default checks. docs/op_sweep.md says what
each failure is.
"""

import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.testing._internal.autograd_function_db import autograd_function_db
from torch.testing._internal.custom_op_db import custom_op_db
from torch.testing._internal.hop_db import hop_db

from benchmarks.sweep import Case, sweep

EACH = 3  # samples of an operator


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sweep(calls())


def calls() -> Iterator[Case]:
    for op in (*autograd_function_db, *custom_op_db, *hop_db):
        for dtype in (torch.float64, torch.float32):
            samples = op.sample_inputs("cpu", dtype, requires_grad=True)
            for sample in islice(samples, EACH):
                name = f"{op.name} {op.variant_test_name}, {dtype}"
                yield name, op.op, (sample.input, *sample.args), sample.kwargs


if __name__ == "__main__":
    main()
