"""What one call leaves to another is caught; what each keeps for itself is not."""

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions.transforms import ExpTransform

import gradcheck
from gradcheck import CheckResult, Rule, Verdict
from tests.checks.clean import JAX, RULE, TORCH, array, tensor


def state(target: Any, *inputs: Any) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="state")


def failures(result: CheckResult) -> list[str]:
    return [finding.message for finding in result.findings if finding.verdict == "fail"]


# wrong


class Entropy(torch.autograd.Function):
    """Σ -p log p of probabilities, with those of the last call; others are refused."""

    p: Tensor

    @staticmethod
    def forward(ctx: Any, p: Tensor) -> Tensor:
        if abs(float(p.sum()) - 1) > 1e-4:
            raise ValueError("probabilities must sum to one")
        Entropy.p = p
        return -(p * p.log()).sum()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return -u * (Entropy.p.log() + 1)


class Queue(torch.autograd.Function):
    """x², with the x of graphs in a queue: right if backward passes come in their order."""

    kept: ClassVar[list[tuple[weakref.ref[Any], Tensor]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.requires_grad:
            Queue.kept.append((weakref.ref(ctx), x))
        return x * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        Queue.kept = [(node, x) for node, x in Queue.kept if node() is not None]
        _, x = Queue.kept.pop(0)
        return 2 * x * u


class OnTheClass(torch.autograd.Function):
    """x², with x kept on the class."""

    x: Tensor

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        OnTheClass.x = x
        return x * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 2 * OnTheClass.x * u


class Stack(torch.autograd.Function):
    """x², with every x on a stack: right if backward passes come in reverse order."""

    kept: ClassVar[list[Tensor]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.requires_grad:
            Stack.kept.append(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 2 * (Stack.kept.pop() if len(Stack.kept) > 1 else Stack.kept[0]) * u


class ThroughModule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Tensor:
        ctx.module = module
        module.x = x
        return x * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None]:
        return 2 * ctx.module.x * u, None


class OnTheModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.zeros(3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Any:
        return ThroughModule.apply(x, self)  # type: ignore[no-untyped-call]


class Workspace(torch.autograd.Function):
    """3 x; the gradient is handed out in one buffer, again and again."""

    buffer = torch.empty(3, dtype=torch.float64)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return torch.mul(u, 3, out=Workspace.buffer)


class Reusing(torch.autograd.Function):
    """exp; the gradient is computed in the memory of what was saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.exp()
        ctx.save_for_backward(y.clone())
        return y

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.as_tensor(y.data.mul_(u))  # which autograd does not see


class Undefined(torch.autograd.Function):
    """x y and x + y; an undefined cotangent of the first makes it forget the second."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y)
        return x * y, x + y

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> Any:
        x, y = ctx.saved_tensors
        if u is None:
            return None, None
        return u * y + (0 if v is None else v), u * x + (0 if v is None else v)


class Crashing(Undefined):
    """Fails where a cotangent is undefined."""

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any) -> Any:
        x, y = ctx.saved_tensors
        return u * y + v, u * x + v


class Misplaced(torch.autograd.Function):
    """x y; where only the second needs a gradient it gets that of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        x, y = ctx.saved_tensors
        gradients = [u * y, u * x]
        if not ctx.needs_input_grad[0]:
            return None, gradients[0]
        return gradients[0], gradients[1]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (OnTheClass, "that of another call"),
        (Stack, "that of another call"),
        (OnTheModule(), "that of another call"),
        (Workspace, "that of another call"),
        (Reusing, "a second backward pass"),
    ],
)
def test_what_is_left_to_another_call_is_caught(target: Any, complaint: str) -> None:
    result = state(target, tensor(3))

    assert len(failures(result)) == 1
    assert complaint in failures(result)[0]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (Undefined, "do not add up"),
        (Crashing, "raises TypeError (outputs one by one"),
        (Misplaced, "with other leaves frozen"),
    ],
)
def test_what_is_asked_in_part_is_the_part_of_the_answer(target: Any, complaint: str) -> None:
    result = state(target, tensor(3), tensor(3, seed=1))

    assert gradcheck.check(target, tensor(3), tensor(3, seed=1), checks="vjp").passed
    assert complaint in failures(result)[0]


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("gate", range(3))
def test_a_gradient_that_waits_for_the_need_of_another_is_found(position: int, gate: int) -> None:
    """`if ctx.needs_input_grad[...]` with the wrong number: the layer never trains."""
    gates = [k if k != position else gate for k in range(3)]

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(a, b, c)
            return a * b * c

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            a, b, c = ctx.saved_tensors
            gradients = u * b * c, u * a * c, u * a * b
            needs = [ctx.needs_input_grad[k] for k in gates]
            return tuple(g if need else None for g, need in zip(gradients, needs, strict=True))

    inputs = torch.rand(3, 4, dtype=torch.float64)
    result = gradcheck.check(Product, *inputs, checks=["vjp", "state"])
    assert result.verdict == ("pass" if gate == position else "fail")


class Layer:
    """A layer as people write it from scratch: what backward needs is on the layer."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return x * x

    def backward(self, _: Any, u: Any) -> Any:
        return 2 * self.x * u


def test_numpy_layer_that_keeps_its_input_is_caught() -> None:
    layer = Layer()

    assert "another call" in failures(state(Rule(layer.forward, layer.backward), array(3)))[0]


def test_numpy_cache_that_is_consumed_is_caught() -> None:
    def consuming(cache: Any, u: Any) -> Any:
        cache *= u
        return cache

    rule = Rule(lambda x: (np.exp(x), np.exp(x)), consuming, cached=True)

    assert "backward twice" in failures(state(rule, array(3)))[0]


def test_memory_of_shapes_is_caught() -> None:
    known: dict[Any, Any] = {}

    def forward(x: Any) -> Any:
        return x * known.setdefault(x.shape, 1.0 + 0.5 * float(abs(x[0])))

    def remembering(x: Any, u: Any) -> Any:
        known[u.shape] = known[u.shape] + 1.0
        return u * known[u.shape]

    assert not state(Rule(forward, remembering), array(3)).passed


class OfTheFirst(torch.autograd.Function):
    """x w, through a copy of w that is made once, and kept by whoever is asked to."""

    kept: ClassVar[dict[str, Tensor]] = {}

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, kept: dict[str, Tensor] | None = None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.kept = OfTheFirst.kept if kept is None else kept
        return x @ w

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return u @ ctx.kept.setdefault("w", w.detach().clone()).mT, x.mT @ u, None


class Remembering(nn.Module):
    """The same; its copy comes back as it was after every check of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(tensor(4, 2))
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        return OfTheFirst.apply(x, self.w, self.kept)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_of_the_first_arguments_is_caught(seed: int) -> None:
    OfTheFirst.kept.clear()
    kept: dict[str, Any] = {}
    rule = Rule(
        lambda x, w: x @ w,
        lambda xs, u: (u @ kept.setdefault("w", xs[1].copy()).T, xs[0].T @ u),
    )

    of_numpy = gradcheck.check(rule, array(3, 4), array(4, 2), seed=seed)
    of_class = gradcheck.check(OfTheFirst, tensor(3, 4), tensor(4, 2), seed=seed)
    of_module = gradcheck.check(Remembering(), tensor(3, 4), seed=seed)

    for result in (of_numpy, of_class, of_module):
        (failed,) = [finding for finding in result.findings if finding.verdict == "fail"]
        assert failed.check == "state"
        assert failed.leaf == "input[0]"
    assert "it keeps what it made of its first" in failures(of_numpy)[0]
    assert "that of another call" in failures(of_module)[0]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_declared_hides_nothing_that_is_kept(seed: int) -> None:
    kept: dict[str, Any] = {}
    rule = Rule(
        lambda x, w, t: x @ w * t,
        lambda xs, u: (
            u * xs[2] @ kept.setdefault("w", xs[1].copy()).T,
            xs[0].T @ (u * xs[2]),
            0 * u,
        ),
    )
    inputs = array(3, 4), array(4, 2), array(3, 2)

    result = gradcheck.check(rule, *inputs, declared={"input[2]": "a label"}, seed=seed)

    assert [f.leaf for f in result.findings if f.verdict == "fail"] == ["input[0]"]


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _cross_entropy(targets: Any) -> tuple[Any, ...]:
    """The rule of everybody: p - t, which is right where the targets sum to one."""
    rule = Rule(
        lambda x, t: -np.sum(t * np.log(_softmax(x))),
        lambda xs, u: (u * (_softmax(xs[0]) - xs[1]), -u * np.log(_softmax(xs[0]))),
    )
    return rule, array(3, 4), targets


def _turned() -> tuple[Any, ...]:
    """Solves by the transpose, which is right for a rotation."""
    q, _ = np.linalg.qr(array(3, 3))
    solve = np.linalg.solve
    rule = Rule(
        lambda r, b: solve(r, b),
        lambda xs, u: (-(xs[0] @ u) @ solve(*xs).T, xs[0] @ u),
    )
    return rule, q, array(3, 2)


ON_THEIR_DOMAIN: dict[str, Callable[[], tuple[Any, ...]]] = {
    "soft targets": lambda: _cross_entropy(_softmax(array(3, 4, seed=1))),
    "hard targets": lambda: _cross_entropy(np.eye(4)[:3]),
    "a rotation": _turned,
    "a mask": lambda: (
        Rule(lambda x, m: x * m**2, lambda xs, u: (u * xs[1], 2 * u * xs[0] * xs[1])),
        array(3, 4),
        np.float64(array(3, 4, seed=1) > 0),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ON_THEIR_DOMAIN)
def test_what_is_right_on_its_domain_alone_keeps_nothing(name: str, seed: int) -> None:
    target, *inputs = ON_THEIR_DOMAIN[name]()

    result = gradcheck.check(target, *inputs, checks=("vjp", "state"), seed=seed)

    assert result.passed, result


class Masked(nn.Module):
    """Dropout whose rule finds its mask on the module, or where it belongs."""

    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right
        self.mask = torch.zeros(())

    def forward(self, x: Tensor) -> Any:
        module = self

        class Drop(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                ctx.mask = module.mask = (torch.rand(x.shape) < 0.5).to(x.dtype) * 2
                return x * module.mask

            @staticmethod
            def backward(ctx: Any, u: Tensor) -> Tensor:
                return u * (ctx.mask if module.right else module.mask)

        return Drop.apply(x)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("right", [True, False])
def test_a_mask_that_the_next_call_draws_anew_is_caught(right: bool, seed: int) -> None:
    result = gradcheck.check(Masked(right=right), tensor(4, 5), seed=seed)

    assert result.passed is right, result
    assert right or "that of another call" in failures(result)[0]


# right


@pytest.mark.parametrize("name", TORCH)
def test_right_torch_targets_pass(name: str) -> None:
    assert state(*TORCH[name]()).passed


@pytest.mark.parametrize("name", JAX)
def test_right_jax_targets_pass(name: str) -> None:
    assert state(*JAX[name]()).passed


@pytest.mark.parametrize("name", RULE)
def test_right_rules_pass(name: str) -> None:
    assert state(*RULE[name]()).passed


def test_state_on_a_module_is_said() -> None:
    result = state(*TORCH["a state on the module"]())

    assert "keeps a state on its module" in result.findings[0].message


def test_graph_that_is_freed_may_refuse_a_second_backward() -> None:
    class Freeing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.x = x
            return x * x

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Tensor:
            x = ctx.x
            del ctx.x
            return torch.as_tensor(2 * x * u)

    result = state(Freeing, tensor(3))

    assert result.passed
    assert result.findings[0].message.startswith("refuses a second backward")


def test_module_comes_back_as_it_was() -> None:
    module, x = TORCH["a state on the module"]()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    state(module, x)

    assert module.h is None
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_compiled_backward_that_runs_once_is_asked_once() -> None:
    compiled = torch.compile(lambda x: torch.tanh(x) * x.sin(), backend="aot_eager")

    result = gradcheck.check(compiled, tensor(3, 2), checks=("layout", "determinism", "state"))

    assert result.passed, result
    (finding,) = [f for f in result.findings if f.check == "state"]
    assert "donated buffers" in finding.message  # why no second backward was asked
    assert not result.not_checked


def test_what_refuses_all_points_but_probabilities_is_called_at_others() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

    result = state(Entropy.apply, p)

    assert failures(result)[0].startswith("the gradient is that of another call")


def test_what_runs_at_one_point_only_is_called_there_and_that_is_said() -> None:
    x = array(3)

    def forward(z: Any) -> Any:
        if not np.array_equal(z, x):
            raise ValueError("no other")
        return np.sin(z)

    result = state(Rule(forward, lambda inputs, u: u * np.cos(inputs[0])), x)

    assert result.passed
    assert result.findings[0].message.startswith("the target refuses every other point")


def test_a_queue_that_fits_one_order_alone_is_caught() -> None:
    result = state(Queue, tensor(3))

    assert any("in reverse order" in message for message in failures(result))


Kept = dict[str, Any]


def _product(kept: Kept) -> tuple[Any, ...]:
    def vjp(inputs: Any, u: Any) -> Any:
        x, w = inputs
        inner = u * (1 - np.tanh(x @ w) ** 2)
        return inner @ kept.setdefault("w", w.copy()).T, x.T @ inner

    return Rule(lambda x, w: np.tanh(x @ w), vjp), array(4, 3), array(3, 2)


def _masked(kept: Kept) -> tuple[Any, ...]:
    def vjp(inputs: Any, u: Any) -> Any:
        return 2 * inputs[0] * kept.setdefault("mask", inputs[0] > 0) * u

    return Rule(lambda x: np.maximum(x, 0) * x, vjp), array(4, 3)


def _normed(kept: Kept) -> tuple[Any, ...]:
    def inverse(x: Any) -> Any:
        return 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def vjp(inputs: Any, u: Any) -> Any:
        (x,) = inputs
        r = kept.setdefault("r", inverse(x))
        return r * u - x * r**3 * (u * x).mean(-1, keepdims=True)

    return Rule(lambda x: x * inverse(x), vjp), array(4, 3)


class Forgetful(Kept):
    """Keeps nothing."""

    def setdefault(self, key: str, default: Any = None) -> Any:
        return default


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keeping", [_product, _masked, _normed])
def test_what_is_made_of_the_first_call_and_of_this_one_is_caught(keeping: Any, seed: int) -> None:
    assert gradcheck.check(*keeping(Forgetful()), seed=seed).passed
    assert (
        "keeps what it made of its first" in failures(gradcheck.check(*keeping({}), seed=seed))[0]
    )


@pytest.mark.parametrize("domain", ["sorted", "triangular", "padded", "orthogonal", "simplex"])
def test_a_rule_for_its_domain_is_not_taken_for_one_that_keeps(domain: str) -> None:
    """Right where the leaf is what it is for, and wrong where it is not."""
    x = np.random.default_rng(0).standard_normal((3, 3))
    of: dict[str, tuple[Any, Callable[[Any], bool]]] = {
        "sorted": (np.sort(x.ravel()), lambda x: bool(np.all(np.diff(x) >= 0))),
        "triangular": (np.tril(x), lambda x: not np.any(np.triu(x, 1))),
        "padded": (x * [1, 1, 0], lambda x: not np.any(x[:, 2])),
        "orthogonal": (np.linalg.qr(x)[0], lambda x: np.allclose(x @ x.T, np.eye(len(x)))),
        "simplex": (abs(x) / abs(x).sum(-1, keepdims=True), lambda x: np.allclose(x.sum(-1), 1)),
    }
    point, is_within = of[domain]
    rule = Rule(np.sin, lambda xs, u: u * np.cos(xs[0]) * (1 if is_within(xs[0]) else 0.5))

    assert gradcheck.check(rule, point, checks="state").passed


def test_what_is_made_of_an_argument_that_matches_another_is_told_from_what_is_kept() -> None:
    """A factor of a matrix that is given beside it; moved alone, neither fits the other."""

    def posed(kept: Kept | None) -> CheckResult:
        def vjp(inputs: Any, u: Any) -> Any:
            a, factor = inputs
            inverse = np.linalg.inv(factor @ factor.T)
            return u * (inverse if kept is None else kept.setdefault("inverse", inverse)), 0 * a

        root = array(3, 3) + 3 * np.eye(3)
        a = root @ root.T
        rule = Rule(lambda a, factor: np.linalg.slogdet(a)[1], vjp)
        return gradcheck.check(rule, a, np.linalg.cholesky(a), checks="state")

    right = posed(None)

    assert right.verdict is not Verdict.FAIL
    assert "made of what is to match it" in str(right)
    assert posed({}).verdict is Verdict.FAIL


class Written(nn.Module):
    """x Σ x²; its rule has the sum of the first call, from its buffer, or that of this one."""

    s: Tensor

    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right
        self.register_buffer("s", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        module = self

        class Scaled(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                ctx.save_for_backward(x)
                return x * (x * x).sum()

            @staticmethod
            def backward(ctx: Any, u: Tensor) -> Any:
                (x,) = ctx.saved_tensors
                s = (x * x).sum()
                if not module.right:
                    if not module.s:
                        module.s.copy_(s)
                    s = module.s
                return u * s + 2 * x * (u * x).sum()

        return Scaled.apply(x)  # type: ignore[no-untyped-call]


def test_what_is_written_once_into_a_buffer_is_caught() -> None:
    assert gradcheck.check(Written(right=True), tensor(4)).passed
    assert not gradcheck.check(Written(right=False), tensor(4)).passed


def test_what_is_written_once_into_an_array_is_caught() -> None:
    room = np.zeros(())

    def vjp(inputs: Any, u: Any) -> Any:
        (x,) = inputs
        if not room:
            room[...] = (x * x).sum()
        return u * room + 2 * x * (u * x).sum()

    assert not gradcheck.check(Rule(lambda x: x * (x * x).sum(), vjp), array(4)).passed


@pytest.mark.parametrize("made", ["sum", "std", "max"])
def test_a_statistic_of_the_first_call_is_caught(made: str) -> None:
    """No other order of the same numbers has another."""

    def vjp(kept: Kept) -> Callable[[Any, Any], Any]:
        return lambda xs, u: u * kept.setdefault("s", getattr(xs[0], made)())

    def forward(x: Any) -> Any:
        return x * getattr(x, made)()

    def whole(kept: Kept) -> Callable[[Any, Any], Any]:
        def back(xs: Any, u: Any) -> Any:
            (x,) = xs
            of = {
                "sum": lambda: np.ones_like(x),
                "std": lambda: (x - x.mean()) / x.size / x.std(),
                "max": lambda: 1.0 * (x == x.max()),
            }
            return vjp(kept)(xs, u) + np.sum(u * x) * of[made]()

        return back

    x = array(5) + 1.0

    assert gradcheck.check(Rule(forward, whole(Forgetful())), x).passed
    assert (
        "keeps what it made of its first"
        in failures(gradcheck.check(Rule(forward, whole({})), x))[0]
    )


def test_what_a_target_keeps_is_caught_where_it_refuses_most_points() -> None:
    def posed(kept: Kept) -> CheckResult:
        def forward(p: Any) -> Any:
            if abs(p.sum() - 1) > 1e-4:
                raise ValueError("probabilities must sum to one")
            return -np.sum(p * np.log(p))

        def vjp(inputs: Any, u: Any) -> Any:
            return -u * (kept.setdefault("log", np.log(inputs[0])) + 1)

        return gradcheck.check(Rule(forward, vjp), np.array([0.1, 0.2, 0.3, 0.4]))

    assert posed(Forgetful()).passed
    assert not posed({}).passed


class OfItsTranspose(torch.autograd.Function):
    """x w, through a transpose of w that is handed in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, transposed: Tensor) -> Tensor:
        ctx.save_for_backward(x, transposed)
        return x @ w

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        x, transposed = ctx.saved_tensors
        return u @ transposed, x.mT @ u, None


class Caching(nn.Module):
    """It keeps transposes of its weight by a key, and so of what the weight was, or looks whether
    the weight is the same."""

    def __init__(self, key: Callable[[Tensor], Any] | None) -> None:
        super().__init__()
        self.w = nn.Parameter(tensor(4, 2))
        self.key, self.kept = key, {}  # type: ignore[var-annotated]
        self.last: tuple[Tensor | None, int] = None, -1

    def forward(self, x: Tensor) -> Any:
        if self.key is None:
            if self.last[0] is not self.w or self.last[1] != self.w._version:
                self.kept[0], self.last = self.w.detach().mT.clone(), (self.w, self.w._version)
            transposed = self.kept[0]
        else:
            transposed = self.kept.setdefault(self.key(self.w), self.w.detach().mT.clone())
        return OfItsTranspose.apply(x, self.w, transposed)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("key", [id, Tensor.data_ptr, None])
def test_what_is_kept_by_the_name_of_an_array_is_caught(key: Any, seed: int) -> None:
    """As after a step of an optimiser, which writes into the same parameter."""
    result = gradcheck.check(Caching(key), tensor(3, 4), checks=("vjp", "state"), seed=seed)

    assert result.passed == (key is None), result


@pytest.mark.parametrize("by_id", [True, False])
def test_what_a_rule_keeps_for_an_array_is_caught(by_id: bool) -> None:
    kept: dict[int, Any] = {}
    alive: list[Any] = []

    def vjp(inputs: Any, u: Any) -> Any:
        x, w = inputs
        alive.append(w)  # so that no other array is known by its number
        transposed = kept.setdefault(id(w), w.T.copy()) if by_id else w.T
        return u @ transposed, x.T @ u

    result = gradcheck.check(Rule(lambda x, w: x @ w, vjp), array(3, 4), array(4, 2))

    assert result.passed == (not by_id)
    if by_id:
        assert "kept for an array" in failures(result)[0]


def test_a_value_that_is_kept_for_its_input_is_told_from_a_lost_graph() -> None:
    """After a step in place the output is the one from before, whose graph is gone."""
    kept = ExpTransform(cache_size=1)

    x = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    result = gradcheck.check(lambda x: kept(x), x)

    assert result.verdict is Verdict.FAIL
    assert "something is kept for an array" in str(result).replace("\n      ", " ")
