"""Ask whether `torch.vmap` of every operator that PyTorch samples is a loop: defects, false alarms.

    python benchmarks/vmap_sweep_torch.py float32

Four small samples of each operator of `op_db`. docs/op_sweep.md says what each failure is.
"""

import sys
from collections.abc import Iterator
from itertools import islice

import torch
from op_sweep_torch import _name, _posed, _small
from sweep import Case, sweep
from torch.testing._internal.common_methods_invocations import op_db

SAMPLES, SEEN, LARGEST = 4, 30, 2000  # samples asked, of the first, with so many entries at most


def main() -> None:
    torch.set_num_threads(1)
    sweep(_cases(getattr(torch, sys.argv[1] if len(sys.argv) > 1 else "float64")), checks="vmap")


def _cases(dtype: torch.dtype) -> Iterator[Case]:
    for op in op_db:
        if not op.supports_autograd or dtype not in op.supported_dtypes("cpu"):
            continue
        torch.manual_seed(0)
        samples = islice(op.sample_inputs("cpu", dtype, requires_grad=True), SEEN)
        for sample in islice((s for s in samples if _small(s, LARGEST)), SAMPLES):
            yield _name(op), *_posed(op, sample), {}


if __name__ == "__main__":
    main()
