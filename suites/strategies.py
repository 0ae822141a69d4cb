"""Hypothesis strategies that draw networks: what the suites think worth checking.

Sizes are small, because a wrong formula is wrong at size two, and start at the awkward ones:
size 1, an empty batch, length 1. Hypothesis shrinks towards the first choice of each strategy.
"""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from gradcheck.reference import (
    GELU,
    AveragePool,
    BatchNorm,
    BinaryCrossEntropyWithLogits,
    Convolution,
    CrossEntropy,
    CrossEntropyProbabilities,
    Damped,
    Dense,
    Dropout,
    ElmanCell,
    Embedding,
    FixedPoint,
    GRUCell,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    LSTMCell,
    MaxPool,
    MeanSquaredError,
    MultiHeadAttention,
    Recurrent,
    ReLU,
    Residual,
    RMSNorm,
    ScaledDotProductAttention,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    TanhTransition,
    Unrolled,
)
from gradcheck.reference.cells import Cell
from gradcheck.reference.fixed_point import Transition
from gradcheck.reference.layer import Layer
from gradcheck.reference.losses import Reduction
from gradcheck.suites.chunks import Chunked
from gradcheck.suites.networks import (
    FLAVOURS,
    Floats,
    Integers,
    Masks,
    Network,
    Point,
    Probabilities,
    Variances,
)

__all__ = [
    "FIXED_POINT",
    "RECURRENT",
    "STATIC",
    "activations",
    "losses",
    "normalizations",
    "points",
]

SIZES = st.sampled_from([1, 2, 3, 4])
BATCHES = st.sampled_from([1, 2, 3, 0])

# PyTorch's GELUs and its cross-entropy on logits cancel in their tails: F.gelu(-9.) is -0.0 for
# -1e-18, and at a logit of -30 the loss is 1 % off. At 4 they have lost four digits of sixteen.
TAME = 4.0

ACTIVATIONS: tuple[Layer, ...] = (
    ReLU(),
    LeakyReLU(slope=0.1),
    Tanh(),
    Sigmoid(),
    SiLU(),
    Softplus(),
    GELU(approximate="none"),
    GELU(approximate="tanh"),
    Softmax(),
    Softmax(axis=0),
    LogSoftmax(),
)

LOSSES = (
    "squared error",
    "cross-entropy",
    "cross-entropy of probabilities",
    "binary cross-entropy",
)
NORMALIZATIONS = ("batch norm", "batch norm, inference", "layer norm", "RMS norm")

REDUCTIONS: tuple[Reduction, ...] = ("sum", "none", "mean")


def points() -> SearchStrategy[tuple[Point, ...]]:
    """Draw two or three points; the first at ordinary values, where a fault reads best."""
    seeds = st.integers(0, 2**16)
    first = st.builds(Point, seed=seeds)
    others = st.builds(Point, seed=seeds, flavour=st.sampled_from(FLAVOURS))
    return st.builds(lambda a, rest: (a, *rest), first, st.lists(others, min_size=1, max_size=2))


@st.composite
def dense(draw: DrawFn) -> Network:
    inputs, leading = draw(SIZES), draw(st.lists(BATCHES, min_size=0, max_size=2))
    layer = Dense(inputs=inputs, outputs=draw(SIZES), bias=draw(st.booleans()))
    return Network(layer=layer, inputs=(Floats((*leading, inputs)),))


@st.composite
def activations(draw: DrawFn, layers: tuple[Layer, ...] = ACTIVATIONS) -> Network:
    layer = draw(st.sampled_from(layers))
    limit = TAME if isinstance(layer, GELU) else None
    shape = (draw(SIZES), draw(SIZES))
    return Network(layer=layer, inputs=(Floats(shape, limit=limit),))


@st.composite
def losses(draw: DrawFn, kinds: tuple[str, ...] = LOSSES) -> Network:
    reduction = draw(st.sampled_from(REDUCTIONS))
    batch, classes = draw(SIZES), draw(SIZES)
    logits = Floats((batch, classes))
    match draw(st.sampled_from(kinds)):
        case "squared error":
            return Network(layer=MeanSquaredError(reduction=reduction), inputs=(logits, logits))
        case "cross-entropy":
            targets = Integers((batch,), classes)
            return Network(layer=CrossEntropy(reduction=reduction), inputs=(logits, targets))
        case "cross-entropy of probabilities":
            layer = CrossEntropyProbabilities(reduction=reduction)
            return Network(layer=layer, inputs=(logits, Probabilities((batch, classes))))
        case _:
            binary = BinaryCrossEntropyWithLogits(reduction=reduction)
            tame = Floats((batch, classes), limit=TAME)
            return Network(layer=binary, inputs=(tame, Probabilities((batch, classes))))


