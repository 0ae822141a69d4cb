"""What is to be checked, in words: `package.module:object`, `float64[2,3]:positive`.

A function of strings to a target and its inputs; the command line is made of this. Frameworks are
fetched by name when they are needed, and the arrays of a target are made in its own.
"""

import ast
import difflib
import importlib
import importlib.metadata
import inspect
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from types import ModuleType
from typing import Any

import numpy as np

from gradcheck.adapters import Rule
from gradcheck.errors import GradcheckError, InputError

__all__ = [
    "FRAMEWORKS",
    "Drawn",
    "Request",
    "TargetRaised",
    "default_dtype",
    "imported",
    "loaded",
    "parsed",
    "posed",
]

FRAMEWORKS = ("torch", "jax", "numpy")

FLOATING = ("float64", "float32", "bfloat16", "float16")
COMPLEX = ("complex128", "complex64")
INTEGER = ("int64", "int32", "int16", "int8", "uint8")
DTYPES = (*FLOATING, *COMPLEX, *INTEGER, "bool")

# Away from zero, where logarithms and roots are steep, and of the size of one.
RANGES = {"positive": (0.25, 2.0), "negative": (-2.0, -0.25)}

SPEC = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>[^\]]*)\](?::(?P<range>.+)|<(?P<below>\d+))?")

EXAMPLES = "float64[2,3], float32[4]:positive, float64[]:-1..1, int64[4]<10, bool[3]"


class TargetRaised(GradcheckError):
    """The target's module, constructor or builder raised: no misuse of ours, and no verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An array to draw: normal, or uniform between `least` and `most`.

    An integer may be `most`; a floating number below it may round to it.
    """

    dtype: str
    shape: tuple[int, ...]
    least: float = -inf
    most: float = inf

    def draw(self, rng: np.random.Generator) -> Any:
        """Return the array in the nearest dtype that NumPy has."""
        if self.dtype in INTEGER:
            whole = rng.integers(int(self.least), int(self.most), self.shape, endpoint=True)
            return np.asarray(whole, self.dtype)
        if self.dtype == "bool":
            return np.asarray(rng.integers(0, 2, self.shape), bool)
        if self.dtype in COMPLEX:
            pair = rng.standard_normal(self.shape) + 1j * rng.standard_normal(self.shape)
            return np.asarray(pair, self.dtype)
        bounded = isfinite(self.least)
        real = (
            rng.uniform(self.least, self.most, self.shape)
            if bounded
            else rng.standard_normal(self.shape)
        )
        return np.asarray(real, "float32" if self.dtype == "bfloat16" else self.dtype)

    def made(self, framework: str, rng: np.random.Generator) -> Any:
        """Return the array of `framework`, in its dtype.

        Raises:
            InputError: NumPy has no bfloat16.
        """
        array = self.draw(rng)
        if framework == "torch":
            torch: Any = fetched("torch")
            return torch.as_tensor(array).to(getattr(torch, self.dtype))
        if framework == "jax":
            jax: Any = fetched("jax")
            with jax.enable_x64(True):  # or float64 would be narrowed
                return jax.numpy.asarray(array, dtype=self.dtype)
        if self.dtype == "bfloat16":
            raise InputError("NumPy has no bfloat16; say --framework torch or jax")
        return array


def parsed(text: str) -> Any:
    """Return the array that `text` asks for as a `Drawn`, or the Python literal that it is.

    Raises:
        InputError: it is neither; the message says which part and what there is.
    """
    if (match := SPEC.fullmatch(text.strip())) is None:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InputError(
                f"expected dtype[shape], dtype[shape]:range or a Python literal, as in "
                f"{EXAMPLES}; got {text!r}"
            ) from None
    dtype = match["dtype"]
    if dtype not in DTYPES:
        hint = _close(dtype, DTYPES)
        raise InputError(f"there is no dtype {dtype!r} in {text!r}. {hint}")
    if match["below"] and dtype not in INTEGER:
        raise InputError(f"only integers take <{match['below']}; say :least..most in {text!r}")
    within = f"0..{int(match['below']) - 1}" if match["below"] else match["range"]
    least, most = _range(within, dtype, text)
    return Drawn(dtype=dtype, shape=_shape(match["shape"], text), least=least, most=most)


def _shape(text: str, spec: str) -> tuple[int, ...]:
    lengths = [length.strip() for length in text.split(",")] if text.strip() else []
    if not all(length.isdecimal() for length in lengths):
        raise InputError(
            f"expected the shape in {spec!r} to be lengths with commas between, as in [2,3], "
            f"or [] for a scalar; got [{text}]"
        )
    return tuple(map(int, lengths))


