"""Whatever a target draws it draws alike at every evaluation, and nobody else's numbers change."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.adapters.randomness import EVERYBODYS, same_randomness

ALL = [torch.default_generator, *EVERYBODYS]


def _of_torch() -> float:
    return float(torch.rand(()))


def _of_numpy() -> float:
    return float(np.random.rand())  # noqa: NPY002


def _of_python() -> float:
    return random.random()


SOURCES = [_of_torch, _of_numpy, _of_python]


@pytest.mark.parametrize("draw", SOURCES)
def test_the_same_seed_draws_the_same(draw: Any) -> None:
    drawn = []
    for _ in range(2):
        with same_randomness(3, ALL):
            drawn.append((draw(), draw()))

    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


@pytest.mark.parametrize("draw", SOURCES)
def test_another_seed_draws_otherwise(draw: Any) -> None:
    with same_randomness(3, ALL):
        one = draw()
    with same_randomness(4, ALL):
        other = draw()

    assert one != other


@pytest.mark.parametrize("seed", [0, 2**32 + 5])
@pytest.mark.parametrize("draw", SOURCES)
def test_the_callers_numbers_go_on_as_if_nothing_had_been(draw: Any, seed: int) -> None:
    with same_randomness(11, ALL):
        undisturbed = [draw(), draw()]
    with same_randomness(11, ALL):
        first = draw()
        with same_randomness(seed, ALL):
            draw()
        second = draw()

    assert [first, second] == undisturbed


@pytest.mark.parametrize("draw", SOURCES)
def test_the_callers_numbers_come_back_after_an_exception(draw: Any) -> None:
    with same_randomness(11, ALL):
        expected = draw()

    with same_randomness(11, ALL):
        with pytest.raises(ZeroDivisionError), same_randomness(5, ALL):
            _ = draw() / 0
        assert draw() == expected


@pytest.mark.parametrize("draw", SOURCES)
def test_what_was_drawn_is_told(draw: Any) -> None:
    with same_randomness(3, ALL) as drawn:
        assert not drawn()
        draw()
        assert drawn()


def test_to_ask_what_was_drawn_draws_nothing() -> None:
    with same_randomness(3, ALL) as drawn:
        first = _of_torch()
        drawn()
        second = _of_torch()
    with same_randomness(3, ALL):
        assert [first, second] == [_of_torch(), _of_torch()]


def test_one_gaussian_that_numpy_keeps_back_is_told_and_restored() -> None:
    """NumPy draws normal numbers in pairs: the second one is part of its state."""
    with same_randomness(11, ALL):
        np.random.randn()  # noqa: NPY002
        before: Any = np.random.get_state()  # noqa: NPY002
        with same_randomness(3, ALL) as drawn:
            np.random.randn()  # noqa: NPY002
            assert drawn()
        after: Any = np.random.get_state()  # noqa: NPY002

    assert before[2:] == after[2:]
    assert np.array_equal(before[1], after[1])


@pytest.mark.parametrize("draw", SOURCES)
def test_a_target_that_draws_is_checked_with_the_same_draws(draw: Any) -> None:
    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)

    with same_randomness(11, ALL):
        result = gradcheck.check(lambda x: x.sin() * draw(), x, checks="vjp")
        after = draw()
    with same_randomness(11, ALL):
        expected = draw()

    assert result.passed, str(result)
    assert after == expected


def _product(factor: float, wrong: float) -> Any:
    """A product with a number that is drawn, whose gradient has a factor of its own."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> Any:
            ctx.drawn = factor + torch.rand((), dtype=x.dtype)
            return x * ctx.drawn

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            return u * ctx.drawn * wrong

    return Product


@pytest.mark.parametrize(("wrong", "verdict"), [(1.0, "pass"), (1.01, "fail"), (-1.0, "fail")])
def test_a_drawn_target_with_a_wrong_gradient_fails(wrong: float, verdict: str) -> None:
    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)

    assert gradcheck.check(_product(0.5, wrong), x, checks="vjp").verdict == verdict


