"""What a package defines, and what of it was checked."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import gradcheck
from gradcheck.cli import main
from gradcheck.scan import Targets, checked, recorded

OPS = """
import functools
import jax
import torch
from torch.nn import Linear  # of others

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, u):
        return 2 * u

def scale(x):
    return Scale.apply(x)

@jax.custom_vjp
def square(x):
    return x * x

square.defvjp(lambda x: (x * x, x), lambda x, u: (2 * x * u,))

@jax.jit
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def power(x, n):
    return x ** n

class Holder:
    @staticmethod
    @jax.custom_jvp
    def held(x):
        return x

@torch.library.custom_op("NAME::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x

twice.register_autograd(lambda ctx, u: 2 * u)

@torch.library.custom_op("NAME::no_derivative", mutates_args=())
def no_derivative(x: torch.Tensor) -> torch.Tensor:
    return 2 * x
"""
NETS = """
import torch
from NAME.ops import scale

class Net(torch.nn.Module):
    class Inner(torch.nn.Module):
        pass

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(self.Inner())

    def forward(self, x):
        return scale(x)

class Unused(Net):
    pass
"""


@pytest.fixture
def package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[str]:
    """Make a package of a name that no other test has, in the current folder."""
    name = re.sub(r"\W", "_", f"scanned_{request.node.name}")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    (folder / "deep").mkdir(parents=True)
    for path, text in {
        "__init__.py": "",
        "__main__.py": "raise SystemExit('it was run')",
        "ops.py": OPS,
        "deep/__init__.py": "",
        "deep/nets.py": NETS,
    }.items():
        (folder / path).write_text(text.replace("NAME", name))
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def scan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["scan", *arguments])


def rows(result: Result) -> dict[str, list[str]]:
    """Return name -> the other columns of what `gradcheck scan` printed."""
    lines = [line.split() for line in result.stdout.splitlines() if ":" in line]
    split = [(line, next(k for k, word in enumerate(line) if "scanned_" in word)) for line in lines]
    return {
        line[k].partition(".")[2]: [" ".join(line[:k]), line[k + 1], " ".join(line[k + 2 :])]
        for line, k in split
    }


def line_of(package: str, path: str, text: str) -> str:
    lines = Path(package, path).read_text().splitlines()
    return f"{package}/{path}:{lines.index(text) + 1}"


def test_scan_lists_what_has_a_derivative_of_its_own(package: str) -> None:
    result = scan(package)

    assert result.exit_code == 0, result.output
    assert {name: kind for name, (kind, _, _) in rows(result).items()} == {
        "ops.Scale": "autograd.Function",
        "ops.square": "jax.custom_vjp",
        "ops.power": "jax.custom_jvp",
        "ops.Holder.held": "jax.custom_jvp",
        "ops.twice": "torch.library.custom_op",
        "deep.nets.Net": "nn.Module",
        "deep.nets.Net.Inner": "nn.Module",
        "deep.nets.Unused": "nn.Module",
    }
    assert "8 found; say --checked FILE" in result.stdout


def test_scan_says_where_it_is_defined(package: str) -> None:
    found = rows(scan(package))

    def place(name: str) -> str:
        return found[name][1]

    assert place("ops.Scale") == line_of(package, "ops.py", "class Scale(torch.autograd.Function):")
    assert place("ops.square") == line_of(package, "ops.py", "@jax.custom_vjp")
    assert place("deep.nets.Net") == line_of(package, "deep/nets.py", "class Net(torch.nn.Module):")


def test_scan_finds_the_place_of_a_class_whose_module_is_hidden(package: str) -> None:
    text = (
        "import torch\nclass Hidden(torch.nn.Module):\n    pass\nHidden.__module__ = 'NAME.deep'\n"
    )
    Path(package, "deep", "inner.py").write_text(text.replace("NAME", package))
    found = rows(scan(package))

    place = line_of(package, "deep/inner.py", "class Hidden(torch.nn.Module):")
    assert found["deep.Hidden"][1] == place


def test_scan_lists_a_derivative_written_by_hand_by_its_forward(package: str) -> None:
    text = (
        "import gradcheck\nimport numpy as np\ndef cube(x):\n    return x ** 3\n"
        "rule = gradcheck.Rule(cube, lambda xs, u: (3 * u * xs[0] ** 2,))\n"
        "def back(xs, u):\n    return (u * np.cos(xs[0]),)\n"
        "other = gradcheck.Rule(np.sin, back)\n"
    )
    Path(package, "hand.py").write_text(text)
    file = record(package, ("hand.cube", ""))

    found = rows(scan(f"{package}.hand", "--checked", file))

    place = line_of(package, "hand.py", "def cube(x):")
    other = line_of(package, "hand.py", "def back(xs, u):")
    assert found == {
        "hand.cube": ["gradcheck.Rule", place, "checked"],
        "hand.back": ["gradcheck.Rule", other, "NOT CHECKED"],  # whose forward is NumPy's
    }


def test_scan_of_one_module_lists_that(package: str) -> None:
    assert set(rows(scan(f"{package}.deep"))) == {
        "deep.nets.Net",
        "deep.nets.Net.Inner",
        "deep.nets.Unused",
    }


@pytest.mark.parametrize(
    ("home", "kind"),
    [
        ("equinox", "Equinox module"),
        ("flax.linen", "Flax Linen module"),
        ("flax.nnx", "Flax NNX module"),
        ("haiku", "Haiku module"),
    ],
)
def test_scan_knows_modules_of_other_libraries(package: str, home: str, kind: str) -> None:
    pytest.importorskip(home)
    text = f"from {home} import Module\nclass Layer(Module):\n    pass\n"
    Path(package, "layers.py").write_text(text)

    assert rows(scan(f"{package}.layers"))["layers.Layer"][0] == kind


def test_scan_of_nothing_says_so(package: str) -> None:
    Path(package, "plain.py").write_text("x = 1")

    assert "nothing with a derivative" in scan(f"{package}.plain").stdout


def test_scan_goes_on_after_a_module_that_cannot_be_imported(package: str) -> None:
    Path(package, "broken.py").write_text("1 / 0")
    result = scan(package)

    assert result.exit_code == 0
    assert f"{package}.broken: importing it raised ZeroDivisionError" in result.stderr
    assert "deep.nets.Net" in rows(result)


def test_what_a_module_prints_when_it_is_imported_is_not_in_the_table(package: str) -> None:
    Path(package, "__init__.py").write_text("print('hello')")
    Path(package, "loud.py").write_text("print('hello again')")
    result = scan(package)

    assert "hello" not in result.stdout
    assert {"hello", "hello again"} <= set(result.stderr.splitlines())


def test_a_class_without_source_is_listed_without_a_place(package: str) -> None:
    text = "import torch\nMade = type('Made', (torch.nn.Module,), {'__module__': __name__})\n"
    Path(package, "made.py").write_text(text)
    result = scan(f"{package}.made")

    assert f"nn.Module   {package}.made.Made\n" in result.stdout


def test_classes_are_found_at_their_decorators_and_in_functions(package: str) -> None:
    text = (
        "import torch\ndef same(c):\n    return c\n\n@same\nclass A(torch.nn.Module):\n    pass\n"
        "def make():\n    class B(torch.nn.Module):\n        pass\n    return B\nB = make()\n"
    )
    Path(package, "made.py").write_text(text)
    lines = scan(f"{package}.made").stdout.splitlines()

    assert any("made.A " in line and line.endswith("made.py:5") for line in lines)
    assert any("made.make.<locals>.B " in line and line.endswith("made.py:9") for line in lines)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("PyYAML-none", 2, "there is no module 'PyYAML-none'; modules"),
        ("scikit-learn", 2, "The distribution 'scikit-learn' has sklearn"),
        ("nowhere_at_all", 2, "there is no module 'nowhere_at_all'"),
        ("broken_package", 3, "importing broken_package raised ZeroDivisionError"),
    ],
)
def test_scan_of_what_cannot_be_imported(
    name: str, status: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken_package.py").write_text("1 / 0")
    result = scan(name)

    assert result.exit_code == status
    assert words in result.stderr


def record(package: str, *names: tuple[str, str]) -> str:
    qualified = [(f"{package}.{name}", outer) for name, outer in names]
    Path("record.txt").write_text(recorded(qualified))
    return "record.txt"


def test_scan_tells_what_was_checked_itself_within_another_and_not(package: str) -> None:
    file = record(package, ("ops.square", ""), ("ops.Scale", "Net"), ("gone.Layer", ""))
    result = scan(package, "--checked", file)
    states = {name: state for name, (_, _, state) in rows(result).items()}

    assert result.exit_code == 0
    assert states.pop("ops.square") == "checked"
    assert states.pop("ops.Scale") == "within Net"
    assert set(states.values()) == {"NOT CHECKED"}
    assert "8 found, 2 of them checked" in result.stdout


def test_strict_scan_is_status_1_until_all_is_checked(package: str) -> None:
    names = list(rows(scan(package)))
    all_but_one = record(package, *((name, "") for name in names[1:]))

    assert scan(package, "--strict", "--checked", all_but_one).exit_code == 1
    assert scan(package, "--strict").exit_code == 1
    everything = record(package, *((name, "") for name in names))
    assert scan(package, "--strict", "--checked", everything).exit_code == 0
    Path(package, "broken.py").write_text("1 / 0")
    assert scan(package, "--strict", "--checked", everything).exit_code == 3


@pytest.mark.parametrize("text", ["", "something else\n", None])
def test_file_that_is_no_record_is_misuse(package: str, text: str | None) -> None:
    if text is not None:
        Path("record.txt").write_text(text)

    assert scan(package, "--checked", "record.txt").exit_code == 2


def test_checked_itself_is_more_than_checked_within(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text(recorded([("a.f", "a.g"), ("a.g", "")]))
    other.write_text(recorded([("a.f", ""), ("a.f", "a.h")]))

    assert checked([one, other]) == {"a.f": "", "a.g": ""}


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        return 2 * u


def twice(x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = Twice.apply(x)  # type: ignore[no-untyped-call]
    return found


class Layer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return twice(x)


class Derived(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.func = torch.sin


def enclosing() -> Any:
    import tests.test_scan as here

    return lambda x: here.twice(x)


def importing(x: torch.Tensor) -> torch.Tensor:
    from tests.test_scan import twice

    return twice(x)


def through_a_package(x: torch.Tensor) -> torch.Tensor:
    import tests

    found: torch.Tensor = tests.test_scan.twice(x)
    return found


NORMS = {"layer": Layer, "derived": Derived}


class Chosen(torch.nn.Module):
    """One of several layers; its code names them all."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = NORMS[norm]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(x)
        return found


@jax.custom_jvp
def custom(x: jax.Array) -> jax.Array:
    return x


@jax.tree_util.register_dataclass
@dataclass
class Pytree:
    inner: tuple[Any, ...] = ()

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


@pytest.mark.parametrize(
    ("target", "itself", "within"),
    [
        (Twice, "Twice", ()),
        (Twice.apply, "Twice", ()),
        (twice, "twice", ("Twice",)),
        (partial(twice), "twice", ("Twice",)),
        (enclosing(), "<lambda>", ("Twice",)),
        (importing, "importing", ("Twice",)),
        (through_a_package, "through_a_package", ("Twice",)),
        (lambda x: twice(x), "<lambda>", ("Twice",)),
        (Layer(), "Layer", ("Twice",)),
        (torch.nn.Sequential(Layer()), "Sequential", ("Layer", "Twice")),
        (Layer().forward, "Layer.forward", ("Layer", "Twice")),
        (Derived(), "Derived", ("Layer", "Twice")),
        (Chosen("layer"), "Chosen", ("Layer", "Twice")),
        (torch.compile(Layer(), backend="eager"), "OptimizedModule", ("Layer", "Twice")),
        (torch.sin, "sin", ()),
        (torch.ops.aten.sin, "sin", ()),
        (custom, "custom", ()),
        (jax.jit(custom), "custom", ()),
        (lambda x: jax.vmap(custom)(x), "<lambda>", ("custom",)),
        (Pytree(inner=(custom,)), "Pytree", ("custom",)),
        (gradcheck.Rule(twice, lambda inputs, u: u), "twice", ("Twice",)),
        (gradcheck.Rule(np.sin, lambda inputs, u: twice(u)), "<lambda>", ("Twice",)),
    ],
)
def test_target_is_known_with_what_it_is_made_of(
    target: Any, itself: str, within: tuple[str, ...]
) -> None:
    targets = Targets()
    targets.add(target)
    found = dict(targets.drain())
    (own,) = (name for name, outer in found.items() if not outer)
    parts = {name.rpartition(".")[2] for name, outer in found.items() if outer == own}

    assert own.endswith(itself)
    assert parts == set(within)
    assert not targets.drain()
