"""Ask about many targets in a row, and count what is said: what the sweeps share."""

from collections import Counter
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Any

import gradcheck
from gradcheck.errors import GradcheckError

__all__ = ["Case", "sweep"]

Case = tuple[str, Any, tuple[Any, ...], Mapping[str, Any]]  # name, target, inputs, keywords


def sweep(cases: Iterable[Case], checks: str = "default") -> None:
    """Ask about each case with `checks`; print those that do not pass, and the counts."""
    counts, started = Counter[str](), perf_counter()
    for name, target, inputs, keywords in cases:
        try:
            result = gradcheck.check(target, *inputs, kwargs=keywords or None, checks=checks)
            said, text = str(result.verdict), str(result)
            if not result.findings:  # the target cannot do it
                said = "not supported"
        except GradcheckError as error:
            said, text = "refused", str(error)
        counts[said] += 1
        if said not in ("pass", "not supported"):
            print(f"{said:14}{name}\n{text}\n", flush=True)
    print(f"{counts.total()} calls, {perf_counter() - started:.0f} s: {dict(counts)}")