@st.composite
def normalizations(draw: DrawFn, kinds: tuple[str, ...] = NORMALIZATIONS) -> Network:
    features = draw(SIZES)
    # One element a channel has no variance, and PyTorch refuses it.
    shape = (draw(st.sampled_from([2, 3])), features, *draw(st.lists(SIZES, max_size=2)))
    match draw(st.sampled_from(kinds)):
        case "batch norm":
            return Network(layer=BatchNorm(features=features), inputs=(Floats(shape),))
        case "batch norm, inference":
            layer = BatchNorm(features=features, mode="inference")
            moments = Floats((features,)), Variances((features,))
            return Network(layer=layer, inputs=(Floats(shape), *moments))
        case "layer norm":
            trailing = shape[draw(st.integers(1, len(shape) - 1)) :]
            affine = draw(st.booleans())
            return Network(layer=LayerNorm(shape=trailing, affine=affine), inputs=(Floats(shape),))
        case _:
            return Network(layer=RMSNorm(shape=shape[-1:]), inputs=(Floats(shape),))


@st.composite
def convolutions(draw: DrawFn) -> Network:
    axes, groups = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    kernel, stride, padding, dilation = (
        tuple(draw(st.sampled_from(values)) for _ in range(axes))
        for values in ([1, 2, 3], [1, 2], [0, 1, 2], [1, 2])
    )
    inputs, outputs = groups * draw(st.sampled_from([1, 2])), groups * draw(st.sampled_from([1, 2]))
    layer = Convolution(
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    size = _sizes(draw, kernel, padding, dilation)
    return Network(layer=layer, inputs=(Floats((draw(st.sampled_from([1, 2])), inputs, *size)),))


@st.composite
def pools(draw: DrawFn) -> Network:
    axes, average = draw(st.sampled_from([1, 2])), draw(st.booleans())
    kernel, stride = (
        tuple(draw(st.sampled_from(values)) for _ in range(axes)) for values in ([2, 1, 3], [1, 2])
    )
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)  # more reads only padding
    count = draw(st.booleans())
    layer = (
        AveragePool(kernel=kernel, stride=stride, padding=padding, count_include_pad=count)
        if average
        else MaxPool(kernel=kernel, stride=stride, padding=padding)
    )
    size = _sizes(draw, kernel, padding, (1,) * axes)
    return Network(layer=layer, inputs=(Floats((draw(SIZES), draw(SIZES), *size)),))


