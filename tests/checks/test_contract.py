"""Writing where one should read, severed graphs, lost digits: caught; what is legal is not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradcheck
from gradcheck import CheckResult, Rule
from tests.checks.clean import JAX, RULE, TORCH, array, tensor


def contract(target: Any, *inputs: Any) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="contract")


def failures(result: CheckResult) -> dict[str, str]:
    return {f.leaf: f.message for f in result.findings if f.verdict == "fail"}


def remarks(result: CheckResult) -> dict[str, str]:
    return {f.leaf: f.message for f in result.findings if f.message}


# writing


class Tripling(torch.autograd.Function):
    """3 x; the cotangent is multiplied in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return u.mul_(3)


class Saved(torch.autograd.Function):
    """x²; the backward writes into the x it saved, as a raw kernel would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.as_tensor(x.data.mul_(2).mul(u))


class OnContext(torch.autograd.Function):
    """exp; what is kept on ctx is overwritten."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.y = x.exp()
        return torch.as_tensor(ctx.y.clone())

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return torch.as_tensor(ctx.y.mul_(u).clone())


class Unmarked(torch.autograd.Function):
    """2 x in place, without `mark_dirty`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.mul_(2)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 2 * u


class Returned(torch.autograd.Function):
    """x, whose gradient is written over x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return torch.as_tensor(ctx.x.data.copy_(u))


