"""Rules that take an array for contiguous are caught; right ones pass in every layout."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gradcheck
from gradcheck import CheckResult, Rule
from gradcheck.adapters import problem_of
from gradcheck.adapters.layouts import CONJUGATED, EXPANSIONS, STRIDES, differs, placement
from gradcheck.checks.layout import groups
from tests.checks.clean import JAX, RULE, TORCH, array, sine, tensor

SLICED = "sliced from a larger buffer"


def layout(target: Any, *inputs: Any) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="layout")


def failed(result: CheckResult) -> dict[str, str]:
    return {f.leaf: f.oracle for f in result.findings if f.verdict == "fail"}


# geometry


@pytest.mark.parametrize("name", [*STRIDES, *EXPANSIONS])
@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 3), (2, 3, 2, 2)])
def test_every_layout_holds_every_entry_and_keeps_inside(name: str, shape: tuple[int, ...]) -> None:
    place = placement(name, shape)
    if place is None:
        return
    at = place.offset + sum(
        stride * grid for stride, grid in zip(place.strides, np.indices(shape), strict=True)
    )

    assert at.min() >= 8
    assert at.max() < place.length - 8
    assert len(np.unique(at)) == at[place.once].size
    assert (at[place.once].size < at.size) == (name in EXPANSIONS)


def test_what_cannot_lie_otherwise_is_not_asked() -> None:
    assert not differs(SLICED, (), "float64")
    assert not differs(SLICED, (1, 1), "float64")
    assert not differs("transposed", (1, 4), "float64")
    assert not differs("channels last", (2, 1, 3, 3), "float64")
    assert not differs(CONJUGATED, (2, 3), "float64")
    assert differs(CONJUGATED, (2, 3), "complex64")


# wrong


class Scaled(torch.autograd.Function):
    """3 x, and a backward that is right for contiguous cotangents only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 3 * x


class ByAddress(Scaled):
    """As a kernel does that is handed a pointer and a count."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        read = (ctypes.c_double * u.numel()).from_address(u.data_ptr())
        return 3 * torch.tensor(list(read), dtype=u.dtype).reshape(u.shape)


class FromTheStart(Scaled):
    """Strides are heeded, the offset into the storage is not."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 3 * torch.as_strided(u, u.shape, u.stride(), 0)


class StridesOfTheInput(Scaled):
    """The cotangent is read with the strides of x."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        flat = torch.as_strided(u, (u.numel(),), (1,))
        return 3 * torch.as_strided(flat, x.shape, x.stride())


class Viewed(Scaled):
    """Raises where the cotangent is not contiguous."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 3 * u.view(-1).view(u.shape)


class Transposed(Scaled):
    """Takes what is not contiguous for transposed."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 3 * (u if u.is_contiguous() else u.flatten().reshape(u.shape[::-1]).T)


class InputByAddress(torch.autograd.Function):
    """The forward pass itself reads x as contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        read = (ctypes.c_double * x.numel()).from_address(x.data_ptr())
        return 3 * torch.tensor(list(read), dtype=x.dtype).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 3 * u


