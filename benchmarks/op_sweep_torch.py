"""Ask the drop-in about every operator that PyTorch samples for its own tests: false alarms.

    python benchmarks/op_sweep_torch.py --limit 50 --json out.json

`op_db` holds the operators with sample inputs. Each is asked in float64 about its gradient (with
forward mode where the operator has one) and its second derivative. PyTorch's operators are right,
so nearly every failure is a false alarm; docs/op_sweep.md says what each of the rest is. Where the
drop-in complains, PyTorch's own gradcheck is asked too.
"""

import argparse
import json
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

import gradcheck.torch as ours
from gradcheck.dropin import InconclusiveWarning

SHOWN = 100  # columns of a message in the table; the JSON file has all of it


class OutOfTime(BaseException):
    """Not an Exception: neither an operator nor the engine may swallow it."""


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    operators = [op for op in op_db if op.supports_autograd and torch.float64 in op.dtypes]
    operators = [op for op in operators if options.only in _name(op)][:: options.every]
    operators = operators[: options.limit]
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for count, op in enumerate(operators, start=1):
        own = [*_asked(op, options)]
        rows += own
        elapsed = time.perf_counter() - started
        print(f"\r{count}/{len(operators)}  {elapsed:.0f} s  {_name(op):40.40}", end="", flush=True)
        for row in own:
            if row["answer"] not in ("pass", "refused", "no sample"):
                print(
                    f"\r{row['answer']:13}{row['question']:6}{_name(op)} #{row['sample']}"
                    f"  torch: {row['torch']}  {row['message'][:SHOWN]!r}",
                    flush=True,
                )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    elapsed = time.perf_counter() - started
    print(f"\n{len(operators)} operators, {len(rows)} questions, {elapsed:.0f} s")
    for question in ("grad", "second"):
        print(question, dict(Counter(r["answer"] for r in rows if r["question"] == question)))
    return 0


def _asked(op: Any, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    try:
        torch.manual_seed(0)
        samples = list(islice(op.sample_inputs("cpu", torch.float64, requires_grad=True), 200))
    except Exception as error:
        yield _row(op, -1, "grad", "no sample", repr(error), "", 0.0)
        return
    live = [s for s in samples if _small(s, options.largest)][: options.samples]
    if not live:
        yield _row(op, -1, "grad", "no sample", f"none of {len(samples)} is small", "", 0.0)
    for index, sample in enumerate(live):
        for question in ("grad", "second"):
            if question == "second" and not op.supports_gradgrad:
                continue
            started = time.perf_counter()
            answer, message = _answer(op, sample, question, ours, options.seconds)
            elapsed = time.perf_counter() - started
            theirs = ""
            if answer != "pass":
                theirs, _ = _answer(op, sample, question, torch.autograd, options.seconds)
            if answer == theirs == "error":  # the operator has no such derivative, or raises
                answer = "refused"
            yield _row(op, index, question, answer, message, theirs, elapsed)


def _answer(op: Any, sample: Any, question: str, checker: Any, seconds: float) -> tuple[str, str]:
    """What a checker says of one sample: its answer in a word, and its message."""
    function, leaves = _posed(op, sample)
    ask: Callable[..., bool] = checker.gradcheck if question == "grad" else checker.gradgradcheck
    choices: dict[str, Any] = {"check_grad_dtypes": True, "nondet_tol": op.gradcheck_nondet_tol}
    if question == "grad":
        choices["check_forward_ad"] = op.supports_forward_ad
    else:
        choices["check_fwd_over_rev"] = op.supports_fwgrad_bwgrad
    try:
        with warnings.catch_warnings(record=True) as said, _at_most(seconds):
            warnings.simplefilter("always")
            torch.manual_seed(0)
            ask(function, leaves, **choices)
    except OutOfTime:
        return "out of time", ""
    except ours.GradcheckError as failure:
        return "fail", str(failure)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    open_ = [str(w.message) for w in said if issubclass(w.category, InconclusiveWarning)]
    return ("inconclusive", open_[0]) if open_ else ("pass", "")


def _posed(op: Any, sample: Any) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...]]:
    """The operator as a function of those of its arguments that require a gradient."""
    flat, tree = torch.utils._pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [k for k, x in enumerate(flat) if _is_leaf(x)]

    def function(*leaves: torch.Tensor) -> Any:
        moved = list(flat)
        for place, leaf in zip(places, leaves, strict=True):
            moved[place] = leaf
        first, args, kwargs = torch.utils._pytree.tree_unflatten(moved, tree)
        return sample.output_process_fn_grad(
            op.gradcheck_wrapper(op.get_op(), first, *args, **kwargs)
        )

    function.__name__ = _name(op)
    return function, tuple(flat[k] for k in places)


def _small(sample: Any, largest: int) -> bool:
    """Whether a sample has something to differentiate, and not too much of it."""
    flat, _ = torch.utils._pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    sizes = [x.numel() for x in flat if _is_leaf(x)]
    return bool(sizes) and 0 < sum(sizes) <= largest


def _is_leaf(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _row(
    op: Any, sample: int, question: str, answer: str, message: str, theirs: str, seconds: float
) -> dict[str, Any]:
    return {
        "operator": _name(op),
        "sample": sample,
        "question": question,
        "answer": answer,
        "torch": theirs,
        "seconds": round(seconds, 3),
        "message": message,
    }


def _name(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=int, help="ask about this many operators")
    parser.add_argument("--every", type=int, default=1, help="ask about every n-th operator")
    parser.add_argument("--only", default="", help="ask about operators with this in their name")
    parser.add_argument("--samples", type=int, default=3, help="sample inputs for each operator")
    parser.add_argument("--largest", type=int, default=2000, help="most entries of all its leaves")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for one question")
    parser.add_argument("--json", type=Path, help="write every answer to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
