"""Profile `gradcheck run` and add up the time by whose code it is.

    python benchmarks/where_time_goes.py [EXAMPLES]

Time is a function's own (callees not counted), under cProfile, which makes Python code look slower
than it is and compiled code no slower: the share of the frameworks is a lower bound. Arithmetic
between arrays is no call to the profiler and counts for the function it stands in, which is why
the reference, plain NumPy, has a row of its own.
"""

import cProfile
import pstats
import sys
from collections import defaultdict

from gradcheck import suites

OWNERS = (
    ("jax", ("/jax/", "/jaxlib/", "jaxlib.")),
    ("torch", ("/torch/", "torch.", "torch._C")),
    ("numpy", ("/numpy/", "numpy.")),
    ("reference (NumPy)", ("/reference/",)),
    ("hypothesis", ("/hypothesis/",)),
    ("gradcheck", ("/gradcheck/", "/suites/", "/reports/")),
)


def owner(filename: str, function: str) -> str:
    """Return whose code a profiled function is; built-ins tell it by their name."""
    where = function if filename == "~" else filename
    for name, marks in OWNERS:
        if any(mark in where for mark in marks):
            return name
    return "python"


def main() -> None:
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    profile = cProfile.Profile()
    report = profile.runcall(suites.run, examples=examples)
    spent: dict[str, float] = defaultdict(float)
    for (filename, _, function), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        spent[owner(filename, function)] += row[2]
    total = sum(spent.values())
    print(f"{report.verdict}: {examples} examples a suite, {report.elapsed_s:.0f} s profiled")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:<18} {seconds:7.1f} s  {seconds / total:6.1%}")


if __name__ == "__main__":
    main()
