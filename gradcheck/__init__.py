"""Verify gradients, with an error bar on every verdict. PYTEST_DONT_REWRITE

Importing this package loads no framework and no NumPy: the pytest plugin comes in through here,
in every session of everybody who has gradcheck installed. Each name is fetched from its home
when it is first used.
"""

from typing import TYPE_CHECKING

__all__ = [
    "CheckResult",
    "Finding",
    "GradientMismatch",
    "InputError",
    "LayerSuite",
    "Rule",
    "Verdict",
    "__version__",
    "against_reference",
    "assert_gradients",
    "check",
    "check_fixed_point",
    "check_sequence",
    "compare",
    "find_culprit",
    "layer_suite",
]

if TYPE_CHECKING:
    from gradcheck import jax as jax
    from gradcheck import reference as reference
    from gradcheck import torch as torch
    from gradcheck import weights as weights
    from gradcheck.against import against_reference
    from gradcheck.api import Rule, assert_gradients, check, compare
    from gradcheck.culprit import find_culprit
    from gradcheck.errors import GradientMismatch, InputError
    from gradcheck.layers import LayerSuite, layer_suite
    from gradcheck.recurrent import check_fixed_point, check_sequence
    from gradcheck.results import CheckResult, Finding, Verdict

    __version__: str
else:
    # Hidden from type checkers: to them, a misspelt name must stay an error.
    _HOMES = {
        "CheckResult": "gradcheck.results",
        "Finding": "gradcheck.results",
        "GradientMismatch": "gradcheck.errors",
        "InputError": "gradcheck.errors",
        "LayerSuite": "gradcheck.layers",
        "Rule": "gradcheck.api",
        "Verdict": "gradcheck.results",
        "against_reference": "gradcheck.against",
        "assert_gradients": "gradcheck.api",
        "check": "gradcheck.api",
        "check_fixed_point": "gradcheck.recurrent",
        "check_sequence": "gradcheck.recurrent",
        "compare": "gradcheck.api",
        "find_culprit": "gradcheck.culprit",
        "layer_suite": "gradcheck.layers",
    }

    _ROOMS = ("jax", "reference", "torch", "weights")  # with names of their own, to be asked for

    def __getattr__(name):
        value = _fetched(name)
        globals()[name] = value  # the next use finds it without coming here
        return value

    def _fetched(name):
        if name == "__version__":
            from importlib.metadata import version

            return version("gradcheck")
        if name not in _HOMES and name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        from importlib import import_module

        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__():
        return sorted({*globals(), *__all__})