def _range(text: str | None, dtype: str, spec: str) -> tuple[float, float]:
    if text is None:
        if dtype in INTEGER:
            raise InputError(
                f"{spec!r} needs a range, as in {spec}<10 or {spec}:0..9, which is the same"
            )
        return -inf, inf
    if dtype not in FLOATING + INTEGER:
        raise InputError(f"a {dtype} array takes no range; got {spec!r}")
    if text in RANGES and dtype in FLOATING:
        return RANGES[text]
    kind = float if dtype in FLOATING else int
    try:
        least, most = map(kind, text.split(".."))
    except ValueError:
        words = ", positive or negative" if dtype in FLOATING else ""
        number = "numbers" if dtype in FLOATING else "integers"
        raise InputError(
            f"expected the range in {spec!r} to be two {number} with .. between, as in 0..9{words};"
            f" got {text!r}"
        ) from None
    if not (isfinite(least) and isfinite(most) and least <= most):
        raise InputError(f"expected the range in {spec!r} to be finite and to go up; got {text!r}")
    if dtype in INTEGER and not _holds(dtype, least, most):
        raise InputError(f"the range {text} in {spec!r} does not fit into {dtype}")
    return least, most


def _holds(dtype: str, least: float, most: float) -> bool:
    info = np.iinfo(dtype)
    return bool(info.min <= least and most <= info.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to check, as it was asked for."""

    reference: str  # "package.module:object"
    inputs: tuple[Any, ...] = ()  # of `parsed`
    arguments: tuple[Any, ...] = ()  # for a constructor or a builder
    options: Mapping[str, Any]  # keywords, for a constructor, a builder or the function itself
    framework: str | None = None
    build: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        return self.reference.partition(":")[2]


def posed(request: Request) -> tuple[Any, tuple[Any, ...]]:
    """Return the target and its inputs.

    Raises:
        InputError: the request cannot be met; the message says what to change.
        TargetRaised: the target's module, constructor or builder raised.
    """
    _seed(request.seed)
    target = loaded(request.reference)
    if request.build:
        return _built(target, request)
    framework = request.framework or _framework_of(target, request.reference)
    if _is_constructed(target):
        with default_dtype(request.inputs):
            _seed(request.seed)
            target = _called(target, request)
    elif request.arguments:
        raise InputError(
            f"--arg is for a class or a builder, and {request.name} is neither; a constant "
            "argument of a function is an --input: --input 3"
        )
    elif request.inputs and _takes_nothing(target):
        raise InputError(
            f"{request.name} takes no arguments, and there is an --input: if it makes the layer, "
            "say --build"
        )
    elif request.options:
        target = partial(target, **request.options)
    framework = framework or _framework_of(target, request.reference)
    if framework is None and any(isinstance(value, Drawn) for value in request.inputs):
        raise InputError(
            f"cannot tell whether {request.reference} is for torch, jax or numpy; say --framework"
        )
    rng = np.random.default_rng(request.seed)
    inputs = (
        value.made(framework or "numpy", rng) if isinstance(value, Drawn) else value
        for value in request.inputs
    )
    return target, tuple(inputs)


def _takes_nothing(target: Any) -> bool:
    try:
        return not inspect.signature(target).parameters
    except (TypeError, ValueError):  # nothing that can be called, or nobody knows
        return False


def loaded(reference: str) -> Any:
    """Return the object that `package.module:object.attribute` names.

    Raises:
        InputError: it is no such reference, or there is no such module or object.
        TargetRaised: importing the module raised.
    """
    module_name, colon, path = reference.partition(":")
    if not (colon and module_name and path):
        raise InputError(
            f"expected module:object, as in mypackage.layers:Linear; got {reference!r}"
        )
    found: Any = imported(module_name)
    for depth, attribute in enumerate(path.split(".")):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            owner = ".".join([module_name, *path.split(".")[:depth]])
            public = [name for name in dir(found) if not name.startswith("_")]
            own = [n for n in public if not isinstance(getattr(found, n, None), ModuleType)]
            raise InputError(f"{owner} has no {attribute!r}. {_close(attribute, own)}") from None
    return found


def imported(name: str) -> ModuleType:
    """Return the module of that name.

    Raises:
        InputError: there is none.
        TargetRaised: it raised.
    """
    if "/" in name:
        raise InputError(_no_file(name))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            if name.endswith(".py"):
                raise InputError(_no_file(name)) from None
            raise InputError(
                f"there is no module {error.name!r}; modules are looked up in the current folder "
                f"and where Python finds its own{_installed_as(name)}"
            ) from None
        raise TargetRaised(f"importing {name} raised {_words(error)}") from error
    except (TypeError, ValueError) as error:
        if name.startswith("."):
            raise InputError(f"expected an absolute module name; got {name!r}") from None
        raise TargetRaised(f"importing {name} raised {_words(error)}") from error
    except (Exception, SystemExit) as error:
        raise TargetRaised(f"importing {name} raised {_words(error)}") from error


def _installed_as(name: str) -> str:
    """Say what to import of the distribution called `name`, if there is one."""
    wanted = name.lower().replace("_", "-")
    modules = sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if wanted in {owner.lower().replace("_", "-") for owner in owners} and module.isidentifier()
    )
    return f". The distribution {name!r} has {', '.join(modules)}" if modules else ""


def _no_file(name: str) -> str:
    module = name.removesuffix(".py").strip("./").replace("/", ".")
    return f"expected the name of a module, not of its file: {module}; got {name!r}"


def fetched(framework: str) -> ModuleType:
    """Return the module of a framework.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(framework)
    except ModuleNotFoundError:
        raise InputError(
            f"{framework} is not installed: pip install 'gradcheck[{framework}]'"
        ) from None


def _built(builder: Any, request: Request) -> tuple[Any, tuple[Any, ...]]:
    if request.inputs or request.framework:
        raise InputError("a builder makes its own inputs: --build takes no --input, no --framework")
    _seed(request.seed)
    made = _called(builder, request)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], (tuple, list))):
        raise InputError(
            f"expected the builder {request.name} to return (target, inputs), with the inputs in "
            f"a tuple; got {made!r:.60}"
        )
    return made[0], tuple(made[1])


