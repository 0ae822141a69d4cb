"""PyTorch targets: what is a leaf, what is found wrong, and that everything stays as it was."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradcheck
from gradcheck import CheckResult, InputError, Verdict

check = partial(gradcheck.check, checks="vjp")
assert_gradients = partial(gradcheck.assert_gradients, checks="vjp")


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def leaves_of(result: CheckResult) -> list[str]:
    return [finding.leaf for finding in result.findings]


def verdicts_of(result: CheckResult) -> dict[str, str]:
    return {finding.leaf: str(finding.verdict) for finding in result.findings}


class Product(torch.autograd.Function):
    """x wᵀ; the gradient of w is `SCALE` times what it should be."""

    SCALE = 1.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, w = ctx.saved_tensors
        return u @ w, Product.SCALE * u.T @ x


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor(2, 3, seed=1))

    def forward(self, x: torch.Tensor) -> Any:
        return Product.apply(x, self.weight)  # type: ignore[no-untyped-call]


# modules


def test_trainable_parameters_and_inputs_are_leaves() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    model[0].bias.requires_grad_(False)

    result = assert_gradients(model, tensor(4, 3))

    assert leaves_of(result) == ["params.0.weight", "params.2.weight", "params.2.bias", "input[0]"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3, bias=False).double()
        self.two = nn.Linear(3, 3, bias=False).double()
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.two(torch.tanh(self.one(x)))


def test_shared_parameter_is_one_leaf() -> None:
    result = assert_gradients(Tied(), tensor(2, 3))

    assert leaves_of(result) == ["params.one.weight", "input[0]"]


def test_wrong_weight_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Product, "SCALE", 0.5)
    model, x = Linear(), tensor(4, 3)

    result = check(model, x)

    # PyTorch's own check looks at the inputs it is given, and the weight is none of them.
    assert torch.autograd.gradcheck(model, (x.clone().requires_grad_(),))
    assert verdicts_of(result) == {"params.weight": "fail", "input[0]": "pass"}
    assert result.findings[0].diagnosis == "constant factor: got / wanted = 0.5"


def test_module_without_inputs() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(tensor(3))

        def forward(self) -> torch.Tensor:
            return self.w.square().sum()

    assert leaves_of(assert_gradients(Norm())) == ["params.w"]


class Restless(nn.Module):
    """Changes whatever a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(3, 3).double()
        self.calls = 0
        self.hidden: torch.Tensor | None = None
        self.history: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.history.append(self.calls)
        noise = torch.tensor(np.random.standard_normal(3))  # noqa: NPY002
        self.hidden = self.linear(self.drop(self.norm(x))) + noise
        return self.hidden


class Before(NamedTuple):
    model: Restless
    x: torch.Tensor
    state: dict[str, torch.Tensor]
    result: CheckResult
    torch_state: torch.Tensor
    numpy_draw: float


@pytest.fixture
def checked() -> Before:
    model, x = Restless(), tensor(5, 3).requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    x.grad.fill_(7.0)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    model.calls, model.hidden, model.history = 0, None, []
    state = copy.deepcopy(model.state_dict())
    np.random.seed(5)  # noqa: NPY002
    numpy_draw = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch_state = torch.get_rng_state()
    result = check(model, x)
    return Before(model, x, state, result, torch_state, numpy_draw)


def test_restless_module_passes(checked: Before) -> None:
    assert checked.result.passed, checked.result


def test_parameters_and_buffers_stay(checked: Before) -> None:
    after = checked.model.state_dict()

    assert after.keys() == checked.state.keys()
    assert all(torch.equal(after[key], value) for key, value in checked.state.items())


def test_gradients_stay(checked: Before) -> None:
    assert checked.x.grad is not None
    assert torch.all(checked.x.grad == 7.0)
    for parameter in checked.model.parameters():
        assert parameter.grad is not None
        assert torch.all(parameter.grad == 3.0)


def test_training_mode_stays(checked: Before) -> None:
    assert all(part.training for part in checked.model.modules())


def test_random_states_stay(checked: Before) -> None:
    assert torch.equal(torch.get_rng_state(), checked.torch_state)
    assert np.random.random() == checked.numpy_draw  # noqa: NPY002


def test_attributes_stay(checked: Before) -> None:
    assert checked.model.calls == 0
    assert checked.model.hidden is None


