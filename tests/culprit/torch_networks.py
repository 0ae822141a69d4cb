"""The table: PyTorch networks of six layers and more, of which exactly one is wrong.

Each is built right or wrong from the layers of `torch_layers`; the column beside it says who is to
be named.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.culprit.torch_layers import (
    Applied,
    Attention,
    Block,
    Coupling,
    Frozen,
    GroupNorm,
    GRUCell,
    LSTMCell,
    Residual,
    RootMean,
    Router,
    Weighted,
    clipped,
    cross_entropy,
    dense,
    dense_layer,
    doubled,
    filtered,
    gelu,
    halves,
    lookup,
    normal,
    scaled,
    signs,
    softmax,
    swish,
    wave,
)

Network = tuple[Any, tuple[Any, ...]]  # with its inputs
D = 3


def batch(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape or (3, D)),)


def linears(count: int, d: int = D) -> list[nn.Module]:
    return [layer for _ in range(count) for layer in (nn.Linear(d, d), nn.Tanh())]


def first_activation(wrong: bool) -> Network:
    return nn.Sequential(Applied(swish(wrong)), *linears(3)), batch()


def middle_norm_is_cut(wrong: bool) -> Network:
    return nn.Sequential(*linears(2), RootMean(wrong), *linears(2)), batch()


def last_activation_is_a_thousandth_off(wrong: bool) -> Network:
    return nn.Sequential(*linears(3), Applied(wave(1.001 if wrong else 1.0))), batch()


def first_weights_do_not_learn(wrong: bool) -> Network:
    return nn.Sequential(Frozen(wrong), nn.Tanh(), *linears(2), nn.Linear(D, 2)), batch()


def input_gradient_of_a_layer(wrong: bool) -> Network:
    bad = dense_layer("input" if wrong else "")
    return nn.Sequential(*linears(2), bad, nn.SiLU(), *linears(1)), batch()


def weight_gradient_of_a_layer(wrong: bool) -> Network:
    bad = dense_layer("weight" if wrong else "")
    return nn.Sequential(*linears(2), nn.LayerNorm(D), bad, nn.GELU(), *linears(1)), batch()


def bias_gradient_of_the_last_layer(wrong: bool) -> Network:
    return nn.Sequential(*linears(3), dense_layer("bias" if wrong else "")), batch()


def convolutional(wrong: bool) -> Network:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        Applied(signs(wrong)),
        nn.AvgPool2d(2),
        Residual(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    return model, batch(2, 1, 4, 4)


def norm_in_a_residual_block(wrong: bool) -> Network:
    blocks = [
        Residual(nn.Conv1d(2, 2, 3, padding=1), nn.BatchNorm1d(2), nn.SiLU()),
        Residual(nn.Unflatten(2, (2, 2)), GroupNorm(wrong, 2), nn.Flatten(2)),
        Residual(nn.Conv1d(2, 2, 3, padding=1), nn.SiLU()),
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8, 2)), batch(2, 2, 4)


def random_and_counting(wrong: bool) -> Network:
    """Dropout draws, the batch norm keeps statistics."""
    layers = [nn.Linear(D, D), nn.BatchNorm1d(D), nn.Dropout(0.4), nn.Linear(D, D)]
    return nn.Sequential(*layers, Applied(swish(wrong)), nn.Dropout(0.2), nn.Linear(D, 2)), batch()


def softmax_in_attention(wrong: bool) -> Network:
    blocks = [Block(), Block(attention=Attention(rule=softmax(wrong)))]
    return nn.Sequential(*blocks, nn.Linear(D, 2)), batch(2, 3, D)


def attention_is_cut(wrong: bool) -> Network:
    return nn.Sequential(Block(attention=Attention(cut=wrong)), Block()), batch(1, 3, D)


def norm_of_a_block(wrong: bool) -> Network:
    norm = Weighted(normal(wrong), torch.linspace(0.5, 1.5, D))
    return nn.Sequential(Block(), Block(norm=norm), Block()), batch(1, 3, D)


def activation_of_the_last_block(wrong: bool) -> Network:
    return nn.Sequential(Block(), Block(), Block(act=Applied(gelu(wrong)))), batch(1, 3, D)


class Masked(nn.Module):
    """Blocks in a list, given a mask by name."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        rules = [softmax(False), softmax(wrong), softmax(False)]
        self.blocks = nn.ModuleList([Block(attention=Attention(rule=rule)) for rule in rules])

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((3, 3), -1e9, dtype=x.dtype).triu(1)
        for block in self.blocks:
            x = block(x, mask=mask)
        return x