def _called(function: Any, request: Request) -> Any:
    if not callable(function):
        raise InputError(f"{request.reference} cannot be called; it is {function!r:.60}")
    try:
        inspect.signature(function).bind(*request.arguments, **request.options)
    except TypeError as error:
        raise InputError(
            f"{request.name} does not take these arguments: {error}; give them with --arg 3 and "
            "--kwarg name=3"
        ) from None
    except ValueError:  # no signature to be had: it will say itself
        pass
    try:
        return function(*request.arguments, **request.options)
    except (Exception, SystemExit) as error:
        raise TargetRaised(f"{request.name} raised {_words(error)}") from error


def _is_constructed(target: Any) -> bool:
    """Whether `target` is a class of which an instance is meant."""
    return isinstance(target, type) and not _is_function_class(target)


def _is_function_class(target: type) -> bool:
    return any(
        base.__module__ == "torch.autograd.function" and base.__name__ == "Function"
        for base in target.__mro__
    )


def _framework_of(target: Any, reference: str) -> str | None:
    """Return the one framework that the target, or what its module uses, belongs to."""
    if isinstance(target, Rule):
        return "numpy"
    roots = [reference.partition(".")[0].partition(":")[0]]
    kind = target if isinstance(target, type) else type(target)
    roots += [base.__module__.partition(".")[0] for base in kind.__mro__]
    for root in roots:
        if (framework := HOMES.get(root)) is not None:
            return framework
    if any(base.__module__.startswith("gradcheck.reference") for base in kind.__mro__):
        return "numpy"
    function = inspect.unwrap(target.func if isinstance(target, partial) else target)
    names = getattr(function, "__globals__", None)
    if names is None:
        names = vars(importlib.import_module(kind.__module__))
    used = {HOMES.get(_home(value)) for value in list(names.values())} - {None}
    used = used - {"numpy"} or used  # what uses a framework uses NumPy beside it
    return used.pop() if len(used) == 1 else None


# Whose objects are made for which framework.
HOMES = {
    "torch": "torch",
    "jax": "jax",
    "jaxlib": "jax",
    "flax": "jax",
    "equinox": "jax",
    "numpy": "numpy",
}


def _home(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0]
    return str(getattr(value, "__module__", "")).partition(".")[0]


@contextmanager
def default_dtype(inputs: Sequence[Any]) -> Iterator[None]:
    """Make the dtype of the first floating input of `parsed` PyTorch's default, if it is loaded.

    In it a module is constructed, and makes the tensors that it begins with when it runs.
    """
    floating = [x.dtype for x in inputs if isinstance(x, Drawn) and x.dtype in FLOATING]
    if not floating or "torch" not in sys.modules:
        yield
        return
    torch: Any = fetched("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, floating[0]))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _seed(seed: int) -> None:
    """Seed the global generators that a module or a builder may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _close(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    shown = ", ".join(words[:12]) + (", …" if len(words) > 12 else "")
    return f"There are: {shown}." if words else "It has no public names."


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