class Counting(nn.Module):
    """A buffer that the backward pass writes into."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y, count = x * 2, self.count
        if y.requires_grad:
            y.register_hook(lambda u: (count.add_(1), u)[1])  # type: ignore[no-untyped-call]
        return y


def hidden_write(x: Tensor) -> Tensor:
    y = x.exp()
    x.detach().numpy()[...] = 0
    return y


def switching(x: Tensor) -> Tensor:
    y = x * 2
    torch.set_grad_enabled(False)
    return y


@pytest.mark.parametrize(
    ("target", "leaf", "message"),
    [
        (Tripling, "output", "backward writes into its cotangent"),
        (Tripling, "Tripling.backward", "writes into grad_output"),
        (Saved, "input[0]", "backward writes into it"),
        (OnContext, "OnContext.backward", "writes into ctx.y"),
        (Unmarked, "input[0]", "forward writes into it, and autograd does not know"),
        (hidden_write, "input[0]", "forward writes into it, and autograd does not know"),
        (Returned, "input[0]", "backward writes into it"),
        (Counting(), "count", "backward writes into it"),
        (switching, "", "switched off"),
    ],
)
def test_writing_where_one_should_read_is_caught(target: Any, leaf: str, message: str) -> None:
    assert message in failures(contract(target, tensor(3)))[leaf]


def test_function_inside_a_module_is_watched_and_restored() -> None:
    before = dict(vars(Tripling))

    def inside(x: Tensor) -> Any:
        return Tripling.apply(x.sin()).cos()  # type: ignore[no-untyped-call]

    assert list(failures(contract(inside, tensor(3)))) == ["Tripling.backward"]
    assert dict(vars(Tripling)) == before


class Adding(nn.Module):
    """x w, whose rule adds to the gradient of w by itself, and returns it as well or does not."""

    def __init__(self, *, by_itself: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(tensor(4))
        self.by_itself = by_itself

    def forward(self, x: Tensor) -> Any:
        module = self

        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
                ctx.save_for_backward(x, w)
                return x * w

            @staticmethod
            def backward(ctx: Any, u: Tensor) -> Any:
                x, w = ctx.saved_tensors
                g = (u * x).sum(0)
                if module.by_itself:
                    module.w.grad = g if module.w.grad is None else module.w.grad + g
                return u * w, g

        return Product.apply(x, self.w)  # type: ignore[no-untyped-call]


def test_a_rule_that_adds_to_a_gradient_by_itself_is_caught() -> None:
    wrong, right = (Adding(by_itself=by_itself) for by_itself in (True, False))

    assert "adds to its `grad`" in failures(contract(wrong, tensor(3, 4)))["params.w"]
    assert not failures(contract(right, tensor(3, 4)))
    assert wrong.w.grad is None


def test_a_checkpoint_that_accumulates_gradients_is_no_breach() -> None:
    def block(x: Tensor) -> Any:
        return checkpoint(lambda x: x.sin() * x, x, use_reentrant=True)

    assert contract(block, tensor(3)).passed


def test_gradient_in_the_memory_of_an_input_is_caught() -> None:
    class Aliased(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.x = x
            return x.square().sum() / 2

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Tensor:
            return torch.as_tensor(ctx.x)

    assert "lives in the memory of input[0]" in failures(contract(Aliased, tensor(3)))["input[0]"]


# severed graphs


class Both(nn.Module):
    """The second output was detached by mistake; the gain never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(tensor(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.gain.detach(), (x * x).detach()


def test_detached_output_and_parameter_are_caught() -> None:
    assert failures(contract(Both(), tensor(3))) == {
        "output[1]": "wrongly detached: it has no graph, but depends on input[0]; if it is meant, "
        "say declared={'output[1]': why}",
        "params.gain": "no gradient reaches it, but output[0] depends on it",
    }


def test_step_function_beside_the_output_is_not_detached() -> None:
    def counted(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.sin(), (x > 0).to(x.dtype).sum(), x.argsort().to(x.dtype)

    assert contract(counted, tensor(1000)).passed


def test_parameter_without_influence_is_only_said() -> None:
    result = contract(*TORCH["unused, frozen, a step"]())

    assert result.passed
    assert remarks(result) == {"params.unused": "nothing depends on it"}


# what is returned


class Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 3 * u.float()


def test_lost_digits_that_autograd_casts_back_are_caught() -> None:
    expected = "its gradient is returned in float32, the leaf is float64"
    inside = contract(lambda x: Narrow.apply(x).sin(), tensor(3))  # type: ignore[no-untyped-call]

    assert failures(contract(Narrow, tensor(3))) == {"Narrow.backward": expected}
    assert inside.passed  # a kernel that computes in float32 on purpose does the same
    assert remarks(inside) == {"Narrow.backward": expected}


def test_kernel_in_float32_may_return_float32() -> None:
    class Kernel(Narrow):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (3 * x.float()).to(x.dtype)

    assert contract(Kernel, tensor(3)).passed


def test_sum_that_autograd_does_for_a_rule_is_said() -> None:
    class Broadcast(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
            return x + b

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
            return u, u

    result = contract(Broadcast, tensor(4, 3), tensor(3))

    assert result.passed
    assert "autograd sums to" in remarks(result)["Broadcast.backward"]


def test_rule_of_jax_that_loses_digits_is_caught() -> None:
    @jax.custom_vjp
    def doubled(x: Any) -> Any:
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, None), lambda _, u: ((2 * u).astype(jnp.bfloat16),))

    result = contract(doubled, jnp.asarray(array(4), jnp.float32))

    assert "returned in bfloat16" in failures(result)["input[0]"]


def writing_forward(x: Any) -> Any:
    x *= 2
    return x.copy()


@pytest.mark.parametrize(
    ("rule", "leaf", "message"),
    [
        (Rule(writing_forward, lambda x, u: 2 * u), "input[0]", "forward writes into its input"),
        (Rule(lambda x: 2 * x, lambda x, u: np.multiply(u, 2, out=u)), "output", "its cotangent"),
        (
            Rule(lambda x: x * x, lambda x, u: u * np.multiply(x[0], 2, out=x[0])),
            "input[0]",
            "vjp writes into what it was given",
        ),
        (
            Rule(
                lambda x: (x * x, [x + 0]),
                lambda c, u: u * np.multiply(c[0], 2, out=c[0]),
                None,
                True,
            ),
            "cache[0]",
            "vjp writes into what it was given",
        ),
        (Rule(lambda x: x @ x / 2, lambda x, u: x[0]), "input[0]", "a returned gradient is a view"),
        (Rule(lambda x: 2 * x, lambda x, u: 2 * np.float32(u)), "input[0]", "float32"),
        (Rule(lambda x: 2 * x, lambda x, u: (2 + 0j) * u), "input[0]", "complex128"),
    ],
)
def test_rules_that_break_the_contract_are_caught(rule: Rule, leaf: str, message: str) -> None:
    assert message in failures(contract(rule, array(3)))[leaf]


# right


@pytest.mark.parametrize("name", TORCH)
def test_right_torch_targets_pass(name: str) -> None:
    result = contract(*TORCH[name]())

    assert result.passed
    assert not result.not_checked


@pytest.mark.parametrize("name", JAX)
def test_right_jax_targets_pass(name: str) -> None:
    assert contract(*JAX[name]()).passed


@pytest.mark.parametrize("name", RULE)
def test_right_rules_pass(name: str) -> None:
    assert contract(*RULE[name]()).passed


def test_writing_in_place_where_autograd_knows_is_only_said() -> None:
    for target in (nn.ReLU(inplace=True), TORCH["a Function in place"]()[0]):
        result = contract(target, tensor(4, 3))

        assert result.passed
        assert remarks(result) == {"input[0]": "forward writes into it"}


def test_an_array_of_numpy_that_is_written_into_is_said_and_comes_back() -> None:
    def masked(x: Tensor, mask: Any) -> Tensor:
        mask[0] = 0
        return x * torch.as_tensor(mask)

    mask = np.ones(3)
    result = contract(masked, tensor(4, 3), mask)

    assert remarks(result) == {"input[1]": "forward writes into it"}
    assert np.array_equal(mask, np.ones(3))


def test_running_statistics_are_no_breach() -> None:
    def functional(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, training=True)

    module = contract(nn.BatchNorm1d(3).double(), tensor(5, 3))

    assert not remarks(module)
    assert not contract(functional, tensor(5, 3), tensor(3), tensor(3).abs()).findings


def test_cotangents_and_inputs_of_the_caller_come_back() -> None:
    x = tensor(3).requires_grad_()
    before = x.detach().clone()

    for target in (Tripling, Saved, Unmarked, hidden_write, switching):
        contract(target, x)

    assert torch.equal(x, before)
    assert x.grad is None
    assert torch.is_grad_enabled()


class Softmax(torch.autograd.Function):
    """Returns the logarithm of its denominator too, which has a gradient that it does not give."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, marks: bool) -> tuple[Tensor, Tensor]:
        size = x.logsumexp(-1)
        p = (x - size[:, None]).exp()
        ctx.save_for_backward(p)
        if marks:
            ctx.mark_non_differentiable(size)
        return p, size

    @staticmethod
    def backward(ctx: Any, u: Tensor, _: Any) -> Any:
        (p,) = ctx.saved_tensors
        return p * (u - (u * p).sum(-1, keepdim=True)), None


def test_an_output_that_is_marked_has_no_gradient_and_that_is_said() -> None:
    x = tensor(2, 3)
    right = gradcheck.check(lambda x: Softmax.apply(x, True), x)  # type: ignore[no-untyped-call]
    assert right.passed, str(right)
    assert "output[1]: marked as non-differentiable by its Function" in right.not_checked
    wrong = gradcheck.check(lambda x: Softmax.apply(x, False), x)  # type: ignore[no-untyped-call]
    assert wrong.verdict == "fail"


class Metrics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        loss = self.layer(x).square().mean()
        return {"loss": loss, "rmse": loss.detach().sqrt()}


def test_an_output_that_is_detached_on_purpose_may_be_declared() -> None:
    x = tensor(2, 3)
    told = str(gradcheck.check(Metrics(), x))
    assert told.startswith("FAIL  contract of Metrics at output['rmse']")
    assert "declared={\"output['rmse']\": why}" in " ".join(told.split())
    result = gradcheck.check(Metrics(), x, declared={"output['rmse']": "for the log"})
    assert result.passed, str(result)
    assert "output['rmse']: declared, for the log" in result.not_checked


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_an_output_of_jax_may_be_declared(jit: Any) -> None:
    def f(x: Any) -> Any:
        return {"loss": (x**2).mean(), "rmse": jnp.sqrt(jax.lax.stop_gradient(x**2).mean())}

    x = array(3)
    assert gradcheck.check(jit(f), x).verdict == "fail"
    assert gradcheck.check(
        jit(f), x, declared={"output['rmse']": "for the log"}, checks="all"
    ).passed


@pytest.mark.parametrize("saves", [True, False])
def test_an_argument_kept_beside_what_autograd_watches_is_said(saves: bool) -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            if saves:
                ctx.save_for_backward(x)
            else:
                ctx.x = x
            ctx.twice = 2 * x  # an intermediate may be kept as one likes
            return x * x

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x = ctx.saved_tensors[0] if saves else ctx.x
            return (x + ctx.twice / 2) * u

    result = gradcheck.check(Square, torch.arange(1.0, 4.0, dtype=torch.float64))
    assert result.passed, result
    said = [f.message for f in result.findings if f.leaf == "Square.forward"]
    assert ["ctx.x" in message for message in said] == ([] if saves else [True])


def test_a_target_that_refuses_to_be_moved_is_watched_all_the_same() -> None:
    def masked(p: Tensor) -> tuple[Tensor, Tensor]:
        if abs(float(p.detach().sum()) - 1) > 1e-12:
            raise ValueError("probabilities must sum to one")
        return Tripling.apply(p), (p > 0.3).to(p.dtype)  # type: ignore[no-untyped-call]

    result = contract(masked, torch.tensor([0.125, 0.125, 0.75], dtype=torch.float64))

    assert "output[0]" in failures(result)
    assert "refuses the points beside this one" in remarks(result)["output[1]"]
