"""Ask about the calls of every primitive that JAX keeps for its own tests: false alarms.

    python benchmarks/harness_sweep_jax.py --dtype float32 --each 3      # needs absl-py

`jax._src.internal_test_util.test_harnesses` holds calls of all primitives, with inputs at corners
of their domains. Of each group as many as `--each` are drawn and asked with the default checks.
docs/op_sweep.md says what each failure is.
"""

import argparse
import random
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from jax._src.internal_test_util.test_harnesses import all_harnesses

from benchmarks.sweep import Case, sweep

LARGEST = 20_000  # entries of the inputs of a call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--each", type=int, default=3, help="calls of each group")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--only", default="", help="part of a group's name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sweep(calls(options.dtype, options.each, options.seed, options.only))


def calls(dtype: str, each: int, seed: int, only: str) -> Iterator[Case]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for harness in all_harnesses:
        known = harness.dtype is not None and np.dtype(harness.dtype).name == dtype
        if known and only in harness.group_name:
            groups[harness.group_name].append(harness)
    rng = random.Random(seed)
    for harnesses in groups.values():
        for harness in rng.sample(harnesses, min(each, len(harnesses))):
            inputs = harness.dyn_args_maker(np.random.RandomState(0))
            if sum(np.size(x) for x in inputs) <= LARGEST:
                yield harness.fullname, harness.dyn_fun, tuple(inputs), {}


if __name__ == "__main__":
    main()