def test_list_that_is_appended_to_stays(checked: Before) -> None:
    assert checked.model.history == []


def test_parameters_are_the_same_objects() -> None:
    model = nn.Linear(3, 2).double()
    before = dict(model.named_parameters())

    check(model, tensor(2, 3))

    assert all(tensor is before[path] for path, tensor in model.named_parameters())


def test_mode_of_autograd_stays() -> None:
    with torch.no_grad():
        result = check(nn.Linear(3, 2).double(), tensor(2, 3))

        assert result.passed
        assert not torch.is_grad_enabled()


def test_right_gradient_is_not_accused_under_inference_mode() -> None:
    x = tensor(3)
    with torch.inference_mode():
        result = check(torch.sin, x)

    assert result.verdict is not Verdict.FAIL


def test_evaluation_mode_is_kept() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9)).double().eval()

    assert check(model, tensor(1, 3)).passed  # in training, one row is an error
    assert not model.training


# functions


@dataclass
class Output:
    logits: torch.Tensor
    cache: Any = None


OUTPUTS: list[tuple[str, Callable[[torch.Tensor], Any]]] = [
    ("tensor", lambda y: y),
    ("tuple", lambda y: (y, None, 2 * y)),
    ("dict", lambda y: {"a": y, "b": [y**2, 3]}),
    ("dataclass", lambda y: Output(logits=y)),
    ("integers beside", lambda y: (y, y.argmax())),
    ("one is detached", lambda y: (y, (y > 0).double())),
]


@pytest.mark.parametrize("wrap", [row[1] for row in OUTPUTS], ids=[row[0] for row in OUTPUTS])
def test_outputs_of_any_form(wrap: Callable[[torch.Tensor], Any]) -> None:
    assert check(lambda x: wrap(torch.sin(x)), tensor(3)).passed
    wrong = check(lambda x: wrap(torch.sin(x.detach()) + 0 * x), tensor(3))
    assert wrong.verdict is Verdict.FAIL


def test_each_output_counts() -> None:
    result = check(lambda x: (torch.sin(x), torch.cos(x).detach()), tensor(3))

    assert result.verdict is Verdict.FAIL


def test_detached_output_is_caught() -> None:
    (finding,) = check(lambda x: (x**2).detach(), tensor(3)).findings

    assert finding.verdict is Verdict.FAIL
    assert finding.diagnosis == "zero"


def test_only_inputs_that_require_a_gradient_are_leaves() -> None:
    x, y = tensor(3).requires_grad_(), tensor(3, seed=1)

    result = check(lambda x, y: x * y.detach(), x, y)

    assert leaves_of(result) == ["input[0]"]
    assert result.passed


def test_nested_inputs() -> None:
    def f(batch: dict[str, Any], scale: float) -> torch.Tensor:
        return torch.as_tensor(scale * batch["x"] * batch["more"][0])

    result = check(f, {"x": tensor(3), "more": (tensor(3, seed=1), None)}, 2.0)

    assert leaves_of(result) == ["input[0]['x']", "input[0]['more'][0]"]
    assert result.passed


def test_integers_and_booleans_are_constants() -> None:
    k, mask = torch.tensor([2, 0, 2]), torch.tensor([True, False, True])

    result = check(lambda x, k, mask: x[k] * mask, tensor(3), k, mask)

    assert leaves_of(result) == ["input[0]"]
    assert result.passed


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_autograd_function(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Product, "SCALE", scale)

    result = check(Product, tensor(4, 3), tensor(2, 3, seed=1))

    assert result.name == "Product"
    assert verdicts_of(result)["input[1]"] == ("pass" if scale == 1.0 else "fail")


@pytest.mark.parametrize("f", [torch.sin_, lambda x: x.mul_(x.detach().clone()).mul_(2)])
def test_in_place_function_leaves_its_input_alone(f: Any) -> None:
    x = tensor(3)
    before = x.clone()

    result = check(f, x)

    assert result.verdict is (Verdict.PASS if f is torch.sin_ else Verdict.FAIL)
    assert torch.equal(x, before)


def test_dropout_passes() -> None:
    assert check(nn.Dropout(0.5), tensor(20)).passed


