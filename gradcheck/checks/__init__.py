"""One question each; a check is a function of answers, the settings and a generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.adjoint import check_adjoint
from gradcheck.checks.batched import check_batched
from gradcheck.checks.contract import check_contract
from gradcheck.checks.determinism import check_determinism
from gradcheck.checks.jvp import check_jvp
from gradcheck.checks.layout import check_layout
from gradcheck.checks.second_order import check_second_order
from gradcheck.checks.state import check_state
from gradcheck.checks.vjp import check_vjp
from gradcheck.checks.vmap import check_vmap
from gradcheck.checks.widely import widely
from gradcheck.results import Finding
from gradcheck.settings import Settings

__all__ = ["CHECKS", "Check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check asks, and whether it is asked by default.

    `ask` returns its findings; it raises `Unsupported` where the target cannot do what the
    question needs, which is said in the result and is no failure.
    """

    ask: Callable[[Answers, Settings, np.random.Generator], tuple[Finding, ...]]
    by_default: bool = True


CHECKS: Mapping[str, Check] = {
    "vjp": Check(ask=check_vjp),
    "jvp": Check(ask=check_jvp, by_default=False),  # "adjoint" sees what is wrong, at less cost
    "adjoint": Check(ask=widely(check_adjoint)),
    # A rule that saves what it computed, and not its inputs, has a double backward that is silently
    # wrong. Most rules of attention and recurrent cells do, and are never differentiated twice.
    "second_order": Check(ask=check_second_order, by_default=False),
    "batched": Check(ask=check_batched, by_default=False),
    "vmap": Check(ask=check_vmap, by_default=False),  # but of what has a rule of its own
    "layout": Check(ask=widely(check_layout)),
    "determinism": Check(ask=widely(check_determinism)),
    "state": Check(ask=widely(check_state)),
    "contract": Check(ask=check_contract),
}