def masked_by_name(wrong: bool) -> Network:
    return Masked(wrong), batch(1, 3, D)


class Unrolled(nn.Module):
    """Cells above one another, each used at every step."""

    def __init__(self, *cells: nn.Module, d: int = 2) -> None:
        super().__init__()
        self.embed, self.cells, self.head = nn.Linear(D, d), nn.ModuleList(cells), nn.Linear(d, 2)
        self.d = d

    def forward(self, xs: Tensor) -> Any:
        zero = xs.new_zeros(xs.shape[1], self.d)
        states: list[Any] = [(zero, zero) if isinstance(c, LSTMCell) else zero for c in self.cells]
        for x in self.embed(xs).tanh():
            for k, cell in enumerate(self.cells):
                states[k] = cell(x, states[k])
                x = states[k][0] if isinstance(cell, LSTMCell) else states[k]
        return self.head(x)


def lstm(wrong: bool) -> Network:
    rights = LSTMCell(nn.Tanh()), LSTMCell(nn.Tanh())
    return Unrolled(rights[0], LSTMCell(Applied(signs(wrong))), rights[1]), batch(4, 2, D)


def gru(wrong: bool) -> Network:
    return Unrolled(GRUCell(False), GRUCell(wrong), GRUCell(False)), batch(3, 2, D)


class Integrating(nn.Module):
    """A state that grows until the last steps reach the limit of an activation."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.act, self.inner = Applied(clipped(wrong)), nn.Sequential(*linears(3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x)
        for _ in range(5):
            h = self.act(h + 0.15 * self.inner(x) + 0.05)
        return h


def wrong_at_late_steps_only(wrong: bool) -> Network:
    return Integrating(wrong), batch()


class Siamese(nn.Module):
    """One encoder for two inputs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Bilinear(D, D, 2)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.head(self.encoder(a), self.encoder(b))


def used_twice(wrong: bool) -> Network:
    encoder = nn.Sequential(*linears(2), dense_layer("bias" if wrong else ""), nn.Tanh())
    return Siamese(encoder), batch() + batch()


class Tied(nn.Module):
    """A table that embeds, and reads out."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, D))
        self.embed = Lookup(lookup(wrong), self.table)
        self.body = nn.Sequential(Block(), nn.LayerNorm(D))

    def forward(self, rows: Tensor) -> Any:
        return self.body(self.embed(rows)) @ self.table.T


class Lookup(nn.Module):
    def __init__(self, rule: Any, table: nn.Parameter) -> None:
        super().__init__()
        self.rule, self.table = rule, table

    def forward(self, rows: Tensor) -> Any:
        return self.rule.apply(self.table, rows)


def embedding(wrong: bool) -> Network:
    return Tied(wrong), (torch.tensor([[0, 2, 2, 4]]),)


class Experts(nn.Module):
    """Parts by name; each token goes to one."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(D, D)
        self.experts = nn.ModuleDict(
            {
                "smooth": nn.Sequential(*linears(2)),
                "normal": nn.Sequential(nn.Linear(D, D), RootMean(wrong), nn.SiLU()),
            }
        )
        self.head = nn.Linear(D, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.embed(x)
        return {name: self.head(expert(x)) for name, expert in self.experts.items()}


def by_name(wrong: bool) -> Network:
    return Experts(wrong), batch()


class Encoder(nn.Module):
    """Mean and deviation; wrong: the second is cut off."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.body, self.mean, self.spread = (
            nn.Sequential(*linears(1)),
            *linears(1)[:1],
            RootMean(False),
        )
        self.wrong = wrong

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        spread = self.spread(h)
        return self.mean(h), (spread.detach() if self.wrong else spread).exp()


class Autoencoder(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(wrong), nn.Sequential(*linears(2))

    def forward(self, x: Tensor) -> Any:
        mean, spread = self.encoder(x)
        loss: Tensor = (self.decoder(mean + spread * torch.randn_like(mean)) - x).square().sum()
        return loss + spread.sum()


def returns_a_tuple(wrong: bool) -> Network:
    return Autoencoder(wrong), batch()


class Pyramid(nn.Module):
    """Wrong: the fine features, of two in a dict, come from data."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.fine, self.coarse, self.wrong = nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3), wrong

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        x = features["x"]
        fine = self.fine(torch.tensor(x.tolist(), dtype=x.dtype) if self.wrong else x).tanh()
        return {"fine": fine, "coarse": self.coarse(F.avg_pool1d(x, 2))}


class Detector(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.BatchNorm1d(2), nn.SiLU())
        self.pyramid, self.heads = Pyramid(wrong), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 1)])

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        found = self.pyramid({"x": self.stem(x)})
        return [head(y.mean(-1)) for head, y in zip(self.heads, found.values(), strict=True)]