def test_dropout_that_draws_its_mask_again_fails() -> None:
    class Redrawn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * (torch.rand_like(x) > 0.5)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return u * (torch.rand_like(u) > 0.5)

    assert check(Redrawn, tensor(20)).verdict is Verdict.FAIL


# dtypes and shapes


@pytest.mark.parametrize(
    "f", [lambda z: z * z.conj(), torch.abs, torch.exp, lambda z: z.real * z.imag, torch.fft.fft]
)
def test_complex_passes(f: Any) -> None:
    assert check(f, tensor(3, dtype=torch.complex128)).passed


def squaring(pull: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """z², with `pull` of z and the cotangent u for its gradient, which is 2 z̄ u."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(z)
            return z * z

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (z,) = ctx.saved_tensors
            return pull(z, u)

    return Square


def test_conjugated_gradient_is_caught() -> None:
    result = check(squaring(lambda z, u: 2 * z * u), tensor(3, dtype=torch.complex128))

    assert result.verdict is Verdict.FAIL
    assert "looks like: conjugated" in str(result)


@pytest.mark.parametrize("phase", [1.01, 1j])
def test_a_wrong_complex_entry_is_shown_with_both_its_parts(phase: complex) -> None:
    def pull(z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.cat([2 * z.conj()[:2] * u[:2], phase * 2 * z.conj()[2:] * u[2:]])

    result = check(squaring(pull), tensor(3, dtype=torch.complex128))

    (entry,) = result.findings[0].entries
    got, wanted = entry.pair
    assert entry.index == (2,)
    assert abs(got / wanted - phase) < 1e-9
    assert f"ratio {'1.01' if phase == 1.01 else '0+1j'}" in str(result)


IDS = torch.tensor([[0, 1, 3], [2, 1, 1]])


def _embedded(form: str, dtype: torch.dtype) -> tuple[Any, tuple[Any, ...]]:
    embedding = partial(nn.functional.embedding, IDS, padding_idx=1)
    derived = {
        "function": embedding,
        "part": lambda w: embedding(w[:4]),
        "transposed": lambda w: embedding(torch.cat([w, w.flip(0)], 1).T),
        "checkpoint": lambda w: checkpoint(embedding, w, use_reentrant=False),
        "by two": lambda w: embedding(w) * nn.functional.embedding(IDS, w, padding_idx=2),
    }
    if form in derived:
        return derived[form], (torch.randn(5, 3, dtype=dtype, requires_grad=True),)
    if form == "tied":
        return TiedHead().to(dtype), (IDS,)
    return nn.Embedding(5, 3, padding_idx=1, sparse=form == "sparse", dtype=dtype), (IDS,)


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3, padding_idx=1)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> Any:
        return self.head(torch.tanh(self.words(ids)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "form",
    ["module", "function", "sparse", "tied", "part", "transposed", "checkpoint", "by two"],
)
def test_the_padding_of_an_embedding_is_left_out_and_said(form: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    target, inputs = _embedded(form, dtype)

    result = check(target, *inputs)

    assert result.passed, result
    said = [why.partition(" of")[0] for why in result.not_checked if "padding" in why]
    assert said == (["row 1", "row 2"] if form == "by two" else ["row 1"])


def test_a_wrong_gradient_beside_the_padding_is_caught() -> None:
    torch.manual_seed(0)
    embed, (ids,) = _embedded("module", torch.float64)

    result = check(nn.Sequential(embed, Steeper()), ids)

    assert result.verdict is Verdict.FAIL
    assert {entry.index[0] for entry in result.findings[0].entries} == {0, 2, 3}


def test_another_use_of_the_padding_row_is_checked() -> None:
    class Projected(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(h, w)
            return h @ w.T

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            h, w = ctx.saved_tensors
            in_w = u.flatten(0, 1).T @ h.flatten(0, 1)
            return u @ w, in_w * (torch.arange(5) != 1)[:, None]

    embedding = partial(nn.functional.embedding, IDS, padding_idx=1)
    w = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    project: Any = Projected.apply
    result = check(lambda w: project(embedding(w), w), w)

    assert result.verdict is Verdict.FAIL
    assert {entry.index[0] for entry in result.findings[0].entries} == {1}


def test_what_was_put_in_the_place_of_an_operator_is_gone() -> None:
    before = torch.embedding
    check(nn.Embedding(5, 3, padding_idx=1, dtype=torch.float64), IDS)
    assert torch.embedding is before


def test_an_embedding_whose_padding_is_not_read_has_all_its_rows_checked() -> None:
    result = check(nn.Embedding(5, 3, padding_idx=4, dtype=torch.float64), IDS)

    assert result.passed
    assert not [why for why in result.not_checked if "padding" in why]


class Steeper(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x.tanh() * 1.01 - 0.01 * x.tanh().detach()


def test_an_embedding_without_padding_has_all_its_rows_checked() -> None:
    result = check(nn.Embedding(5, 3, dtype=torch.float64), IDS)

    assert result.passed
    assert not [why for why in result.not_checked if "padding" in why]


NARROW = [
    (torch.float32, 1e-3, 1.01),
    (torch.float16, 8e-3, 1.01),
    (torch.bfloat16, 4e-2, 1.05),
]


@pytest.mark.parametrize(("dtype", "tolerance", "factor"), NARROW)
def test_narrow_dtypes(dtype: torch.dtype, tolerance: float, factor: float) -> None:
    x = tensor(5).to(dtype)

    right = check(lambda x: torch.tanh(x) * x, x)
    wrong = check(lambda x: factor * x**2 + ((1 - factor) * x**2).detach(), x)

    assert right.passed, right
    assert right.findings[0].tolerance == tolerance
    assert wrong.verdict is Verdict.FAIL


def test_module_in_float32_is_differenced_in_float64() -> None:
    result = assert_gradients(nn.Linear(3, 2), tensor(4, 3, dtype=torch.float32))

    assert {finding.oracle for finding in result.findings} == {"finite differences, float64"}
    assert result.resolution < 1e-4


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_leaf_passes_and_is_said(shape: tuple[int, ...]) -> None:
    result = check(lambda x, y: x.sum() + y, tensor(*shape), tensor(2))

    assert result.passed
    assert result.findings[0].message == "the leaf is empty"


def test_empty_batch_of_a_module_passes() -> None:
    assert check(nn.Linear(3, 2).double(), tensor(0, 3)).passed


def test_zero_dimensional_leaf() -> None:
    x = torch.tensor(1.5, dtype=torch.float64)

    assert check(torch.sin, x).passed
    (finding,) = check(lambda x: torch.sin(x.detach()), x).findings
    assert [entry.index for entry in finding.entries] == [()]


def test_strided_and_expanded_inputs() -> None:
    x = tensor(3, 4).T[::2]
    y = tensor(1, 3).expand(2, 3)

    assert check(lambda x, y: x * y, x, y).passed


def test_numpy_inputs_become_tensors() -> None:
    result = check(nn.Linear(3, 2).double(), np.ones((4, 3)))

    assert result.passed
    assert leaves_of(result)[-1] == "input[0]"


class Gated(torch.nn.Module):
    """Takes keywords; wrong in its parameter if it is."""

    def __init__(self, is_wrong: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
        self.is_wrong = is_wrong

    def forward(
        self, x: torch.Tensor, *, scale: torch.Tensor | None = None, flip: bool = False
    ) -> torch.Tensor:
        y = x * (self.weight.detach() if self.is_wrong else self.weight)
        y = y if scale is None else y * scale
        return -y if flip else y

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return (self.forward(x) ** 2).sum()


@pytest.mark.parametrize("is_wrong", [False, True])
def test_keyword_arguments_are_leaves_too(is_wrong: bool) -> None:
    x, scale = (torch.randn(2, 3, dtype=torch.float64) for _ in range(2))
    result = gradcheck.check(
        Gated(is_wrong), x, kwargs={"scale": scale, "flip": True}, checks="vjp"
    )

    assert [finding.leaf for finding in result.findings] == [
        "params.weight",
        "input[0]",
        "input.scale",
    ]
    failed = [finding.leaf for finding in result.findings if finding.verdict == "fail"]
    assert failed == ["params.weight"] * is_wrong


def test_keyword_that_the_target_does_not_take_is_an_error() -> None:
    result = gradcheck.check(Gated(False), torch.ones(3), kwargs={"sacle": 1.0})

    assert result.verdict == "error"
    assert "sacle" in str(result)


@pytest.mark.parametrize("is_wrong", [False, True])
@pytest.mark.parametrize("form", ["bound method", "partial"])
def test_parameters_behind_a_method_or_a_partial_are_leaves(form: str, is_wrong: bool) -> None:
    layer = Gated(is_wrong)
    target = layer.loss if form == "bound method" else partial(layer, flip=True)
    before = layer.weight

    result = gradcheck.check(target, torch.randn(2, 3, dtype=torch.float64))

    assert result.verdict == ("fail" if is_wrong else "pass")
    assert {finding.leaf for finding in result.findings} >= {"params.weight", "input[0]"}
    assert layer.weight is before


LAYER = Gated(False)


def test_parameters_that_a_function_finds_by_itself_are_said_to_be_unchecked() -> None:
    x, inner, weight = torch.randn(2, 3), Gated(False), torch.ones(3, requires_grad=True)
    result = gradcheck.check(lambda x: LAYER(inner(x)) * weight, x)

    assert result.passed
    assert [line.split(",")[0] for line in result.not_checked] == [
        "parameters of LAYER",
        "parameters of inner",
        "parameters of weight",
    ]


class Holding(nn.Module):
    """Scales by a trainable tensor, wherever that is kept."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)
        self.made: Any = None

    def weight(self) -> torch.Tensor:
        own: Any = self
        if hasattr(self, "weights"):
            found = own.weights[0]
        elif hasattr(self, "layers"):
            found = own.layers["first"].weight
        elif hasattr(self, "buffer"):
            found = self.buffer
        else:
            self.made = self.made or nn.Linear(3, 1)
            found = self.made.weight
        return found  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight()


TRAINABLE = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"weights": [TRAINABLE]}, "weights[0]"),
        ({"layers": {"first": nn.Linear(3, 1)}}, "layers['first'].weight"),
        ({"buffer": nn.Buffer(torch.ones(3, requires_grad=True))}, "buffer"),
    ],
    ids=["a list", "a layer in a dict", "a buffer"],
)
def test_trainable_tensors_that_are_not_registered_are_said(
    held: dict[str, Any], said: str
) -> None:
    result = gradcheck.check(Holding(**held), torch.randn(2, 3))

    assert result.not_checked == (
        f"{said}, which is trainable and no registered parameter of Holding: an optimiser does not "
        "find it either",
    )
    registered = gradcheck.check(Holding(weights=nn.ParameterList([TRAINABLE])), torch.randn(2, 3))
    assert registered.not_checked == ()


