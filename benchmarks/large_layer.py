"""One large layer: what a check of it costs, in time and in memory, beside PyTorch's own.

    python -m benchmarks.large_layer [WIDTH]

The layer is linear, WIDTH × WIDTH (2048), in float64, at a batch of eight. Time is told in units of
one gradient of the layer, measured in the same run; memory in units of its leaves: the most that
the process holds during a check above what it held before, the leaves not counted. Each checker
runs in a process of its own, after a check of a small layer that loads what it needs.
"""

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import gradcheck

BATCH, REPEATS = 8, 5


def leaves_of(width: int) -> tuple[torch.Tensor, ...]:
    """An input, a weight and a bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, width), (width, width), (width,))
    return tuple(
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in shapes
    )


def ours(leaves: tuple[torch.Tensor, ...], checks: str) -> None:
    result = gradcheck.check(torch.nn.functional.linear, *leaves, checks=checks)
    assert result.passed, result


def fast(leaves: tuple[torch.Tensor, ...]) -> None:
    assert torch.autograd.gradcheck(torch.nn.functional.linear, leaves, fast_mode=True)


CHECKERS: dict[str, Callable[[tuple[torch.Tensor, ...]], None]] = {
    "ours, vjp alone": lambda leaves: ours(leaves, "vjp"),
    "ours, default": lambda leaves: ours(leaves, "default"),
    "torch fast": fast,
}


def held() -> int:
    """The memory that this process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def most_held(call: Callable[[], Any]) -> int:
    """The most memory that is held during a call, above what was held before it."""
    before, seen, is_over = held(), [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(5e-4):
            seen[0] = max(seen[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    is_over.set()
    watcher.join()
    return seen[0]


def measured(name: str, width: int) -> tuple[float, float]:
    """The cost of one checker: in gradients, and in leaves."""
    torch.set_num_threads(1)
    check, leaves = CHECKERS[name], leaves_of(width)
    check(leaves_of(4))
    output = torch.nn.functional.linear(*leaves)
    size = sum(leaf.nbytes for leaf in leaves)
    memory = most_held(lambda: check(leaves)) / size

    def gradient() -> None:
        torch.autograd.grad(torch.nn.functional.linear(*leaves), leaves, torch.ones_like(output))

    ratios = []
    for _ in range(REPEATS):
        spent = seconds(lambda: check(leaves))
        ratios.append(spent / median(seconds(gradient) for _ in range(REPEATS)))
    return median(ratios), memory


def main() -> None:
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    print(f"{width} x {width} weight, batch {BATCH}, float64, one thread")
    print(f"{'checker':<16} {'gradients':>10} {'leaves of memory':>17}")
    for name in CHECKERS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            spent, memory = pool.apply(measured, (name, width))
        print(f"{name:<16} {spent:>10.1f} {memory:>17.1f}")


if __name__ == "__main__":
    main()
