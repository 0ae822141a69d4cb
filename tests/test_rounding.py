"""A narrow gradient is that of float64, rounded: rounding passes, anything more fails."""

from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck.results import Finding, Verdict
from gradcheck.rounding import restless

DTYPES = [torch.float32, torch.bfloat16]


def _finding(dtype: torch.dtype, error: float, part: Any = slice(None), size: int = 64) -> Finding:
    """Of a sine whose gradient has a relative error in its own dtype, and none in float64."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            g = u * x.cos()
            if u.dtype is dtype:
                g[part] = g[part] * (1 + error)
            return g

    x = torch.from_numpy(np.random.default_rng(0).standard_normal(size)).to(dtype)
    return gradcheck.check(Sine, x, checks="vjp").findings[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_that_is_rounded_passes(dtype: torch.dtype) -> None:
    assert _finding(dtype, 0.0).verdict == "pass"


@pytest.mark.parametrize("error", [1e-2, -1e-2, 1.0, -2.0])
@pytest.mark.parametrize("size", [1, 64, 1024])
def test_a_factor_in_all_of_a_float32_gradient_fails(size: int, error: float) -> None:
    finding = _finding(torch.float32, error, size=size)

    assert finding.verdict == "fail"
    assert finding.oracle == "the target in float64"
    assert finding.power == ()


def test_one_wrong_entry_fails_and_is_named() -> None:
    finding = _finding(torch.float32, 1.0, part=slice(5, 6))

    assert finding.verdict == "fail"
    (entry,) = finding.entries
    assert entry.index == (5,)
    assert entry.got == pytest.approx(2 * entry.wanted, rel=1e-3)
    assert "1 of 64 entries differ" in finding.message


@pytest.mark.parametrize("error", [1.0, -1.0, -2.0])
def test_a_bfloat16_gradient_doubled_lost_or_flipped_fails(error: float) -> None:
    assert _finding(torch.bfloat16, error).verdict == "fail"


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)])
def test_an_error_below_what_the_dtype_may_lose_passes(dtype: torch.dtype, error: float) -> None:
    assert _finding(dtype, error).verdict == "pass"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_entry_that_is_not_finite_in_the_narrow_dtype_fails(
    dtype: torch.dtype, wrong: float
) -> None:
    finding = _finding(dtype, wrong, part=slice(3, 4))

    assert finding.verdict == "fail"
    assert finding.diagnosis == "not finite"
    assert [entry.index for entry in finding.entries] == [(3,)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "layer",
    [
        lambda: torch.nn.Linear(24, 8),
        lambda: torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.Tanh()),
        lambda: torch.nn.Sequential(torch.nn.LayerNorm(24), torch.nn.Softmax(-1)),
        lambda: torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.GELU()),
    ],
    ids=["linear", "tanh", "norm and softmax", "gelu"],
)
def test_a_narrow_layer_of_pytorch_passes(layer: Any, seed: int, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module, x = layer().to(dtype), torch.randn(5, 24).to(dtype)

    result = gradcheck.check(module, x, checks="vjp")

    assert result.passed, str(result)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_saturated_tanh_passes(dtype: torch.dtype) -> None:
    result = gradcheck.check(torch.tanh, torch.linspace(2, 6, 20).to(dtype), checks="vjp")

    assert result.verdict != "fail", str(result)


def test_every_entry_is_as_restless_as_a_typical_one() -> None:
    bar = restless(np.array([0.0, 1e-3, 1e-3]), np.ones(3), 1e-6)

    assert bar == pytest.approx([1e-3 + 4e-6, 2e-3 + 4e-6, 2e-3 + 4e-6])


def test_unrest_that_is_not_finite_is_no_excuse() -> None:
    bar = restless(np.array([np.nan, np.inf, 1e-3]), np.ones(3), 1e-6)

    assert np.all(bar <= 2e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [64, 1024])
def test_a_bfloat16_gradient_with_a_factor_of_one_and_a_half_fails(size: int, sign: int) -> None:
    assert _finding(torch.bfloat16, 0.5 * sign, size=size).verdict == "fail"


@pytest.mark.parametrize("size", [64, 1024])
def test_one_bfloat16_entry_eleven_times_too_large_fails_and_is_named(size: int) -> None:
    finding = _finding(torch.bfloat16, 10.0, part=slice(5, 6), size=size)

    assert finding.verdict == "fail"
    assert [entry.index for entry in finding.entries] == [(5,)]


def _halting(factor: float) -> Any:
    """tanh, whose derivative is `factor` times too large unless it is computed in float64."""

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            y = x.tanh()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (y,) = ctx.saved_tensors
            return u * (1 - y * y) * (1.0 if y.dtype is torch.float64 else factor)  # type: ignore[no-any-return]

    return Tanh


@pytest.mark.parametrize("size", [5, 50, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_narrow_pass_says_it_would_have_seen_it_sees(
    seed: int, dtype: torch.dtype, size: int
) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)

    right = gradcheck.check(_halting(1.0), x, checks="vjp", seed=seed)
    (least,) = (p.smallest for p in right.findings[0].power if p.fault == "leaf")
    wrong = gradcheck.check(_halting(1 + 1.2 * least), x, checks="vjp", seed=seed)

    assert right.passed
    assert least < (0.5 if size == 5 and dtype is torch.bfloat16 else 0.06)
    assert wrong.verdict is Verdict.FAIL


def _markov(transition: torch.Tensor, emission: torch.Tensor) -> torch.Tensor:
    """The log-likelihood of a hidden Markov model: hundreds of terms add up to thousands."""
    alpha = emission[:, 0]
    for t in range(1, emission.shape[1]):
        alpha = torch.logsumexp(alpha[:, None] + transition.log_softmax(1), 0) + emission[:, t]
    return torch.logsumexp(alpha, 0)


def _drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Right in float64, and far from it where an ulp of the point is nothing to what is rounded inside.
ROUNDED: dict[str, tuple[Any, Any]] = {
    "thousands": (_markov, lambda seed: (_drawn(seed, 4, 4), _drawn(seed, 4, 400) * 3 - 8)),
    "what is left of one": (
        lambda x: torch.xlogy(x.sigmoid(), x.sigmoid()),
        lambda seed: (30 * _drawn(seed, 10),),
    ),
    "nothing but rounding": (
        lambda mu, v: 0.5 * (mu**2 + v.exp() - 1 - v).sum(-1),
        lambda seed: (1e-4 * _drawn(seed, 4, 3), 1e-4 * _drawn(seed + 1, 4, 3)),
    ),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("target", "inputs"), ROUNDED.values(), ids=ROUNDED.keys())
def test_what_rounds_inside_passes(target: Any, inputs: Any, seed: int) -> None:
    result = gradcheck.check(target, *inputs(seed), checks="vjp", seed=seed)

    assert result.passed, str(result)


@pytest.mark.parametrize("kind", ["factor", "term", "entry", "constant"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_rule_that_is_wrong_in_float32_is_wrong_at_other_points_too(
    kind: str, scale: float, seed: int
) -> None:
    """However steep it is: what varies from point to point is taken for rounding."""
    wrong: dict[str, Any] = {
        "factor": lambda x, g: 1.003 * g,
        "term": lambda x, g: g + 3e-3 * x,
        "entry": lambda x, g: torch.where(g.abs() == g.abs().max(), 1.01 * g, g),
        "constant": lambda x, g: g + 0.01,
    }

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return (scale * x).exp() / scale

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            g = u * (scale * x).exp()
            return g if x.dtype is torch.float64 else wrong[kind](x, g)

    assert gradcheck.check(Steep, _drawn(seed, 12), seed=seed).verdict is Verdict.FAIL


class Normalized(torch.autograd.Function):
    """x / √(mean x² + ε) by rows, with the ε of the dtype."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        size = (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
        ctx.save_for_backward(x, size)
        return x / size

    @classmethod
    def backward(cls, ctx: Any, u: torch.Tensor) -> Any:
        x, size = ctx.saved_tensors
        g = (u - x * (u * x).mean(-1, keepdim=True) / size**2) / size
        return g if x.dtype is torch.float64 else cls.factor * g