def test_trainable_tensors_that_the_first_call_makes_are_said() -> None:
    (said,) = gradcheck.check(Holding(), torch.randn(2, 3)).not_checked

    assert said == "made.weight, made by the first call: call the module once before the check"


def test_what_was_made_of_a_parameter_before_is_said() -> None:
    class Stale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.ones(3))
            self.w = 2 * self.p

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w

    assert gradcheck.check(Stale(), torch.randn(2, 3)).not_checked == (
        "what was made of a parameter before the call, and is kept",
    )


def test_trainable_tensors_in_a_list_that_a_function_finds_are_said() -> None:
    weights = [TRAINABLE]
    (said,) = gradcheck.check(lambda x: x * weights[0], torch.randn(2, 3)).not_checked

    assert said.startswith("parameters of weights[0], which the target finds by itself")


class Opaque:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def test_an_output_that_hides_tensors_is_said() -> None:
    x = torch.randn(2, 3)
    (said,) = gradcheck.check(lambda x: (Opaque(x * x), x.sum()), x).not_checked

    assert said.startswith("output[0]: a Opaque, in which no tensors are looked for")
    with pytest.raises(gradcheck.InputError, match="output is a Opaque, in which no tensors"):
        gradcheck.check(lambda x: Opaque(x * x), x)