class Conjugating(torch.autograd.Function):
    """2 z; the backward reads the cotangent's memory and forgets that it may be conjugated."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return 2 * z

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 2 * (u.conj() if u.is_conj() else u)


@pytest.mark.parametrize(
    "rule", [ByAddress, FromTheStart, StridesOfTheInput, Viewed, Transposed, InputByAddress]
)
def test_reading_memory_as_contiguous_is_caught(rule: Any) -> None:
    x = tensor(2, 3)

    assert gradcheck.check(rule, x, checks="vjp").passed  # whose cotangents are contiguous

    assert not layout(rule, x).passed


def test_what_is_wrong_only_if_two_arrays_lie_otherwise_is_caught() -> None:
    """A kernel that reads two arrays in the order of one, if neither is contiguous."""

    def flat(x: Tensor, u: Tensor) -> float:
        is_mistaken = not (x.is_contiguous() or u.is_contiguous())
        return 1.1 if is_mistaken and x.stride() != u.stride() else 1.0

    assert not layout(sine(flat), tensor(3, 4)).passed


Case = tuple[Callable[[Tensor], bool], tuple[int, ...]]

# A cotangent or an input that a rule mistakes, told by its strides, and the shape of it.
MISTAKEN: dict[str, Case] = {
    "y.sum(0)": (lambda t: t.stride() == (0, 1), (4, 5)),
    "y.sum(1)": (lambda t: t.stride() == (1, 0), (4, 5)),
    "y.sum(0) of three axes": (lambda t: t.stride(0) == 0 and t.stride(2) == 1, (2, 4, 5)),
    "torch.cat along rows": (lambda t: t.stride(1) == 1 and t.stride(0) > 5, (4, 5)),
    "y.transpose(0, 1)": (lambda t: t.stride() == (5, 10, 1), (2, 4, 5)),
    "y.mT": (lambda t: t.stride() == (20, 1, 4), (2, 4, 5)),
    "heads before steps": (lambda t: t.stride() == (60, 5, 15, 1), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("of", ["cotangent", "input"])
@pytest.mark.parametrize("name", MISTAKEN)
def test_strides_that_a_rule_mistakes_are_caught(name: str, of: str, seed: int) -> None:
    mistakes, shape = MISTAKEN[name]

    def asked(factor: float) -> CheckResult:
        target = sine(lambda x, u: factor if mistakes(u if of == "cotangent" else x) else 1.0)
        return gradcheck.check(target, tensor(*shape), checks="layout", seed=seed)

    assert asked(1.0).passed
    if of == "cotangent" or not name.startswith("y.sum"):  # inputs are not expanded
        assert not asked(1.1).passed


def test_conjugate_bit_that_is_ignored_is_caught() -> None:
    result = layout(Conjugating, tensor(2, 3, dtype=torch.complex128))

    assert failed(result) == {"input[0]": f"cotangent {CONJUGATED}"}


def test_strided_weight_of_batch_norm_is_found_in_pytorch() -> None:
    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, None, True)

    result = layout(norm, tensor(4, 3), tensor(3, seed=1))

    assert failed(result) == {"input[0]": f"input[1] {SLICED}"}
    assert "lie in memory" in result.findings[0].message
    assert layout(norm, tensor(4, 3, 2), tensor(3, seed=1)).passed


def order_kept(x: Any, u: Any) -> Any:
    return (2 * x[0].ravel() * u.ravel(order="K")).reshape(u.shape)


@pytest.mark.parametrize(
    "vjp",
    [
        order_kept,
        lambda x, u: 2 * x[0] * np.lib.stride_tricks.as_strided(u, u.shape, x[0].strides),
        lambda x, u: np.multiply(u, 2 * x[0], out=u),  # an expanded cotangent cannot be written
        lambda x, u: 2 * x[0] * (u if u.flags.c_contiguous else u.T.reshape(u.shape)),
    ],
)
def test_numpy_rules_that_look_at_memory_are_caught(vjp: Any) -> None:
    assert not layout(Rule(lambda x: x * x, vjp), array(2, 3)).passed


def test_forward_of_a_numpy_rule_that_looks_at_memory_is_caught() -> None:
    rule = Rule(lambda x: x.ravel(order="K") * 2, lambda x, u: 2 * u.reshape(x[0].shape))

    assert "output" in failed(layout(rule, array(2, 3)))


def test_memory_around_an_array_is_not_a_number() -> None:
    def peeping(x: Any, u: Any) -> Any:
        neighbour = np.lib.stride_tricks.as_strided(u, (u.size + 1,), u.strides)
        return 2 * u + 0 * neighbour[-1]

    result = layout(Rule(lambda x: 2 * x, peeping), array(4))

    assert np.isnan(result.findings[0].entries[0].got)


# right


@pytest.mark.parametrize("name", TORCH)
def test_right_torch_targets_pass(name: str) -> None:
    result = layout(*TORCH[name]())
    assert result.passed or not result.findings  # a scalar has but one layout


@pytest.mark.parametrize("name", RULE)
def test_right_rules_pass(name: str) -> None:
    result = layout(*RULE[name]())

    assert result.passed
    assert result.findings


@pytest.mark.parametrize("name", ["two outputs", "complex"])
def test_arrays_of_jax_have_no_layout(name: str) -> None:
    assert layout(*JAX[name]()).findings == ()


def test_refusal_of_an_input_layout_is_said_and_no_failure() -> None:
    result = layout(lambda x: x.view(-1).sin(), tensor(4, 3))

    assert result.passed
    assert result.findings[0].message.startswith("refuses input[0] ")


def test_random_numbers_in_the_order_of_memory_are_no_failure() -> None:
    result = layout(lambda x: F.dropout(x, 0.3) * x, tensor(4, 6))

    assert result.passed
    assert "order of memory" in result.findings[0].message


def test_numbers_of_a_generator_of_its_own_are_random_too() -> None:
    def masked(x: Tensor) -> Tensor:
        mask = torch.empty_like(x).bernoulli_(0.5, generator=torch.Generator().manual_seed(0))
        return x * mask

    assert layout(masked, tensor(4, 6)).passed


def test_few_leaves_are_laid_out_one_by_one_and_many_in_groups() -> None:
    few = problem_of(torch.matmul, (tensor(4, 3), tensor(3, 2)))
    many = problem_of(lambda *xs: sum(xs), tuple(tensor(3) for _ in range(13)))

    asked = [[leaf.path for leaf in leaves] for leaves in groups(few.leaves)]
    assert asked == [["input[0]"], ["input[1]"]]
    assert [len(leaves) for leaves in groups(many.leaves)] == [3, 2, 2, 2, 2, 2]


def test_inputs_that_agree_are_one_finding_each() -> None:
    result = layout(torch.matmul, tensor(4, 3), tensor(3, 2, seed=1))

    assert [(f.leaf, f.oracle) for f in result.findings] == [
        ("input[0]", "other layouts"),
        ("input[1]", "other layouts"),
    ]


def test_inputs_come_back_as_they_were() -> None:
    x = tensor(4, 3).T.requires_grad_()
    before = x.detach().clone()

    layout(torch.tanh, x)

    assert torch.equal(x, before)
    assert x.grad is None
    assert x.stride() == (1, 3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_gradient_of_zero_excuses_no_other_of_a_constant(dtype: torch.dtype, seed: int) -> None:
    class Differences(torch.autograd.Function):
        """x - roll(x): the gradient of a constant is zero, and here five times that constant."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x - x.roll(1, -1)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return u - u.roll(-1, -1) if any(u.stride()) else 5 * u

    x = torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(seed))

    assert gradcheck.check(Differences, x, checks="layout", seed=seed).verdict == "fail"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("constant", [0.3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("normalised", ["batch", "instance"])
def test_what_rounding_leaves_of_a_constant_channel_is_no_layout(
    normalised: str, dtype: torch.dtype, constant: float, seed: int
) -> None:
    """Its value is the rounding of its mean, over √ε; and so is the gradient of a constant."""

    def layer(x: torch.Tensor) -> torch.Tensor:
        if normalised == "batch":
            return F.batch_norm(x, None, None, training=True)
        return torch.as_tensor(F.instance_norm(x))

    x = torch.randn(6, 3, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    x[:, 1] = constant

    result = gradcheck.check(layer, x, checks="layout", seed=seed)

    assert result.passed, result


def _biased(factor: float) -> type[torch.autograd.Function]:
    class Biased(torch.autograd.Function):
        """x + b, with a gradient of b that is another where the cotangent is expanded."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
            return x + b[:, None]

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
            return u, u.sum((0, 2)) * (factor if 0 in u.stride() else 1)

    return Biased


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_layout_in_half_precision_is_judged_by_float64(dtype: Any, scale: float) -> None:
    x, b = (scale * tensor(2, 3, 7)).to(dtype), tensor(3).to(dtype)

    for factor in (2.0, 0.0):
        assert layout(_biased(factor), x, b).verdict == "fail"
    assert layout(_biased(1.0), x, b).passed


def _gelu(dtype: torch.dtype, factor: float) -> type[torch.autograd.Function]:
    class Gelu(torch.autograd.Function):
        """Runs in one dtype, and has another gradient where the cotangent is not contiguous."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            if x.dtype != dtype:
                raise TypeError("no other dtype")
            ctx.save_for_backward(x)
            return F.gelu(x)

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            g: Tensor = torch.ops.aten.gelu_backward(u, x)
            return g if u.is_contiguous() else factor * g

    return Gelu


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layout_of_what_runs_in_half_precision_only_is_judged_as_a_whole(
    dtype: torch.dtype, seed: int
) -> None:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)

    assert layout(_gelu(dtype, 2.0), x).verdict == "fail"
    assert layout(_gelu(dtype, 1.0), x).passed