def returns_a_dict(wrong: bool) -> Network:
    return Detector(wrong), batch(2, 1, 8)


def squashed(x: Tensor, rule: Any, other: Any) -> Any:
    """A plain function in between, which applies two rules."""
    return 2 * rule.apply(other.apply(x))


class Functional(nn.Module):
    def __init__(self, rule: Any, other: Any) -> None:
        super().__init__()
        self.linear, self.rules = nn.Linear(D, D), (rule, other)

    def forward(self, x: Tensor) -> Any:
        return squashed(self.linear(x), *self.rules)


def in_a_plain_function(wrong: bool) -> Network:
    bad = Functional(swish(wrong), wave(1.0))
    return nn.Sequential(*linears(2), bad, nn.Linear(D, D)), batch()


def two_rules_of_one_name(wrong: bool) -> Network:
    bad = Functional(wave(1.5 if wrong else 1.0), wave(1.0))
    return nn.Sequential(*linears(2), bad, nn.Linear(D, D)), batch()


def one_rule_in_many_layers(wrong: bool) -> Network:
    rule = swish(wrong)
    layers = [layer for _ in range(3) for layer in (nn.Linear(D, D), Applied(rule))]
    return nn.Sequential(*layers, nn.Linear(D, 2)), batch()


def without_modules(wrong: bool) -> Network:
    weights = [torch.randn(D, D) / 2 for _ in range(4)]
    rule, act = dense("input" if wrong else ""), wave(1.0)

    def network(x: Tensor, weights: list[Tensor]) -> Any:
        for w in weights[:2]:
            x = act.apply(x @ w)
        x = rule.apply(x, weights[2], x.new_zeros(D))
        return act.apply(x).tanh() @ weights[3]

    return network, (*batch(), weights)


def loss_at_the_end(wrong: bool) -> Network:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.rule = nn.Sequential(*linears(2), nn.Linear(D, 3)), cross_entropy(wrong)

        def forward(self, x: Tensor, labels: Tensor) -> Any:
            return self.rule.apply(self.body(x), labels)

    return Trained(), (*batch(), torch.tensor([0, 2, 1]))


def context_of_its_own(wrong: bool) -> Network:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size, self.rule = nn.Parameter(torch.ones(D)), scaled(wrong)

        def forward(self, x: Tensor) -> Any:
            return self.rule.apply(x, self.size, 0.3)

    return nn.Sequential(*linears(2), Scale(), *linears(1)), batch()


def two_outputs(wrong: bool) -> Network:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.rule = nn.Linear(D, 2 * D), halves(wrong)

        def forward(self, x: Tensor) -> Any:
            a, b = self.rule.apply(self.wide(x))
            return a * b.sigmoid()

    return nn.Sequential(*linears(2), Gated(), *linears(1)), batch()


def _softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


_OPERATORS = {}
for _wrong in (False, True):
    _name = f"softsign_{'wrong' if _wrong else 'right'}"
    _OPERATORS[_wrong] = torch.library.custom_op(
        f"gradcheck_planted::{_name}", _softsign, mutates_args=()
    )

    def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def _backward(ctx: Any, u: Tensor, power: int = 1 if _wrong else 2) -> Any:
        return u / (1 + ctx.saved_tensors[0].abs()) ** power

    _OPERATORS[_wrong].register_autograd(_backward, setup_context=_setup)