def test_lazy_module_is_refused() -> None:
    with pytest.raises(gradcheck.InputError, match="call it once"):
        gradcheck.check(torch.nn.LazyLinear(3), torch.ones(2, 3))


class RunAgain(torch.autograd.Function):
    """A module whose backward runs it once more, as adjoint methods do; scaled by `SCALE`."""

    SCALE = 1.0

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: torch.Tensor, *parameters: torch.Tensor) -> Any:
        ctx.module = module
        ctx.save_for_backward(x, *parameters)
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        saved = ctx.saved_tensors
        with torch.enable_grad():
            asked = [t for t in saved if t.requires_grad]
            found = iter(torch.autograd.grad(ctx.module(saved[0]), asked, u))
        scale = RunAgain.SCALE
        return None, *(scale * next(found) if t.requires_grad else None for t in saved)


class Recomputed(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self.inner, x)


RECOMPUTED: dict[str, Callable[..., Any]] = {
    "checkpoint": partial(checkpoint, use_reentrant=False),
    "a Function": lambda inner, x: RunAgain.apply(inner, x, *inner.parameters()),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("run", RECOMPUTED.values(), ids=RECOMPUTED)
def test_a_backward_that_runs_the_module_again_is_right(
    run: Callable[..., Any], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    module = Recomputed(run).to(dtype)
    before = copy.deepcopy(module.state_dict())

    result = gradcheck.check(module, tensor(5, 3, dtype=dtype))

    assert result.passed, str(result)
    assert all(torch.equal(before[key], own) for key, own in module.state_dict().items())


def test_a_backward_that_runs_the_module_again_may_be_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(RunAgain, "SCALE", 1.01)

    result = check(Recomputed(RECOMPUTED["a Function"]).double(), tensor(5, 3))

    assert result.verdict is Verdict.FAIL
    assert "fail" in verdicts_of(result)["params.inner.0.weight"]


class Force(torch.nn.Module):
    """The gradient of an energy, which the module takes itself."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.net, self.factor = torch.nn.Linear(3, 1).double(), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = torch.tanh(self.net(x)).sum()
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return force + (self.factor - 1) * (force - force.detach())


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_target_that_takes_a_derivative_itself_is_run_with_a_graph(factor: float) -> None:
    result = gradcheck.check(Force(factor), torch.randn(2, 3, dtype=torch.float64))

    assert result.verdict is (Verdict.PASS if factor == 1 else Verdict.FAIL), result


def _half_as_much(module: Any, examples: Any) -> Any:
    """A backend of `torch.compile` with a defect."""
    return lambda *args: tuple(0.5 * y for y in module(*args))


class Aggregate(torch.autograd.Function):
    """Sums over neighbours, as a kernel for graphs does, which takes nothing but CSR or COO."""

    @staticmethod
    def forward(ctx: Any, adjacency: torch.Tensor, x: torch.Tensor, factor: float) -> Any:
        assert adjacency.layout in (torch.sparse_coo, torch.sparse_csr)
        ctx.save_for_backward(adjacency, x)
        ctx.factor = factor
        return torch.sparse.mm(adjacency, x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        adjacency, x = ctx.saved_tensors
        pattern = adjacency.to_sparse_coo().coalesce()
        rows, columns = pattern.indices()
        values = ctx.factor * (u[rows] * x[columns]).sum(-1)
        gradient = torch.sparse_coo_tensor(pattern.indices(), values, adjacency.shape)
        if adjacency.layout is torch.sparse_csr:
            gradient = gradient.to_sparse_csr()
        return gradient, adjacency.to_dense().T @ u, None


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("factor", [1.0, 0.99])
def test_the_leaf_of_a_sparse_input_is_what_it_specifies(layout: str, factor: float) -> None:
    torch.manual_seed(0)
    dense = torch.randn(5, 5, dtype=torch.float64) * (torch.rand(5, 5) > 0.5)
    adjacency = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def layer(a: torch.Tensor, x: torch.Tensor) -> Any:
        return Aggregate.apply(a, x, factor)  # type: ignore[no-untyped-call]

    constant = check(layer, adjacency, x.detach())
    leaf = check(layer, adjacency.requires_grad_(), x, checks="vjp")

    assert constant.passed, str(constant)
    assert {f.leaf for f in constant.findings} == {"input[1]"}
    assert leaf.passed == (factor == 1), str(leaf)
    assert {f.leaf for f in leaf.findings} == {"input[0].values()", "input[1]"}
    assert {f.leaf for f in leaf.findings if f.verdict is Verdict.FAIL} <= {"input[0].values()"}


class FastPath(torch.nn.Module):
    """Computes something else while no gradient is recorded, as a masked encoder does."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        return Scaled.apply(y, self.factor) if torch.is_grad_enabled() else y.relu()  # type: ignore[no-untyped-call]


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return y.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return ctx.factor * u, None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, Verdict.PASS), (1.01, Verdict.FAIL)])
def test_what_is_recorded_is_what_is_differentiated(
    factor: float, verdict: Verdict, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    module = FastPath(factor).to(dtype)

    result = check(module, torch.randn(5, 4, dtype=dtype))

    assert result.verdict is verdict, str(result)
    assert any("while no gradient is recorded" in note for note in result.not_checked)


def test_a_masked_encoder_in_eval_mode_passes() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 1).double().eval()
    mask = torch.tensor([[False, False, True], [False, False, False]])

    kwargs = {"src_key_padding_mask": mask}
    result = check(encoder, torch.randn(2, 3, 4, dtype=torch.float64), kwargs=kwargs)

    assert result.passed, str(result)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("backend", "passes"), [("eager", True), (_half_as_much, False)])