class Autoencoder(torch.nn.Module):
    """A variational one; half of it draws with the digits that its tensors have."""

    def __init__(self, draw: str, factor: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(6, 8), torch.nn.Linear(4, 6)
        self.draw, self.factor = draw, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, spread = self.encoder(x).chunk(2, -1)
        noise = {
            "like": lambda: torch.randn_like(mean),
            "filled": lambda: torch.empty_like(mean).exponential_().neg(),
            "of a dtype": lambda: torch.rand(mean.shape, dtype=mean.dtype),
            "by chance": lambda: torch.bernoulli(torch.sigmoid(mean.detach())),
        }[self.draw]()
        z = mean + noise * spread.exp()
        off = self.decoder(torch.tanh(z)) - x
        return Multiplied.apply(off**2, self.factor).mean()  # type: ignore[no-untyped-call, no-any-return]


class Multiplied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return ctx.factor * u, None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("draw", ["like", "filled", "of a dtype", "by chance"])
def test_a_narrow_target_draws_the_same_numbers_in_float64(draw: str, dtype: torch.dtype) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        x = torch.randn(5, 6, dtype=dtype)
        right, wrong = (
            gradcheck.check(Autoencoder(draw, k).to(dtype), x, seed=seed, checks="vjp")
            for k in (1.0, 1.5)
        )

        assert right.passed
        assert right.evaluations.forward < 200  # a thousand where the two were other functions
        assert wrong.verdict == "fail"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_what_a_drawn_number_is_compared_with_is_rounded_as_it_is(dtype: torch.dtype) -> None:
    def dropout(x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand_like(x) > 0.3).to(x.dtype) / 0.7

    x = torch.randn(32, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert gradcheck.check(dropout, x, checks="vjp").verdict == "pass"

    def wrong(x: torch.Tensor) -> Any:
        return Multiplied.apply(dropout(x), 1.5)  # type: ignore[no-untyped-call]

    assert gradcheck.check(wrong, x, checks="vjp").verdict == "fail"


@pytest.mark.parametrize("seed", range(3))
def test_a_rule_that_draws_by_a_seed_of_its_own_is_wrong_at_every_seed(seed: int) -> None:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * (1 + torch.randn(x.shape, dtype=x.dtype))

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            own = torch.Generator().manual_seed(seed)
            return u * (1 + torch.randn(u.shape, dtype=u.dtype, generator=own))

    x = torch.ones(4, 5, dtype=torch.float64)

    assert gradcheck.check(Noisy, x, checks="vjp", seed=seed).verdict == "fail"


class OfItsOwn:
    """Dropout of arrays with a generator of its own, or with that of a function around it."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def forward(self, x: Any) -> Any:
        mask = self.generator.random(x.shape) < 0.5
        return x * mask, mask

    def vjp(self, mask: Any, u: Any) -> Any:
        return u * mask

    def rule(self) -> Rule:
        return Rule(self.forward, self.vjp, cached=True)


def _enclosed(generator: Any) -> Rule:
    def forward(x: Any) -> Any:
        mask = generator.random(x.shape) < 0.5
        return x * mask, mask

    return Rule(forward, lambda mask, u: u * mask, cached=True)


RULES: dict[str, Callable[[], Rule]] = {
    "global": lambda: _enclosed(np.random),
    "of an object": lambda: OfItsOwn(np.random.default_rng(5)).rule(),
    "of a closure": lambda: _enclosed(np.random.default_rng(5)),
    "old": lambda: _enclosed(np.random.RandomState(5)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_draws_is_checked_with_the_same_draws(name: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 4))
    before = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002

    result = gradcheck.check(RULES[name](), x, seed=seed)

    assert result.passed, result
    now = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    assert np.array_equal(now, before)


def test_a_rule_that_draws_again_in_its_backward_fails() -> None:
    def again(x: Any) -> Any:
        return x * (np.random.random(x.shape) < 0.5)  # noqa: NPY002

    rule = Rule(again, lambda inputs, u: again(u))

    assert gradcheck.check(rule, np.linspace(1.0, 2.0, 12)).verdict == "fail"


def test_a_rule_of_tensors_that_draws_is_checked_with_the_same_draws() -> None:
    def forward(x: Any) -> Any:
        mask = torch.rand(x.shape) < 0.5
        return x * mask, mask

    x = torch.linspace(1.0, 2.0, 12, dtype=torch.float64)

    assert gradcheck.check(Rule(forward, lambda mask, u: u * mask, cached=True), x).passed