def custom_operator(wrong: bool) -> Network:
    class Softsign(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return _OPERATORS[wrong](x)

    return nn.Sequential(*linears(2), Softsign(), *linears(1)), batch()


def hook_on_a_module(wrong: bool) -> Network:
    model = nn.Sequential(*linears(2), nn.Linear(D, D), *linears(1))
    if wrong:  # left behind by an experiment
        halved: Any = lambda module, inner, outer: (0.5 * inner[0],)  # noqa: E731
        model[4].register_full_backward_hook(halved)
    return model, batch()


def hook_on_a_tensor(wrong: bool) -> Network:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Any:
            y = self.linear(x)
            if y.requires_grad and wrong:
                y.register_hook(lambda u: -u)
            return y

    return nn.Sequential(*linears(2), Reversed(), *linears(1)), batch()


def hook_that_replaces_an_output(wrong: bool) -> Network:
    model = nn.Sequential(*linears(2), nn.Linear(D, D), *linears(1))
    model[4].register_forward_hook(
        lambda module, given, y: y * (y.detach() if wrong else y).norm(dim=-1, keepdim=True)
    )
    return model, batch()


def checkpointed(wrong: bool) -> Network:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(D, D), Applied(swish(wrong)), nn.Linear(D, D))
            self.before, self.after = nn.Sequential(*linears(2)), nn.Linear(D, 2)

        def forward(self, x: Tensor) -> Any:
            y = torch.utils.checkpoint.checkpoint(self.block, self.before(x), use_reentrant=False)
            return self.after(y)

    return Saving(), batch()


def single_precision(wrong: bool) -> Network:
    layers = [*linears(2), RootMean(wrong), *linears(2)]
    return nn.Sequential(*layers).float(), (torch.randn(3, D, dtype=torch.float32),)


weight_norm: Any = parametrizations.weight_norm  # which have no types
spectral_norm: Any = parametrizations.spectral_norm


def weights_of_norm_and_direction(wrong: bool) -> Network:
    layers = [weight_norm(nn.Linear(D, D)) for _ in range(4)]
    return nn.Sequential(*layers[:2], Applied(swish(wrong)), *layers[2:], nn.Tanh()), batch()