def _sizes(
    draw: DrawFn, kernel: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """Spatial sizes from the smallest that the kernel fits into."""
    geometry = zip(kernel, padding, dilation, strict=True)
    smallest = [max(d * (k - 1) + 1 - 2 * p, 1) for k, p, d in geometry]
    return tuple(least + draw(st.integers(0, 3)) for least in smallest)


@st.composite
def embeddings(draw: DrawFn) -> Network:
    vocabulary = draw(SIZES)
    padding = draw(st.none() | st.integers(0, vocabulary - 1))
    layer = Embedding(vocabulary=vocabulary, features=draw(SIZES), padding_index=padding)
    shape = tuple(draw(st.lists(st.sampled_from([4, 1, 2, 3]), min_size=1, max_size=2)))
    return Network(layer=layer, inputs=(Integers(shape, vocabulary),))


@st.composite
def dropouts(draw: DrawFn) -> Network:
    shape = (draw(SIZES), draw(SIZES))
    layer = Dropout(rate=draw(st.sampled_from([0.5, 0.1, 0.0])))
    return Network(layer=layer, inputs=(Floats(shape), Masks(shape)))


@st.composite
def attentions(draw: DrawFn) -> Network:
    causal, masked = draw(st.booleans()), draw(st.booleans())
    batch, queries, keys = draw(SIZES), draw(SIZES), draw(SIZES)
    if draw(st.booleans()):
        heads = draw(st.sampled_from([1, 2]))
        features = heads * draw(st.sampled_from([1, 2, 3]))
        layer: Layer = MultiHeadAttention(
            features=features, heads=heads, causal=causal, masked=masked, bias=draw(st.booleans())
        )
        shapes = [(batch, length, features) for length in (queries, keys, keys)]
        mask = Masks((batch, keys), rate=0.2)
    else:
        depth, width = draw(SIZES), draw(SIZES)
        layer = ScaledDotProductAttention(causal=causal, masked=masked)
        shapes = [(batch, queries, depth), (batch, keys, depth), (batch, keys, width)]
        mask = Masks((batch, queries, keys))
    # Scores grow with the square of the inputs; beyond 100 a softmax is an argmax.
    floats = tuple(Floats(shape, 5.0) for shape in shapes)
    return Network(layer=layer, inputs=(*floats, mask) if masked else floats)


@st.composite
def compositions(draw: DrawFn) -> Network:
    """Draw a chain of layers on rows, nested in residual blocks."""
    width = draw(st.sampled_from([2, 1, 3, 4]))
    batch, start = draw(st.sampled_from([2, 3])), width
    links: list[Layer] = []
    for _ in range(draw(st.integers(1, 4))):
        outputs = draw(SIZES)
        choices: list[tuple[Layer, int]] = [
            (Dense(inputs=width, outputs=outputs), outputs),
            (Tanh(), width),
            (ReLU(), width),
            (SiLU(), width),
            (LayerNorm(shape=(width,)), width),
            (BatchNorm(features=width), width),
            (Softmax(), width),
            (Residual(inner=_block(width)), width),
        ]
        link, width = draw(st.sampled_from(choices))
        links.append(link)
    layer = Sequential(layers=tuple(links))
    return Network(layer=layer, inputs=(Floats((batch, start), 3.0),))


def _block(width: int) -> Layer:
    inward, outward = Dense(inputs=width, outputs=2 * width), Dense(inputs=2 * width, outputs=width)
    return Sequential(layers=(LayerNorm(shape=(width,)), inward, SiLU(), outward))


@st.composite
def recurrents(draw: DrawFn, cells: tuple[Cell, ...], *, chunked: bool = False) -> Network:
    """Draw a sequence layer with its initial states, over lengths from one step."""
    cell = draw(st.sampled_from(cells))
    kind = draw(st.sampled_from(["plain", "both ways", "masked", "truncated"]))
    length = draw(st.sampled_from([3, 1, 2, 5])) + chunked
    batch, inputs, hidden = draw(st.sampled_from([2, 1, 3])), draw(SIZES), draw(SIZES)
    layer = Recurrent(
        cell=cell,
        inputs=inputs,
        hidden=hidden,
        layers=draw(st.sampled_from([1, 2])),
        bidirectional=kind == "both ways" and not chunked,
        masked=kind == "masked" and not chunked,
        truncation=draw(st.sampled_from([1, 2])) if kind == "truncated" and not chunked else None,
        bias=draw(st.booleans()),
    )
    state = Floats((layer.layers * layer.directions, batch, hidden), 2.0)
    states = (state,) * layer.cell.states
    # PyTorch refuses sequences of length zero.
    lengths = (Integers((batch,), length + 1, 1),) if layer.masked else ()
    given = (Floats((length, batch, inputs), 5.0), *states, *lengths)
    if chunked:
        return Network(
            layer=Chunked(inner=layer, at=draw(st.integers(1, length - 1))), inputs=given
        )
    return Network(layer=layer, inputs=given)


@st.composite
def fixed_points(draw: DrawFn) -> Network:
    """Draw a contraction; its weights are not symmetric, so that J and Jᵀ differ."""
    inputs, hidden = draw(SIZES), draw(st.sampled_from([3, 2, 1, 4]))
    gain = draw(st.sampled_from([0.5, 0.9, 0.1]))
    inner = TanhTransition(inputs=inputs, hidden=hidden, gain=gain)
    transitions: list[Transition] = [inner, Damped(transition=inner, rate=0.7)]
    transition = draw(st.sampled_from(transitions))
    layers: list[Layer] = [
        FixedPoint(transition=transition),
        Unrolled(transition=transition, steps=3),
    ]
    x = Floats((draw(st.sampled_from([2, 1, 3])), inputs), 3.0)
    return Network(layer=draw(st.sampled_from(layers)), inputs=(x,))


def _called(layer: Layer) -> str:
    """What a family of one activation is called: `ReLU`, `Softmax(axis=0)`."""
    text = repr(layer)
    return text.removesuffix("()")


# A family is drawn from on its own: every run sees every family.
STATIC: dict[str, SearchStrategy[Network]] = {
    "dense": dense(),
    **{_called(layer): activations((layer,)) for layer in ACTIVATIONS},
    **{kind: losses((kind,)) for kind in LOSSES},
    **{kind: normalizations((kind,)) for kind in NORMALIZATIONS},
    "convolutions": convolutions(),
    "pools": pools(),
    "embeddings": embeddings(),
    "dropouts": dropouts(),
    "attentions": attentions(),
    "compositions": compositions(),
}

RECURRENT: dict[str, SearchStrategy[Network]] = {
    "elman": recurrents((ElmanCell(nonlinearity="tanh"), ElmanCell(nonlinearity="relu"))),
    "lstm": recurrents((LSTMCell(),)),
    "gru": recurrents((GRUCell(reset="after"), GRUCell(reset="before"))),
    "chunks": recurrents((ElmanCell(), LSTMCell(), GRUCell()), chunked=True),
}

FIXED_POINT: dict[str, SearchStrategy[Network]] = {"fixed points": fixed_points()}
