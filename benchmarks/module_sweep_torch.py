"""Ask about every module that PyTorch samples for its own tests: false alarms.

    python benchmarks/module_sweep_torch.py --dtype float32

`module_db` holds the modules of `torch.nn` with constructor arguments and inputs. Each is asked in
training and in eval mode, with the default checks. PyTorch's modules are right, so nearly every
failure is a false alarm; docs/op_sweep.md says what each of the rest is.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.testing._internal.common_modules import module_db

from benchmarks.sweep import Case, sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--only", default="", help="part of a module's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sweep(modules(getattr(torch, options.dtype), options.only))


def modules(dtype: torch.dtype, only: str) -> Iterator[Case]:
    for info in module_db:
        if only not in info.name:
            continue
        for training in (True, False):
            samples = info.module_inputs_func(
                info, device="cpu", dtype=dtype, requires_grad=True, training=training
            )
            for k, sample in enumerate(samples):
                if sample.forward_input is None:
                    continue
                torch.manual_seed(0)
                made = sample.constructor_input
                module = info.module_cls(*made.args, **made.kwargs).to(dtype).train(training)
                called = sample.forward_input
                mode = "training" if training else "eval"
                yield f"{info.name} #{k}, {mode}", module, called.args, called.kwargs


if __name__ == "__main__":
    main()