def test_what_is_compiled_is_compared_with_eager(backend: Any, passes: bool) -> None:
    torch._dynamo.reset()
    layer = torch.compile(nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double(), backend=backend)

    result = gradcheck.check(layer, torch.randn(4, 3, dtype=torch.float64))

    assert result.passed == passes, result
    wrong = {f.check for f in result.findings if f.verdict is Verdict.FAIL}
    assert wrong == (set() if passes else {"determinism"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_instance_of_what_is_compiled_is_compared_with_eager() -> None:
    torch._dynamo.reset()

    for width in range(2, 6):  # the compiler takes eight forms of one code, and a check asks in six
        layer = torch.compile(nn.Linear(width, width).double(), backend=_half_as_much)
        result = gradcheck.check(layer, torch.randn(4, width, dtype=torch.float64))
        assert result.verdict is Verdict.FAIL, width

    made: list[Any] = []

    def backend(module: Any, examples: Any) -> Any:
        made.append(module)
        return module

    torch.compile(nn.Linear(7, 7), backend=backend)(torch.randn(4, 7))
    assert made  # there is room left for the caller's own


class Checkpointed(nn.Module):
    """tanh of a product, in a checkpoint that reenters autograd; its gradient may be cut off."""

    def __init__(self, is_right: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(tensor(3, 3))
        self.is_right = is_right

    def forward(self, x: torch.Tensor) -> Any:
        def body(x: torch.Tensor) -> torch.Tensor:
            w = self.w if self.is_right else torch.cat([self.w[:1].detach(), self.w[1:]])
            return torch.tanh(x @ w)

        return checkpoint(body, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpoint_that_reenters_is_pulled_back_as_it_can_be() -> None:
    layer = Checkpointed()

    right = gradcheck.check(layer, tensor(2, 3), checks="all")
    wrong = gradcheck.check(Checkpointed(is_right=False), tensor(2, 3))

    assert right.passed, right
    assert {f.leaf for f in right.findings if f.check == "vjp"} == {"params.w", "input[0]"}
    assert any("second_order: a second derivative is not" in line for line in right.not_checked)
    assert layer.w.grad is None
    assert {f.leaf for f in wrong.findings if f.verdict is Verdict.FAIL} == {"params.w"}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradients_are_not_accumulated_in_what_the_target_finds_by_itself() -> None:
    layer = Checkpointed()

    result = gradcheck.check(lambda x: layer(x), tensor(2, 3))

    assert result.verdict is Verdict.ERROR
    assert layer.w.grad is None


def ragged(*, jagged: bool, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    parts = [tensor(2, 3).to(dtype), tensor(4, 3).to(dtype)]
    layout = torch.jagged if jagged else torch.strided
    return torch.nested.nested_tensor(parts, layout=layout)


class Sine(torch.autograd.Function):
    FACTOR = 1.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return Sine.FACTOR * u * ctx.saved_tensors[0].cos()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("factor", [1.0, 1.1])
@pytest.mark.parametrize("jagged", [True, False])
def test_of_a_nested_tensor_the_values_are_checked(
    jagged: bool, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sine, "FACTOR", factor)

    def layer(nested: torch.Tensor) -> Any:
        parts = [Sine.apply(part) for part in nested.unbind()]  # type: ignore[no-untyped-call]
        return torch.nested.as_nested_tensor(parts, layout=nested.layout)

    result = gradcheck.check(layer, ragged(jagged=jagged))

    assert {f.leaf for f in result.findings if f.check == "vjp"} == {"input[0].values()"}
    assert not any("contract" in line for line in result.not_checked)
    assert result.passed is (factor == 1), result


def test_a_module_of_a_nested_tensor_in_float32_passes() -> None:
    assert gradcheck.check(nn.Linear(3, 2), ragged(jagged=True, dtype=torch.float32)).passed


def test_a_tensor_without_values_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected input\[0\] to have values; got .* meta"):
        gradcheck.check(torch.sin, torch.empty(3, device="meta"))


def test_a_sparse_tensor_that_is_taken_for_a_constant_is_named() -> None:
    adjacency = torch.eye(3, dtype=torch.float64).to_sparse()

    result = gradcheck.check(torch.sparse.mm, adjacency, tensor(3, 2))

    assert any(line.startswith("input[0]: a sparse tensor") for line in result.not_checked)
    result = gradcheck.check(torch.sparse.mm, adjacency.requires_grad_(), tensor(3, 2))
    assert any(finding.leaf == "input[0].values()" for finding in result.findings)


def test_an_array_of_numpy_that_a_module_counts_in_comes_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = np.zeros(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x.sin()

    layer = Counting()
    assert gradcheck.check(layer, tensor(3)).passed
    assert not layer.calls.any()


class Masking(nn.Module):
    """Has its input require a gradient, as one does that checkpoints what it makes of it."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.factor = factor

    def forward(self, x: torch.Tensor) -> Any:
        y = x * 1
        y.requires_grad = True
        z = y * self.weight
        return z + self.factor * z - self.factor * z.detach()


def test_inputs_of_a_module_that_must_not_require_a_gradient_are_constants() -> None:
    x = tensor(3).detach()

    right, wrong = check(Masking(0.0), x), check(Masking(0.1), x)

    assert right.passed, right
    assert {finding.leaf for finding in right.findings if finding.check == "vjp"} == {
        "params.weight"
    }
    (said,) = [why for why in right.not_checked if why.startswith("input[0]: ")]
    assert "raises where it requires a gradient" in said
    assert wrong.verdict is Verdict.FAIL
    asked = check(Masking(0.0), x.clone().requires_grad_())
    assert asked.verdict is Verdict.ERROR  # it was asked for


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64], ids=str)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_an_error_in_one_part_of_one_complex_entry_is_found(size: int, dtype: torch.dtype) -> None:
    def pull(z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        gradient = 2 * z.conj() * u
        return torch.cat([gradient[:-1], gradient[-1:].real.to(z.dtype)])

    z = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(size))

    for seed in range(8):
        assert check(squaring(pull), z, seed=seed, checks="vjp").verdict is Verdict.FAIL


def test_outputs_that_depend_on_recording_are_those_that_are_differentiated() -> None:
    def layer(x: torch.Tensor) -> Any:
        y = x.sin()
        return (y, 2 * y) if y.requires_grad else (y,)

    result = gradcheck.check(layer, torch.randn(3, dtype=torch.float64))

    assert result.passed
    assert any("while no gradient is recorded" in line for line in result.not_checked)


class Settled(torch.nn.Module):
    """z = tanh(w z + x), differentiated implicitly by a hook on the gradient of its last step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def step(z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(0.4 * z + x)

        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(80):
                z = step(z)
        z = step(z.detach())
        z0 = z.detach().requires_grad_()
        f0 = step(z0)

        def solve(u: torch.Tensor) -> torch.Tensor:
            a = u
            for _ in range(80):
                a = u + torch.autograd.grad(f0, z0, a, retain_graph=True)[0]
            return a

        if z.requires_grad:
            z.register_hook(solve)  # type: ignore[no-untyped-call]
        return z


def test_forward_mode_is_not_asked_of_a_target_that_hooks_its_gradient() -> None:
    x = torch.tensor([0.5, -0.2], dtype=torch.float64)

    assert gradcheck.check(Settled(), x).passed
    assert any("hooks" in line for line in gradcheck.check(Settled(), x, checks="jvp").not_checked)


def test_what_draws_only_where_it_is_recorded_draws_the_same_numbers() -> None:
    def layer(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x**2, 0.5, training=torch.is_grad_enabled())

    assert gradcheck.check(layer, torch.randn(12, dtype=torch.float64)).passed
