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
from collections import Counter, defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from jax._src.internal_test_util.test_harnesses import all_harnesses

import gradcheck
from gradcheck.errors import GradcheckError

LARGEST = 20_000  # entries of the inputs of a call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--each", type=int, default=3, help="calls of each group")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--only", default="", help="part of a group's name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    groups: dict[str, list[Any]] = defaultdict(list)
    for harness in all_harnesses:
        known = harness.dtype is not None and np.dtype(harness.dtype).name == options.dtype
        if known and options.only in harness.group_name:
            groups[harness.group_name].append(harness)
    rng, counts, started = random.Random(options.seed), Counter[str](), perf_counter()
    for harnesses in groups.values():
        for harness in rng.sample(harnesses, min(options.each, len(harnesses))):
            inputs = harness.dyn_args_maker(np.random.RandomState(0))
            if sum(np.size(x) for x in inputs) > LARGEST:
                continue
            try:
                result = gradcheck.check(harness.dyn_fun, *inputs)
                said, text = str(result.verdict), str(result)
            except GradcheckError as error:
                said, text = "refused", str(error)
            counts[said] += 1
            if said != "pass":
                print(f"{said:14}{harness.fullname}\n{text}\n", flush=True)
    print(f"{counts.total()} calls, {perf_counter() - started:.0f} s: {dict(counts)}")


if __name__ == "__main__":
    main()
