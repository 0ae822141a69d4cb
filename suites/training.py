"""Do the reference, PyTorch and JAX learn alike? The same digits, the same steps, side by side.

A gradient that is a little wrong still learns, only elsewhere: the loss falls, and nobody
notices. Side by side, the paths part at the first step that uses it, and the leaf is named.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.errors import InputError, MissingFrameworkError
from gradcheck.reference.activations import Tanh
from gradcheck.reference.cells import LSTMCell
from gradcheck.reference.composition import Sequential
from gradcheck.reference.dense import Dense
from gradcheck.reference.layer import Array, Cache, Cotangents, Layer, Outputs, Params
from gradcheck.reference.learning import Momentum
from gradcheck.reference.losses import CrossEntropy
from gradcheck.reference.recurrent import Recurrent

__all__ = [
    "Backend",
    "Divergence",
    "RowReader",
    "Training",
    "Trajectory",
    "accuracy",
    "digits",
    "digits_trajectory",
    "first_divergence",
    "pixel_reader",
]

Backend = Literal["reference", "torch", "jax"]
Labelled = tuple[Array, Array]  # images (N, 64), labels (N,)

SIDE, CLASSES = 8, 10  # scikit-learn's digits: 1797 images of 8 by 8, in sixteen shades
LOSS = CrossEntropy(reduction="mean")
OPTIMIZER = Momentum(rate=0.1, momentum=0.9)  # 0.9 of the digits after one epoch; 1.0 diverges


def pixel_reader(hidden: int = 32) -> Sequential:
    """Return a network that sees all pixels of an image at once: one hidden layer of tanh."""
    first = Dense(inputs=SIDE * SIDE, outputs=hidden)
    return Sequential(layers=(first, Tanh(), Dense(inputs=hidden, outputs=CLASSES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """An LSTM that reads an image as eight steps in time, a row each; its last state decides.

    y = dense(h_8), with h_8 the hidden state after the last row, from zero.

    Shapes: x (N, 64), y (N, 10). Parameters: {"lstm": ..., "head": ...}.
    """

    hidden: int = 24  # reads 19 images in 20 after five epochs

    @property
    def lstm(self) -> Recurrent:
        return Recurrent(cell=LSTMCell(), inputs=SIDE, hidden=self.hidden)

    @property
    def head(self) -> Dense:
        return Dense(inputs=self.hidden, outputs=CLASSES)

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {
            "lstm": self.lstm.parameters(rng, dtype),
            "head": self.head.parameters(rng, dtype),
        }

    def start(self, x: Any) -> Array:
        """Return h_0, which is also c_0."""
        return np.zeros((1, len(x), self.hidden), x.dtype)

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        zero = self.start(x)
        (y, h, c), read = self.lstm.forward(params["lstm"], rows(x), zero, zero)
        logits, decided = self.head.forward(params["head"], h[0])
        return logits, (read, decided, y, c)

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        read, decided, y, c = cache
        head, (h_bar,) = self.head.backward(params["head"], decided, u)
        assert h_bar is not None  # the input of a Dense has a gradient, and so have rows
        lstm, (rows_bar, *_) = self.lstm.backward(
            params["lstm"], read, np.zeros_like(y), h_bar[None], np.zeros_like(c)
        )
        assert rows_bar is not None
        return {"lstm": lstm, "head": head}, (rows_bar.swapaxes(0, 1).reshape(-1, SIDE * SIDE),)


def rows(x: Any) -> Any:
    """Return images (N, 64) as rows in time, (8, N, 8); for arrays of any framework."""
    return x.reshape(-1, SIDE, SIDE).swapaxes(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained, and how; everything random comes from the seed."""

    network: Layer = field(default_factory=pixel_reader)
    optimizer: Momentum = OPTIMIZER
    steps: int = 20  # a wrong gradient shows at the first, a wrong optimizer soon after
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"expected {name} of at least one; got {name}={getattr(self, name)}. "
                    "Without data there is nothing to learn from"
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """A path of learning: the loss of each step, and the parameters after it."""

    backend: str
    losses: tuple[float, ...]
    path: tuple[Params, ...]

    @property
    def parameters(self) -> Params:
        """The parameters after the last step."""
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where two trajectories part."""

    pair: tuple[str, str]
    step: int  # counted from one
    leaf: str  # "loss", or "params.0.weight"
    mismatch: float  # the largest difference, relative to the largest entry of the leaf
    tolerance: float

    def __str__(self) -> str:
        return (
            f"{self.pair[0]} and {self.pair[1]} part at step {self.step}, in {self.leaf}: "
            f"{self.mismatch:.1e} apart, allowed {self.tolerance:.0e}"
        )


def digits() -> tuple[Labelled, Labelled]:
    """Return scikit-learn's digits, those to learn from and those held out.

    Images (N, 64) from 0 to 1 in float64, and labels (N,). Every fifth image is held out: the
    last fifth would be the work of other writers, and harder.

    Raises:
        MissingFrameworkError: scikit-learn is not installed.

    Sources:
        Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI repository (1998).
    """
    data = _module("sklearn.datasets", "scikit-learn").load_digits()
    images, labels = data.data / 16, data.target.astype(np.int64)
    held_out = np.arange(len(images)) % 5 == 4
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def digits_trajectory(backend: Backend, training: Training | None = None) -> Trajectory:
    """Return the path of `training` (by default, of `Training()`) on the digits, in float64.

    Every backend starts from the same parameters and sees the same mini-batches; gradient and
    optimizer are its own: the reference's, autograd with torch.optim.SGD, jax.value_and_grad.

    Raises:
        MissingFrameworkError: the backend, or scikit-learn, is not installed.
        InputError: there is no such backend.
    """
    if backend not in get_args(Backend):
        raise InputError(
            f"expected a backend among {', '.join(get_args(Backend))}; got {backend!r}"
        )
    training = training or Training()
    rng = np.random.default_rng(training.seed)
    start = training.network.parameters(rng, np.float64)
    batches = _batches(*digits()[0], training, rng)
    learn = {"reference": _by_reference, "torch": _by_torch, "jax": _by_jax}[backend]
    losses, path = zip(*learn(training, start, batches), strict=True)
    return Trajectory(backend=backend, losses=losses, path=path)


def accuracy(network: Layer, params: Params, images: Array, labels: Array) -> float:
    """Return the share of images whose largest logit is that of the label."""
    (logits,), _ = network.forward(params, images)
    return float(np.mean(logits.argmax(axis=1) == labels))


def first_divergence(a: Trajectory, b: Trajectory, *, rtol: float = 1e-10) -> Divergence | None:
    """Return the first step and leaf in which two trajectories differ, or None.

    At each step the loss is compared before the parameters that follow from it. A NaN differs
    from everything. `rtol` is far above the rounding of twenty steps in float64, 5e-16 as measured,
    and far below what a wrong gradient does: the share of the step that it gets wrong.
    """
    if len(a.losses) != len(b.losses):
        raise InputError(
            f"expected trajectories of one length; got {len(a.losses)} steps of {a.backend} and "
            f"{len(b.losses)} of {b.backend}. Train both with the same settings"
        )
    steps = zip(_leaves_by_step(a), _leaves_by_step(b), strict=True)
    for step, (ours, theirs) in enumerate(steps, start=1):
        for leaf, value in ours.items():
            mismatch = _mismatch(value, theirs[leaf])
            if not mismatch <= rtol:  # so written that NaN is a divergence
                pair = (a.backend, b.backend)
                return Divergence(
                    pair=pair, step=step, leaf=leaf, mismatch=mismatch, tolerance=rtol
                )
    return None


def _batches(
    images: Array, labels: Array, training: Training, rng: np.random.Generator
) -> Iterator[Labelled]:
    """Yield mini-batches of shuffled epochs; the last of an epoch that would be short is left."""
    per_epoch = max(len(images) // training.batch, 1)
    for step in range(training.steps):
        if step % per_epoch == 0:
            order = rng.permutation(len(images))
        chosen = order[step % per_epoch * training.batch :][: training.batch]
        yield images[chosen], labels[chosen]


Path = Iterator[tuple[float, Params]]  # the loss of a step, the parameters after it


def _by_reference(training: Training, params: Params, batches: Iterator[Labelled]) -> Path:
    network, velocity = training.network, training.optimizer.start(params)
    for x, t in batches:
        (logits,), cache = network.forward(params, x)
        (loss,), compared = LOSS.forward({}, logits, t)
        _, (u, _) = LOSS.backward({}, compared, np.ones_like(loss))
        grads, _ = network.backward(params, cache, u)
        params, velocity = training.optimizer.step(params, velocity, grads)
        yield float(loss), params


def _by_torch(training: Training, start: Params, batches: Iterator[Labelled]) -> Path:
    torch = _module("torch", "torch")
    from gradcheck.suites.twins.torch_ import apply

    params = _each(lambda leaf: torch.tensor(leaf, requires_grad=True), start)
    tensors = [leaf for _, leaf in _dotted(params)]
    optimizer = torch.optim.SGD(
        tensors, lr=training.optimizer.rate, momentum=training.optimizer.momentum
    )
    for x, t in batches:
        optimizer.zero_grad()
        logits = _twin_logits(apply, torch.tensor, training.network, params, torch.tensor(x))
        (loss,) = apply(LOSS, {}, logits, torch.tensor(t))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield loss.item(), _each(lambda leaf: leaf.detach().numpy().copy(), params)


def _by_jax(training: Training, params: Params, batches: Iterator[Labelled]) -> Path:
    jax = _module("jax", "jax")
    from gradcheck.suites.twins.jax_ import apply

    rate, momentum = training.optimizer.rate, training.optimizer.momentum

    def loss_of(params: Params, x: Any, t: Any) -> Any:
        logits = _twin_logits(apply, jax.numpy.asarray, training.network, params, x)
        return apply(LOSS, {}, logits, t)[0]

    def step(params: Params, velocity: Params, x: Any, t: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, t)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        return loss, jax.tree.map(lambda p, v: p - rate * v, params, velocity), velocity

    jitted, velocity = jax.jit(step), _each(np.zeros_like, params)
    for x, t in batches:
        with jax.enable_x64(True):  # not across the yield, or the caller would be inside
            loss, params, velocity = jitted(params, velocity, x, t)
        yield float(loss), _each(np.asarray, params)


def _twin_logits(apply: Any, array: Any, network: Layer, params: Params, x: Any) -> Any:
    """Return the logits of a network by the twins of its layers."""
    if not isinstance(network, RowReader):
        return apply(network, params, x)[0]
    zero = array(np.zeros((1, len(x), network.hidden)))
    _, h, _ = apply(network.lstm, params["lstm"], rows(x), zero, zero)
    return apply(network.head, params["head"], h[0])[0]


def _leaves_by_step(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    for loss, params in zip(trajectory.losses, trajectory.path, strict=True):
        yield {"loss": loss, **dict(_dotted(params, "params."))}


def _mismatch(a: Any, b: Any) -> float:
    """Return max |a - b| / max |a|: 0 if both are zero, NaN if one of them is not a number."""
    with np.errstate(invalid="ignore"):  # two infinities have no difference; NaN says so
        apart, size = (float(np.max(np.abs(z), initial=0)) for z in (np.subtract(a, b), a))
    return apart / size if size else (0.0 if apart == 0 else np.inf)


def _dotted(params: Params, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _each(f: Any, params: Params) -> Params:
    return {
        name: _each(f, value) if isinstance(value, Mapping) else f(value)
        for name, value in params.items()
    }


def _module(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError as missing:
        raise MissingFrameworkError(
            f"not checked: {package} is missing. Install it: pip install {package}"
        ) from missing
