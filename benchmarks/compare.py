"""One run of our checker and its peers over the corpus: `python -m benchmarks.compare`.

Every case is put to every checker that knows its framework. A wrong gradient is caught, or not; a
right one is accused, or not; what raises for another reason counts as an error of the checker. The
time of a check is told in units of one gradient of the same target, measured in the same run; of a
toy that is mostly the checker's own Python, and how often the target is run is told beside it.
"""

import argparse
import json
import signal
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import torch
from jax.test_util import check_grads
from torch.autograd import gradcheck as torch_gradcheck
from torch.autograd import gradgradcheck as torch_gradgradcheck
from torch.autograd.gradcheck import GradcheckError

import gradcheck
from benchmarks.corpus import CASES, SLICES, Case

LIMIT_S = 20  # for one check of one case


@dataclass
class Runs:
    """How often a check ran its target."""

    forward: int = 0
    vjp: int = 0

    def of(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """`f`, counted."""

        def counted(*arrays: Any) -> Any:
            self.forward += 1
            return f(*arrays)

        return counted

    @contextmanager
    def of_backward(self) -> Iterator[None]:
        """What PyTorch pulls back within, counted."""
        pull = torch.autograd._engine_run_backward

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.vjp += 1
            return pull(*args, **kwargs)

        with mock.patch.object(torch.autograd, "_engine_run_backward", counted):
            yield


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one checker said of one case."""

    case: Case
    dtype: str
    tool: str
    said: str  # "pass", "fail", "inconclusive", "error"
    seconds: float
    gradients: float  # the same, in gradients of the target
    message: str = ""
    runs: Runs = field(default_factory=Runs)


Tool = Callable[[Case, Any, Any, Runs], tuple[str, str]]


def _ours(checks: str) -> Tool:
    def ask(case: Case, target: Any, inputs: Any, runs: Runs) -> tuple[str, str]:
        # As peers are asked for second derivatives by another call, so are we.
        asked = "all" if case.slice == "second order" and checks == "default" else checks
        result = gradcheck.check(target, *inputs, checks=asked)
        runs.forward, runs.vjp = result.evaluations.forward, result.evaluations.vjp
        return str(result.verdict), str(result)

    return ask


def _functional(target: Any, inputs: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A module as a function of its parameters too: otherwise peers would check none."""
    if not isinstance(target, torch.nn.Module):
        return getattr(target, "apply", target), inputs
    names = [name for name, _ in target.named_parameters()]

    def f(*arrays: Any) -> Any:
        given, own = arrays[: len(inputs)], arrays[len(inputs) :]
        found = torch.func.functional_call(target, dict(zip(names, own, strict=True)), given)
        return tuple(torch.utils._pytree.tree_leaves(found))

    return f, (*inputs, *(p.detach().clone() for p in target.parameters()))


def _torch_peer(fast: bool) -> Tool:
    def ask(case: Case, target: Any, inputs: Any, runs: Runs) -> tuple[str, str]:
        f, arrays = _functional(target, inputs)
        leaves = tuple(
            x.detach().clone().requires_grad_() if x.is_floating_point() or x.is_complex() else x
            for x in arrays
        )
        try:
            with runs.of_backward():
                torch_gradcheck(runs.of(f), leaves, fast_mode=fast)
                if case.slice == "second order":
                    torch_gradgradcheck(runs.of(f), leaves, fast_mode=fast)
        except GradcheckError as error:
            return "fail", str(error)
        return "pass", ""

    return ask


def _jax_peer(case: Case, target: Any, inputs: Any, runs: Runs) -> tuple[str, str]:
    wide = any(x.dtype.name == "float64" for x in inputs)
    order = 2 if case.slice == "second order" else 1
    runs.vjp = order  # pulled back once for each; the forward passes before that are counted
    with jax.enable_x64(wide):
        try:
            check_grads(runs.of(target), inputs, order=order, modes=("rev",))
        except AssertionError as error:
            return "fail", str(error)
    return "pass", ""


TOOLS: dict[str, tuple[str, Tool]] = {
    "gradcheck (ours)": ("torch jax", _ours("default")),
    "ours, vjp alone": ("torch jax", _ours("vjp")),  # the question that the peers ask
    "torch slow": ("torch", _torch_peer(False)),
    "torch fast": ("torch", _torch_peer(True)),
    "jax check_grads": ("jax", _jax_peer),
}


class TookTooLong(Exception):
    pass


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TookTooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def one_gradient(case: Case, dtype: str) -> float:
    """Seconds of one forward and backward pass of the target, the least of three."""
    from gradcheck.adapters import problem_of

    target, inputs = case.make(dtype)
    problem = problem_of(target, inputs)
    u = problem.value(problem.point)
    times = []
    for _ in range(3):
        started = perf_counter()
        problem.vjp(problem.point, u)
        times.append(perf_counter() - started)
    return min(times)


def ask(tool: str, case: Case, dtype: str, unit: float) -> Outcome:
    target, inputs = case.make(dtype)
    runs = Runs()
    started = perf_counter()
    try:
        with _within(LIMIT_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said, message = TOOLS[tool][1](case, target, inputs, runs)
    except TookTooLong:
        said, message = "error", f"not finished after {LIMIT_S} s"
    except Exception as error:  # the checker could not cope: that is its answer
        said, message = "error", f"{type(error).__name__}: {error}"
    seconds = perf_counter() - started
    return Outcome(
        case=case,
        dtype=dtype,
        tool=tool,
        said=said,
        seconds=seconds,
        gradients=seconds / unit if unit else float("nan"),
        message=message,
        runs=runs,
    )


def run(cases: list[Case], dtypes: list[str], tools: list[str]) -> list[Outcome]:
    outcomes = []
    for number, case in enumerate(cases):
        print(f"\r{number + 1} of {len(cases)}  {case!s:70.70}", end="", file=sys.stderr)
        for dtype in case.dtypes:
            if dtypes and dtype not in dtypes:
                continue
            try:
                unit = one_gradient(case, dtype)
            except Exception:  # a backward that raises: it has no time of its own
                unit = 0.0
            for tool in tools:
                if case.framework in TOOLS[tool][0].split():
                    outcomes.append(ask(tool, case, dtype, unit))
    print(file=sys.stderr)
    return outcomes


def told(outcomes: list[Outcome], tools: list[str]) -> str:
    """The tables, one a dtype: caught of wrong ones, accused of right ones, for every slice."""
    lines = []
    for dtype in dict.fromkeys(outcome.dtype for outcome in outcomes):
        lines += ["", f"{dtype}: caught / wrong, accused / right (inconclusive, errors)"]
        lines.append(" " * 18 + "".join(f"{tool:>28}" for tool in tools))
        for name in (*SLICES, "clean", "all"):
            row = [o for o in outcomes if o.dtype == dtype and name in (o.case.slice, "all")]
            if row:
                cells = [_cell([o for o in row if o.tool == tool]) for tool in tools]
                lines.append(f"{name:18}" + "".join(f"{cell:>28}" for cell in cells))
    lines += ["", "cost of a check that passes: medians of its time in gradients of the target and"]
    lines += ["(forward passes + cotangents pulled back), of how many checks"]
    for framework in dict.fromkeys(outcome.case.framework for outcome in outcomes):
        lines += ["", f"{framework:18}" + "".join(f"{tool:>28}" for tool in tools)]
        for name in (*SLICES, "clean", "all"):
            row = [
                o
                for o in outcomes
                if o.said == "pass"
                and o.case.framework == framework
                and name in (o.case.slice, "all")
            ]
            if row:
                costs = [_cost([o for o in row if o.tool == tool]) for tool in tools]
                lines.append(f"{name:18}" + "".join(f"{cost:>28}" for cost in costs))
    return "\n".join(lines)


def _cell(outcomes: list[Outcome]) -> str:
    wrong = [o.said for o in outcomes if o.case.is_wrong]
    right = [o.said for o in outcomes if not o.case.is_wrong]
    unsure, errors = (sum(o.said == said for o in outcomes) for said in ("inconclusive", "error"))
    if not outcomes:
        return "-"
    return (
        f"{wrong.count('fail')}/{len(wrong)}, {right.count('fail')}/{len(right)} "
        f"({unsure}, {errors})"
    )


def _cost(outcomes: list[Outcome]) -> str:
    if not outcomes:
        return "-"
    each = [(o.gradients, o.runs.forward, o.runs.vjp) for o in outcomes]
    time, forward, vjp = (statistics.median(numbers) for numbers in zip(*each, strict=True))
    return f"{time:.1f} ({forward:.0f} + {vjp:.0f}), {len(outcomes)}"


def misjudged(outcomes: list[Outcome]) -> list[Outcome]:
    return [
        o
        for o in outcomes
        if o.tool == "gradcheck (ours)" and o.said != ("fail" if o.case.is_wrong else "pass")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slice", action="append", default=[])
    parser.add_argument("--framework", choices=["torch", "jax"])
    parser.add_argument("--dtype", action="append", default=[])
    parser.add_argument("--tool", action="append", default=[], choices=list(TOOLS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    tools = given.tool or list(TOOLS)
    cases = [
        case
        for case in CASES
        if (not given.slice or case.slice in given.slice)
        and given.framework in (None, case.framework)
    ]
    outcomes = run(cases, given.dtype, tools)
    print(told(outcomes, tools))
    for o in misjudged(outcomes):
        first = "\n    ".join(o.message.splitlines()[:4])
        print(f"\n{o.case}, {o.dtype}, {o.case.source}: {o.said}\n    {first}")
    if given.json:
        rows = [
            {
                "case": str(o.case),
                "slice": o.case.slice,
                "dtype": o.dtype,
                "tool": o.tool,
                "said": o.said,
                "seconds": o.seconds,
                "gradients": o.gradients,
                "forward": o.runs.forward,
                "vjp": o.runs.vjp,
            }
            for o in outcomes
        ]
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