class UNet(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()

        def conv(a: int, b: int) -> nn.Module:
            return nn.Sequential(nn.Conv1d(a, b, 3, padding=1), nn.SiLU())

        self.down = nn.ModuleList([conv(1, 2), conv(2, 2)])
        self.middle = conv(2, 2)
        self.rise = nn.ModuleList([Applied(doubled(wrong)), Applied(doubled(False))])
        self.up = nn.ModuleList([conv(4, 2), conv(4, 1)])

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            kept.append(layer(x))
            x = F.avg_pool1d(kept[-1], 2)
        x = self.middle(x)
        for rise, layer in zip(self.rise, self.up, strict=True):
            x = layer(torch.cat([rise(x), kept.pop()], 1))
        return x


def u_net(wrong: bool) -> Network:
    return UNet(wrong), batch(1, 1, 8)


class Mixture(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.router = Router(wrong)
        self.experts = nn.ModuleList([nn.Linear(D, D) for _ in range(3)])

    def forward(self, x: Tensor) -> Any:
        found, chosen = self.router(x)
        every = torch.stack([expert(x) for expert in self.experts], -2)
        taken = every.gather(-2, chosen[..., None].expand(*chosen.shape, D))
        return (found[..., None] * taken).sum(-2)


def mixture_of_experts(wrong: bool) -> Network:
    layers = [*linears(1), Residual(Mixture(False)), Residual(Mixture(wrong)), *linears(1)]
    return nn.Sequential(*layers), batch()


class Flow(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Coupling(k == 3 and wrong) for k in range(6)])

    def forward(self, x: Tensor) -> Tensor:
        logdet = x.new_zeros(len(x))
        for layer in self.layers:
            x, logdet = layer(x, logdet)
        return (x * x).sum(-1) / 2 - logdet


def normalising_flow(wrong: bool) -> Network:
    return Flow(wrong), batch(2, 4)


class Solved(nn.Module):
    """dx/dt = field(x, t) by the midpoint rule; t is a number that nothing is differentiated by."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(D + 1, D), Applied(swish(wrong)), nn.Linear(D, D))
        self.before, self.after = nn.Sequential(*linears(1)), nn.Linear(D, 2)

    def slope(self, x: Tensor, t: Tensor) -> Any:
        return self.field(torch.cat([x, t.expand(len(x), 1)], -1))

    def forward(self, x: Tensor) -> Any:
        x = self.before(x)
        for t in torch.linspace(0, 1, 4, dtype=x.dtype)[:3]:
            half = x + self.slope(x, t) / 6
            x = x + self.slope(half, t + 1 / 6) / 3
        return self.after(x)


def differential_equation(wrong: bool) -> Network:
    return Solved(wrong), batch()


class Adversaries(nn.Module):
    """Two heads on one trunk; the fake goes through a copy of the trunk that does not learn."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.generator = nn.Sequential(*linears(2))
        self.trunk = nn.Sequential(spectral_norm(nn.Linear(D, D)))
        self.trunk.append(nn.LeakyReLU(0.2))
        self.critic, self.labels = Frozen(wrong, D, 1), nn.Linear(D, 2)
        self.slow = nn.Linear(D, D).requires_grad_(False)

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        fake = self.trunk(self.generator(z))
        with torch.no_grad():
            target = self.slow(x)
        return self.critic(fake), self.labels(self.trunk(x)), fake - target


def adversaries_on_one_trunk(wrong: bool) -> Network:
    z, x = torch.randn(3, D, requires_grad=True), torch.randn(3, D)
    return Adversaries(wrong).eval(), (z, x)


class Spectral(nn.Module):
    def __init__(self, wrong: bool, n: int = 6) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(n // 2 + 1, dtype=torch.complex128))
        self.rule, self.mix = filtered(wrong), nn.Linear(n, n)

    def forward(self, x: Tensor) -> Any:
        y = torch.fft.irfft(self.rule.apply(torch.fft.rfft(x), self.filter), x.shape[-1])
        return (y + self.mix(x)).tanh()


def fourier_operator(wrong: bool) -> Network:
    layers = [Spectral(False), Spectral(wrong), Spectral(False)]
    return nn.Sequential(nn.Linear(2, 6), *layers, nn.Linear(6, 1)), batch(1, 2)


Build = Callable[[bool], Network]
NETWORKS: dict[Build, str] = {
    first_activation: "0.Swish",
    middle_norm_is_cut: "4",
    last_activation_is_a_thousandth_off: "6.Wave",
    first_weights_do_not_learn: "0",
    input_gradient_of_a_layer: "4.Dense",
    weight_gradient_of_a_layer: "5.Dense",
    bias_gradient_of_the_last_layer: "6.Dense",
    convolutional: "2.ChannelTanh",
    norm_in_a_residual_block: "1.layers.1",
    random_and_counting: "4.Swish",
    softmax_in_attention: "1.attention.Softmax",
    attention_is_cut: "0.attention",
    norm_of_a_block: "1.norm2.Normal",
    activation_of_the_last_block: "2.mlp.1.Gelu",
    masked_by_name: "blocks.1.attention.Softmax",
    lstm: "cells.1.act.ChannelTanh",
    gru: "cells.1",
    wrong_at_late_steps_only: "act.Clipped",
    used_twice: "encoder.4.Dense",
    embedding: "embed.Lookup",
    by_name: "experts.normal.1",
    returns_a_tuple: "encoder",
    returns_a_dict: "pyramid",
    in_a_plain_function: "4.Swish",
    two_rules_of_one_name: "4.Wave#2",
    one_rule_in_many_layers: "1.Swish",
    without_modules: "Dense",
    loss_at_the_end: "CrossEntropy",
    context_of_its_own: "4.Scaled",
    two_outputs: "4.Halves",
    custom_operator: "4.gradcheck_planted_softsign_wrong",
    hook_on_a_module: "4",
    hook_on_a_tensor: "4",
    hook_that_replaces_an_output: "4",
    checkpointed: "block.1.Swish",
    single_precision: "4",
    weights_of_norm_and_direction: "2.Swish",
    u_net: "rise.0.Doubled",
    mixture_of_experts: "3.layers.0.router",
    normalising_flow: "layers.3",
    differential_equation: "field.1.Swish",
    adversaries_on_one_trunk: "critic",
    fourier_operator: "2.Filtered",
}