class Wrong(Normalized):
    factor = 1.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("target", "verdict"), [(torch.nn.RMSNorm(4), "pass"), (Normalized, "pass"), (Wrong, "fail")]
)
def test_what_goes_by_the_dtype_is_judged_in_its_own(target: Any, verdict: str, seed: int) -> None:
    x = _drawn(seed, 3, 4)
    x[0] = torch.tensor([0.0, 0.0, 0.03, 0.0])  # a row after a ReLU

    result = gradcheck.check(target, x, checks="vjp", seed=seed)

    assert result.verdict == verdict, str(result)


BASE = torch.arange(8)[:, None] + torch.arange(-1, 2)[None]


def _sampled(x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Linear interpolation at integers and an offset: rounding may lead into another cell."""
    place = BASE.to(x.dtype) + offset
    below = place.floor()
    part, cell = place - below, below.long()

    def at(k: torch.Tensor) -> torch.Tensor:
        there = x[:, None, :].expand(-1, 8, -1).gather(2, k.clamp(0, 7))
        return torch.where((k >= 0) & (k < 8), there, torch.zeros((), dtype=x.dtype))

    return (1 - part) * at(cell) + part * at(cell + 1)


def _half(seed: int, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return [x.to(dtype) for x in drawn]


# Seeds at which some entries of the gradient differ from those of float64.
@pytest.mark.parametrize(
    ("target", "seed", "dtype", "shapes"),
    [
        *[(_sampled, seed, torch.bfloat16, ((2, 8), (2, 8, 3))) for seed in (0, 8, 10, 16, 23)],
        *[(_sampled, seed, torch.float16, ((2, 8), (2, 8, 3))) for seed in (1, 37)],
        (lambda a, b: torch.maximum(a * 1.7, b + a), 10, torch.float16, ((8, 32), (8, 32))),
        (lambda a, b: (a + b).topk(3, -1)[0], 12, torch.bfloat16, ((8, 32), (8, 32))),
        (lambda a, b: (a + b).topk(3, -1)[0], 17, torch.float16, ((8, 32), (8, 32))),
        (
            lambda a, b: torch.nn.functional.hardswish(3 * a + 3 * b),
            12,
            torch.bfloat16,
            ((8, 32), (8, 32)),
        ),
    ],
)
def test_a_branch_that_rounding_decides_is_no_failure(
    target: Any, seed: int, dtype: torch.dtype, shapes: Any
) -> None:
    result = gradcheck.check(target, *_half(seed, dtype, *shapes), seed=seed)

    assert result.verdict is not Verdict.FAIL, result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("entry", [(0, 0), (5, 17)])
def test_a_branch_excuses_no_entry_that_is_wrong(entry: tuple[int, int], seed: int) -> None:
    class Maximum(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(a, b)
            return torch.maximum(a, b) ** 2

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            a, b = ctx.saved_tensors
            g = 2 * u * torch.maximum(a, b)
            if u.dtype is torch.float16:
                g[entry] *= -1
            return g * (a >= b), g * (a < b)

    a, b = _half(seed, torch.float16, (8, 32), (8, 32))
    larger = int(a[entry] < b[entry])
    result = gradcheck.check(Maximum, a, b, checks="vjp", seed=seed)

    (failed,) = [finding for finding in result.findings if finding.verdict is Verdict.FAIL]
    assert failed.leaf == f"input[{larger}]"
    assert [found.index for found in failed.entries] == [entry]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("x", [[0.0, 17.0, -40.0], [400.0, 0.0, -120.0], [0.0, -400.0]])
def test_a_float32_softmax_that_is_sure_of_itself_passes(x: list[float], seed: int) -> None:
    """1 - p rounds away in it; in float64 it is a normal number, or one whose square is none."""
    point = torch.tensor([x], dtype=torch.float32)

    assert gradcheck.check(lambda x: torch.softmax(x, -1), point, seed=seed).passed


def test_a_float32_softmax_that_is_off_where_it_is_not_sure_fails() -> None:
    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            p = torch.softmax(x, -1)
            ctx.save_for_backward(p)
            return p

        @staticmethod
        def backward(ctx: Any, u: Any) -> Any:
            (p,) = ctx.saved_tensors
            g = p * (u - (u * p).sum(-1, keepdim=True))
            return g * 1.01 if g.dtype == torch.float32 else g

    point = torch.tensor([[0.0, 3.0, -2.0]], dtype=torch.float32)

    assert gradcheck.check(Softmax, point).verdict == "fail"


def _forgetful(samples: int) -> Any:
    """x w, whose gradient of w lacks the last samples in half precision, and there alone."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x, w = ctx.saved_tensors
            kept = len(x) - samples * (u.dtype in (torch.bfloat16, torch.float16))
            return u @ w.T, x[:kept].T @ u[:kept]

    return Product


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_sample_that_a_half_precision_forgets_is_found(dtype: torch.dtype, seed: int) -> None:
    """No entry of 4,096 stands out of its rounding, and all together they do."""
    drawn = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(64, 64, generator=drawn).to(dtype) for _ in range(2))

    verdicts = [
        gradcheck.check(_forgetful(samples), x, w, checks="vjp", seed=seed).verdict.value
        for samples in (0, 1)
    ]

    assert verdicts == ["pass", "fail"]


@pytest.mark.parametrize("seed", range(6))
def test_what_saturates_by_a_rounding_of_float32_is_no_failure(seed: int) -> None:
    """Colours that are converted back from where they were converted to: some are at the end."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(20, 3, generator=generator)
    chosen = torch.rand(20, 3, generator=generator)
    colours = torch.where(chosen < 0.3, (drawn > 0.5).float(), drawn)
    mixed = torch.randn(3, 3, generator=generator) + 2 * torch.eye(3)

    def back(x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x @ torch.linalg.inv(mixed).to(x.dtype), 0, 1) ** 2

    result = gradcheck.check(back, colours @ mixed, checks="vjp", seed=seed)

    assert result.verdict is not Verdict.FAIL, result
