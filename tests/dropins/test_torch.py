"""The drop-in for `torch.autograd.gradcheck` refuses what PyTorch's refuses, and more."""

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from gradcheck.dropin import InconclusiveWarning
from gradcheck.torch import GradcheckError, gradcheck, gradgradcheck

torch.manual_seed(0)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def smooth(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tanh(x @ w), (x**2).sum()


def hooked(hook: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The identity, with something wrong in its backward."""

    def identity(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        if y.requires_grad:
            y.register_hook(  # type: ignore[no-untyped-call]
                lambda u: None if u is None else hook(u)
            )
        return y

    return identity


class Rule(torch.autograd.Function):
    """sin, with what a test puts in the place of its derivatives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x.sin()

    @classmethod
    def of(cls, **rules: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return u * rules.get("slope", torch.cos)(x)

        def jvp(ctx: Any, v: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return v * rules.get("tangent", torch.cos)(x)

        kind = type("Sin", (cls,), {"backward": staticmethod(backward), "jvp": staticmethod(jvp)})
        apply: Callable[..., torch.Tensor] = kind.apply  # type: ignore[attr-defined]
        return apply


@pytest.mark.parametrize("ours", [gradcheck, gradgradcheck], ids=lambda f: f.__name__)
def test_the_signature_is_pytorchs(ours: Callable[..., bool]) -> None:
    theirs = inspect.signature(getattr(torch.autograd, ours.__name__)).parameters

    found = inspect.signature(ours).parameters

    assert [(p.name, p.kind, p.default) for p in found.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


def test_the_exception_is_pytorchs() -> None:
    assert GradcheckError is sys.modules["torch.autograd.gradcheck"].GradcheckError


def test_importing_gradcheck_loads_no_framework() -> None:
    code = "import gradcheck, sys; assert not {'torch', 'jax'} & set(sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_right_gradient_passes_every_check() -> None:
    assert gradcheck(
        smooth,
        (leaf(3, 4), leaf(4, 2)),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_grad_dtypes=True,
        eps=1e-3,
        fast_mode=True,
    )


def test_a_right_second_derivative_passes_every_check() -> None:
    assert gradgradcheck(
        smooth,
        (leaf(3, 4), leaf(4, 2)),
        check_fwd_over_rev=True,
        check_batched_grad=True,
        gen_non_contig_grad_outputs=True,
    )


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64], ids=str)
def test_complex_and_real_functions_pass(dtype: torch.dtype) -> None:
    x = leaf(3, dtype=dtype)

    assert gradcheck(lambda x: (x * 1j * x, x.abs()), x, check_forward_ad=True)
    assert gradgradcheck(lambda x: x**3, x)


def test_an_error_below_pytorchs_tolerance_is_seen() -> None:
    subtle = Rule.of(slope=lambda x: x.cos() * (1 + 1e-5))
    x = leaf(4)

    assert torch.autograd.gradcheck(subtle, x)
    with pytest.raises(GradcheckError, match="constant factor"):
        gradcheck(subtle, x)


def test_a_right_float32_gradient_that_pytorch_refuses_passes() -> None:
    x = leaf(4, dtype=torch.float32)
    with pytest.warns(UserWarning, match="Input #0 requires gradient and is not a double"):
        assert gradcheck(torch.sin, x)
    with pytest.warns(UserWarning, match="double precision"):
        assert not torch.autograd.gradcheck(torch.sin, x, raise_exception=False)


def test_the_wrong_output_and_input_are_named() -> None:
    def second_wrong(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sin(), x @ hooked(lambda u: 2 * u)(w)

    message = "Jacobian mismatch for output 1 with respect to input 1,\nnumerical:"
    with pytest.raises(GradcheckError, match=message):
        gradcheck(second_wrong, (leaf(3, 4), leaf(4, 2)))
    assert gradcheck(second_wrong, (leaf(3, 4), leaf(4, 2)), raise_exception=False) is False


def test_the_part_of_a_complex_output_is_named() -> None:
    with pytest.raises(GradcheckError, match="imaginary part of complex outputs only, Jacobian"):
        gradcheck(hooked(lambda u: u + 1e-2), leaf(2, dtype=torch.complex128))


def test_wrong_forward_mode_fails_only_if_asked_for() -> None:
    wrong = Rule.of(tangent=lambda x: 1.1 * x.cos())
    message = "Jacobian computed with forward mode mismatch for output 0 with respect to input 0"

    assert gradcheck(wrong, leaf(3))
    with pytest.raises(GradcheckError, match=message):
        gradcheck(wrong, leaf(3), check_forward_ad=True)


def test_wrong_backward_passes_if_only_forward_mode_is_asked_for() -> None:
    wrong = Rule.of(slope=torch.sin)

    assert gradcheck(wrong, leaf(3), check_forward_ad=True, check_backward_ad=False)


def test_a_second_derivative_that_is_wrong_fails() -> None:
    detached = Rule.of(slope=lambda x: x.detach().cos())

    assert gradcheck(detached, leaf(3))
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to"):
        gradgradcheck(detached, leaf(3))


def test_given_grad_outputs_are_leaves_of_the_gradient() -> None:
    u = leaf(3)

    assert gradgradcheck(torch.sin, leaf(3), u)
    with pytest.raises(GradcheckError, match="with respect to input 1"):
        gradgradcheck(hooked(lambda u: u + u.detach() ** 2), leaf(3), u)


def test_rtol_is_honoured_and_atol_is_slack() -> None:
    wrong = hooked(lambda u: u * (1 + 1e-4))

    assert not gradcheck(wrong, leaf(3), raise_exception=False)
    assert gradcheck(wrong, leaf(3), rtol=1e-3)
    assert gradcheck(wrong, leaf(3), atol=1e-2)
    assert not gradcheck(wrong, leaf(3), atol=1e-8, raise_exception=False)
    forward = Rule.of(tangent=lambda x: 1.0001 * x.cos())
    assert gradcheck(forward, leaf(3), check_forward_ad=True, atol=1e-2)
    assert not gradcheck(forward, leaf(3), check_forward_ad=True, atol=1e-8, raise_exception=False)


def test_nondet_tol_decides_what_may_differ_between_two_runs() -> None:
    restless = hooked(lambda u: u * (1 + 1e-9 * torch.rand_like(u)))

    with pytest.raises(GradcheckError, match="Backward is not reentrant"):
        gradcheck(restless, leaf(3))
    assert gradcheck(restless, leaf(3), nondet_tol=1e-6)


def test_a_gradient_for_no_cotangent_fails() -> None:
    with pytest.raises(GradcheckError, match="backward not multiplied by grad_output"):
        gradcheck(hooked(lambda u: u + 1e-2), leaf(3), atol=1e-1)


class NeedsCotangent(torch.autograd.Function):
    """Fails where a cotangent is not defined."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor | None) -> torch.Tensor:
        if u is None:
            raise RuntimeError("no cotangent")
        return 2 * u


def test_undefined_cotangents_must_be_handled_unless_switched_off() -> None:
    with (
        pytest.warns(UserWarning, match="undefined gradient support"),
        pytest.raises(GradcheckError, match="Expected backward function to handle undefined"),
    ):
        gradcheck(NeedsCotangent.apply, leaf(3))
    assert gradcheck(NeedsCotangent.apply, leaf(3), check_undefined_grad=False)


def test_undefined_tangents_must_count_as_zero() -> None:
    def careless(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        is_dual, other = (forward_ad.unpack_dual(z).tangent is not None for z in (x, y))  # type: ignore[no-untyped-call]
        is_forward = is_dual or other
        return x + (2 * y if is_forward and not is_dual else y)

    with pytest.raises(GradcheckError, match="Mismatch in tangent values for output with index"):
        gradcheck(careless, (leaf(3), leaf(3)), check_forward_ad=True)


class Sparse(torch.autograd.Function):
    """Gives a sparse gradient to a dense input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        return u.to_sparse()


def test_a_layout_that_is_not_the_inputs_fails() -> None:
    with pytest.raises(GradcheckError, match="grad is incorrect layout"):
        gradcheck(Sparse.apply, leaf(3))


class NoBatch(torch.autograd.Function):
    """Goes through NumPy, where no batch can follow."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        return torch.tensor(3 * u.detach().numpy())


def test_a_backward_that_cannot_be_batched_fails_only_if_asked_for() -> None:
    assert gradcheck(NoBatch.apply, leaf(3))
    with pytest.raises(GradcheckError, match="While computing batched gradients, got"):
        gradcheck(NoBatch.apply, leaf(3), check_batched_grad=True)


def test_outputs_that_require_no_gradient_must_not_depend_on_the_input() -> None:
    with pytest.raises(GradcheckError, match="Numerical gradient for function expected to be zero"):
        gradcheck(lambda x: x.detach() ** 2, leaf(3))
    assert gradcheck(lambda x: torch.ones(3), leaf(3))
    assert gradcheck(lambda x: x.argmax(), leaf(3))
    assert gradcheck(lambda x: (), leaf(3))


def test_an_output_that_is_detached_beside_others_is_not_checked() -> None:
    assert gradcheck(lambda x: (x**2, x.detach() ** 3), leaf(3))


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (torch.ones(3), {}, ValueError, "at least one input tensor to require gradient"),
        (leaf(1).expand(3), {}, RuntimeError, "The 0th input has a dimension with stride 0"),
        (leaf(3), {"check_backward_ad": False}, AssertionError, "Expected at least one of"),
        (
            leaf(3),
            {"check_backward_ad": False, "check_forward_ad": True, "check_batched_grad": True},
            AssertionError,
            "check_batched_grad=True requires",
        ),
        (
            leaf(3),
            {"check_batched_forward_grad": True},
            AssertionError,
            "check_batched_forward_grad=True requires",
        ),
    ],
    ids=["no leaf", "overlapping", "nothing asked", "batched", "batched forward"],
)
def test_wrong_use_raises_as_in_pytorch(
    inputs: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    for checker in (gradcheck, torch.autograd.gradcheck):
        with pytest.raises(error, match=message):
            checker(torch.sin, inputs, raise_exception=False, **options)


def test_what_the_function_raises_comes_through() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("weight")

    with pytest.raises(KeyError, match="weight"):
        gradcheck(broken, leaf(3), raise_exception=False)


def test_a_shape_that_depends_on_values_is_refused() -> None:
    with pytest.raises(AssertionError, match="outputs with the same shape when inputs are"):
        gradcheck(
            lambda x: torch.cat([x, x]) if (x >= 1).all() else x,
            torch.ones(1, dtype=torch.float64, requires_grad=True),
        )


def test_outputs_may_depend_on_whether_a_gradient_is_recorded() -> None:
    def either(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        return y if torch.is_grad_enabled() and y.requires_grad else y[:1]

    for checker in (gradcheck, torch.autograd.gradcheck):
        assert checker(either, leaf(3))


def test_what_cannot_be_decided_passes_with_a_warning() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        return (x >= 0) * (x + 1)

    with pytest.warns(InconclusiveWarning, match="the value jumps at this point") as said:
        assert gradcheck(step, torch.zeros(3, dtype=torch.float64, requires_grad=True))
    assert said[0].filename == __file__


@pytest.mark.parametrize(
    "layout",
    [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_sparse_inputs_of_every_layout(layout: torch.layout, masked: bool) -> None:
    blocks = (2, 2) if layout in (torch.sparse_bsr, torch.sparse_bsc) else None
    dense = torch.rand(4, 4, dtype=torch.float64) + 0.1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|CSC|BSR|BSC)")
        x = dense.to_sparse(layout=layout, blocksize=blocks).requires_grad_()

        assert gradcheck(lambda x: x.to_dense() ** 2, x, masked=masked)
        with pytest.raises(GradcheckError):
            gradcheck(lambda x: hooked(lambda u: 2 * u)(x.to_dense()), x, masked=masked)


def test_unspecified_entries_have_gradients_unless_masked() -> None:
    x = torch.tensor([[0.0, 2.0], [3.0, 0.0]], dtype=torch.float64).to_sparse().requires_grad_()

    assert gradcheck(lambda x: x.to_dense(masked_grad=False) * 2, x)
    assert gradcheck(lambda x: x.to_dense(masked_grad=True) * 2, x, masked=True)
    with pytest.raises(GradcheckError, match="masked=True if that is meant"):
        gradcheck(lambda x: x.to_dense(masked_grad=True) * 2, x, masked=False)


def test_the_strides_of_an_input_are_kept() -> None:
    seen = set()

    def watching(x: torch.Tensor) -> torch.Tensor:
        seen.add(x.stride())
        return x.sin()

    assert gradcheck(watching, leaf(3, 4).detach().T.requires_grad_())
    assert seen == {(1, 4)}


@pytest.mark.parametrize(
    ("func", "got"),
    [(lambda x: None, "NoneType: is a `return` missing"), (lambda x: len(x.shape), "int")],
)
def test_a_function_that_returns_no_tensor_is_refused(func: Any, got: str) -> None:
    for checker in (gradcheck, gradgradcheck):
        with pytest.raises(ValueError, match=got):
            checker(func, (leaf(),))


class Scaled(torch.nn.Module):
    """x² w, with a gradient in w that is given."""

    def __init__(self, slope: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))

        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(x, w)
                return x * x * w

            @staticmethod
            def backward(ctx: Any, u: torch.Tensor) -> Any:
                x, w = ctx.saved_tensors
                return 2 * u * x * w, u * slope(x)

        self.product = Product

    def forward(self, x: torch.Tensor) -> Any:
        return self.product.apply(x, self.w)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(
    ("check", "slope"),
    [
        (gradcheck, lambda x: 1.5 * x * x),
        (gradgradcheck, lambda x: x.detach() ** 2),
    ],
    ids=["gradcheck", "gradgradcheck"],
)
def test_what_a_function_closes_over_is_checked_where_it_is_an_input(
    check: Callable[..., bool], slope: Callable[[torch.Tensor], torch.Tensor], everything: bool
) -> None:
    """`gradcheck(lambda x, *params: module(x), (x, *module.parameters()))`, as many tests do."""
    x = leaf(3)

    def of(module: torch.nn.Module) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...]]:
        return lambda y, *_: module(x if everything else y), (x, *module.parameters())

    right, wrong = of(Scaled(lambda x: x * x)), of(Scaled(slope))
    before = [tensor.detach().clone() for tensor in right[1]]
    assert check(*right)
    assert all(torch.equal(a, b) for a, b in zip(before, right[1], strict=True))
    with pytest.raises(GradcheckError):
        check(*wrong)


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_parameter_arrives_as_one(factor: float) -> None:
    class Holder(torch.nn.Module):
        def __init__(self, w: torch.Tensor) -> None:
            super().__init__()
            self.w = w  # a parameter if it is one, else an attribute

        def forward(self, x: torch.Tensor) -> Any:
            return sum((p * x for p in self.parameters()), torch.zeros_like(x))

    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return hooked(lambda u: factor * u)(Holder(w)(x))

    w = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    assert gradcheck(function, (w, leaf(3)), raise_exception=False) is (factor == 1)


@pytest.mark.parametrize("masked", [False, True])
def test_a_sparse_input_may_be_empty_inside(masked: bool) -> None:
    x = torch.zeros(2, 2, 0, dtype=torch.float64).to_sparse(2).requires_grad_()
    assert gradcheck(lambda x: x.to_dense(masked_grad=masked), (x,), masked=masked)


def test_a_wrapper_of_a_tensor_is_read() -> None:
    from torch.testing._internal.logging_tensor import LoggingTensor

    w = LoggingTensor(torch.rand(3, dtype=torch.float64))  # type: ignore[no-untyped-call]
    assert gradcheck(lambda x: x * w, (leaf(3),))


def test_an_error_beyond_atol_is_not_looked_for_in_every_entry() -> None:
    calls = 0

    def function(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x.sin() + 0.1 * x.detach()

    with pytest.raises(GradcheckError):
        gradcheck(function, (leaf(1000),), atol=1e-4)
    assert calls < 3000  # a VJP for each output is needed; four values for each input are not


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_nested_tensors_are_inputs(factor: float) -> None:
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x.sin().values()
        return y + (factor - 1) * (y - y.detach())

    is_right = gradcheck(f, (nested.requires_grad_(),), raise_exception=False)

    assert is_right is (factor == 1)
