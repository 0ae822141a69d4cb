"""Ask the drop-in about functions of jax.numpy, jax.nn, jax.lax and jax.scipy: false alarms.

    python benchmarks/op_sweep_jax.py --limit 50 --json out.json

Each function is asked in float64 about its derivatives of first and second order, forward and
reverse, at one random point inside its domain. JAX's functions are right, so nearly every failure
is a false alarm; docs/op_sweep.md says what each of the rest is. Where the drop-in complains,
`jax.test_util.check_grads` is asked too.
"""

import argparse
import json
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import jax.test_util
import numpy as np
from jax import lax

import gradcheck.jax as ours
from gradcheck.dropin import InconclusiveWarning

SHOWN = 100  # columns of a message in the table; the JSON file has all of it

Draw = Callable[[np.random.Generator], tuple[Any, ...]]


class OutOfTime(BaseException):
    """Not an Exception: neither a function nor the engine may swallow it."""


def real(*shapes: tuple[int, ...]) -> Draw:
    return lambda rng: tuple(jnp.asarray(rng.standard_normal(shape)) for shape in shapes)


def between(low: float, high: float, *shapes: tuple[int, ...]) -> Draw:
    return lambda rng: tuple(jnp.asarray(rng.uniform(low, high, shape)) for shape in shapes)


def complex_(*shapes: tuple[int, ...]) -> Draw:
    return lambda rng: tuple(
        jnp.asarray(rng.standard_normal(s) + 1j * rng.standard_normal(s)) for s in shapes
    )


def positive_definite(n: int, *shapes: tuple[int, ...]) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[Any, ...]:
        a = rng.standard_normal((n, n))
        return jnp.asarray(a @ a.T + n * np.eye(n)), *real(*shapes)(rng)

    return draw


M, V, W = (3, 4), (5,), (6,)
ANYWHERE, POSITIVE, UNIT, ABOVE, PROBABLE = (
    real(M),
    between(0.3, 3.0, M),
    between(-0.9, 0.9, M),
    between(1.1, 4.0, M),
    between(0.1, 0.9, M),
)
TWO, TWO_POSITIVE = real(M, M), between(0.3, 3.0, M, M)

# module, domain, names: functions of arrays alone.
PLAIN: list[tuple[Any, Draw, str]] = [
    (
        jnp,
        ANYWHERE,
        "sin cos tan tanh sinh cosh arctan arcsinh exp exp2 expm1 square cbrt negative "
        "positive abs absolute fabs reciprocal sinc deg2rad rad2deg radians degrees real conj "
        "nan_to_num i0 floor ceil rint round trunc fix sign",
    ),
    (jnp, POSITIVE, "sqrt log log2 log10 log1p"),
    (jnp, UNIT, "arcsin arccos arctanh"),
    (jnp, ABOVE, "arccosh"),
    (
        jnp,
        ANYWHERE,
        "sum mean prod var std max min amax amin ptp nansum nanmean nanprod nanvar "
        "nanstd nanmax nanmin cumsum cumprod nancumsum nancumprod median nanmedian sort ravel "
        "transpose flipud fliplr diff trace tril triu diag diagonal squeeze atleast_3d average "
        "gradient cov corrcoef unwrap trapezoid ediff1d",
    ),
    (
        jnp,
        TWO,
        "add subtract multiply maximum minimum fmax fmin hypot logaddexp logaddexp2 arctan2 "
        "copysign heaviside vdot inner outer kron tensordot append",
    ),
    (jnp, TWO_POSITIVE, "divide true_divide power float_power mod remainder fmod floor_divide"),
    (jnp, real((3, 4), (4, 2)), "matmul dot"),
    (jnp, real(V, V), "convolve correlate polyadd polymul polysub"),
    (jnp, real((3,), (3,)), "cross"),
    (jnp, real(V, (3,)), "polyval"),
    (
        jax.nn,
        ANYWHERE,
        "relu relu6 sigmoid softplus sparse_plus soft_sign silu swish log_sigmoid "
        "elu celu selu gelu leaky_relu hard_sigmoid hard_silu hard_swish hard_tanh softmax "
        "log_softmax logsumexp logmeanexp standardize glu squareplus mish sparse_sigmoid identity",
    ),
    (
        jsp.special,
        ANYWHERE,
        "erf erfc expit i0 i0e i1 i1e log_ndtr ndtr logsumexp log_softmax softmax",
    ),
    (jsp.special, POSITIVE, "gammaln digamma gamma entr factorial exp1 expi spence"),
    (jsp.special, PROBABLE, "logit ndtri erfinv"),
    (jsp.special, TWO_POSITIVE, "betaln beta xlogy xlog1py kl_div rel_entr"),
    (
        lax,
        ANYWHERE,
        "sin cos tan tanh sinh cosh atan asinh exp exp2 expm1 logistic erf erfc "
        "bessel_i0e bessel_i1e cbrt neg abs square",
    ),
    (lax, POSITIVE, "log log1p sqrt rsqrt lgamma digamma"),
    (lax, UNIT, "asin acos atanh erf_inv"),
    (lax, ABOVE, "acosh"),
    (lax, TWO, "add sub mul max min atan2"),
    (lax, TWO_POSITIVE, "div pow rem igamma igammac"),
    (jnp.linalg, real((4, 4)), "det inv slogdet norm pinv matrix_norm vector_norm"),
    (jnp.linalg, real((4, 3)), "svdvals pinv"),
    (jnp.linalg, positive_definite(4), "cholesky eigvalsh"),
    (jnp.linalg, real((4, 4), (4,)), "solve"),
    (
        jnp.fft,
        ANYWHERE,
        "fft ifft rfft fft2 ifft2 rfft2 fftn ifftn rfftn hfft ihfft fftshift ifftshift",
    ),
    (jnp.fft, complex_((3, 5)), "fft ifft irfft irfft2 hfft"),
    (jnp, complex_(M), "sin cos exp tanh square abs angle real imag conj sqrt log prod"),
    (jsp.linalg, positive_definite(4), "cholesky det inv expm"),
    (jsp.stats.norm, ANYWHERE, "logpdf pdf cdf logcdf sf logsf"),
    (jsp.stats.cauchy, ANYWHERE, "logpdf pdf cdf logcdf sf"),
    (jsp.stats.laplace, ANYWHERE, "logpdf pdf cdf"),
    (jsp.stats.logistic, ANYWHERE, "logpdf pdf cdf sf"),
    (jsp.stats.expon, POSITIVE, "logpdf pdf"),
    (jsp.stats.uniform, PROBABLE, "logpdf pdf cdf"),
    (jsp.stats.gamma, TWO_POSITIVE, "logpdf pdf cdf logcdf sf"),
    (jsp.stats.chi2, TWO_POSITIVE, "logpdf pdf cdf"),
    (jsp.stats.t, TWO_POSITIVE, "logpdf pdf"),
    (
        jsp.stats.beta,
        lambda rng: (*between(0.1, 0.9, M)(rng), *TWO_POSITIVE(rng)),
        "logpdf pdf cdf",
    ),
]

LABELS = jnp.array([0, 2, 1])
INDEX = jnp.array([2, 0, 0, 1])

# name, function, domain: what takes more than arrays.
WRITTEN: list[tuple[str, Callable[..., Any], Draw]] = [
    ("jnp.where", lambda x, y: jnp.where(x > 0, x * y, y**2), TWO),
    ("jnp.clip", lambda x: jnp.clip(x, -0.5, 0.5) * x, ANYWHERE),
    ("jnp.take", lambda x: jnp.take(x, INDEX, axis=0) ** 2, ANYWHERE),
    ("jnp.take_along_axis", lambda x: jnp.take_along_axis(x, INDEX[None], 1) ** 2, ANYWHERE),
    ("jnp.concatenate", lambda x, y: jnp.concatenate([x, y]) ** 2, TWO),
    ("jnp.stack", lambda x, y: jnp.stack([x, y]) ** 2, TWO),
    ("jnp.hstack", lambda x, y: jnp.hstack([x, y]) ** 2, TWO),
    ("jnp.vstack", lambda x, y: jnp.vstack([x, y]) ** 2, TWO),
    ("jnp.pad.reflect", lambda x: jnp.pad(x, 2, mode="reflect") ** 2, ANYWHERE),
    ("jnp.pad.wrap", lambda x: jnp.pad(x, 2, mode="wrap") ** 2, ANYWHERE),
    ("jnp.roll", lambda x: jnp.roll(x, 1, 0) * x, ANYWHERE),
    ("jnp.tile", lambda x: jnp.tile(x, (2, 1)) ** 2, ANYWHERE),
    ("jnp.repeat", lambda x: jnp.repeat(x, 2, 0) ** 2, ANYWHERE),
    ("jnp.einsum", lambda x, y: jnp.einsum("ij,kj->ik", x, y), TWO),
    ("jnp.einsum.trace", lambda x: jnp.einsum("ii->i", x) ** 2, real((4, 4))),
    (
        "jnp.interp",
        lambda x, y: jnp.interp(x, jnp.arange(5.0), y),
        lambda rng: (*between(0.1, 3.9, V)(rng), *real(V)(rng)),
    ),
    ("jnp.quantile", lambda x: jnp.quantile(x, 0.3), ANYWHERE),
    ("jnp.percentile", lambda x: jnp.percentile(x, 61.0, axis=0), ANYWHERE),
    ("jnp.at.add", lambda x, y: x.at[INDEX[:3], 0].add(y) ** 2, real(M, (3,))),
    ("jnp.at.set", lambda x, y: x.at[1].set(y) ** 2, real(M, (4,))),
    ("jnp.at.mul", lambda x, y: x.at[1].mul(y) ** 2, real(M, (4,))),
    ("jnp.at.max", lambda x, y: x.at[1].max(y) ** 2, real(M, (4,))),
    ("jnp.linalg.qr", lambda x: jnp.linalg.qr(x)[1], real((4, 3))),
    ("jnp.linalg.svd", lambda x: jnp.linalg.svd(x, full_matrices=False)[1] ** 2, real((4, 3))),
    ("jnp.linalg.eigh", lambda x: jnp.linalg.eigh(x + x.T)[0], real((4, 4))),
    ("jnp.linalg.eigvals", lambda x: jnp.linalg.eigvals(x), real((3, 3))),
    ("jnp.linalg.matrix_power", lambda x: jnp.linalg.matrix_power(x, 3), real((3, 3))),
    ("jnp.linalg.multi_dot", lambda x, y: jnp.linalg.multi_dot([x, y.T, x]), TWO),
    ("jnp.linalg.norm.1", lambda x: jnp.linalg.norm(x, 1), real((4, 4))),
    ("jnp.linalg.norm.nuc", lambda x: jnp.linalg.norm(x, "nuc"), real((4, 3))),
    ("jnp.linalg.norm.2", lambda x: jnp.linalg.norm(x, 2), real((4, 3))),
    ("jnp.linalg.lstsq", lambda a, b: jnp.linalg.lstsq(a, b)[0], real((5, 3), (5,))),
    (
        "jsp.linalg.solve_triangular",
        lambda a, b: jsp.linalg.solve_triangular(a + 3 * jnp.eye(4), b, lower=True),
        real((4, 4), (4,)),
    ),
    (
        "jsp.linalg.cho_solve",
        lambda a, b: jsp.linalg.cho_solve(jsp.linalg.cho_factor(a), b),
        positive_definite(4, (4,)),
    ),
    ("jsp.linalg.lu", lambda a: jsp.linalg.lu(a)[1:], real((4, 4))),
    (
        "jsp.linalg.lu_solve",
        lambda a, b: jsp.linalg.lu_solve(jsp.linalg.lu_factor(a), b),
        real((4, 4), (4,)),
    ),
    ("jsp.linalg.sqrtm", lambda a: jsp.linalg.sqrtm(a).real, positive_definite(3)),
    ("jsp.linalg.block_diag", lambda x, y: jsp.linalg.block_diag(x, y) ** 2, TWO),
    ("jsp.linalg.toeplitz", lambda x: jsp.linalg.toeplitz(x) ** 2, real(V)),
    ("jsp.special.polygamma", lambda x: jsp.special.polygamma(1, x), POSITIVE),
    ("jsp.special.zeta", lambda q: jsp.special.zeta(2.5, q), ABOVE),
    ("jsp.special.multigammaln", lambda x: jsp.special.multigammaln(x, 2), ABOVE),
    ("jsp.special.gammainc", jsp.special.gammainc, TWO_POSITIVE),
    ("jsp.special.gammaincc", jsp.special.gammaincc, TWO_POSITIVE),
    ("jsp.special.betainc", jsp.special.betainc, lambda rng: (*TWO_POSITIVE(rng), *PROBABLE(rng))),
    ("jsp.special.hyp1f1", lambda x: jsp.special.hyp1f1(1.2, 2.3, x), PROBABLE),
    (
        "jsp.ndimage.map_coordinates",
        lambda x, c: jsp.ndimage.map_coordinates(x, [c, c], 1),
        lambda rng: (*real((5, 5))(rng), *between(0.1, 3.9, V)(rng)),
    ),
    ("jsp.signal.convolve2d", lambda x, y: jsp.signal.convolve2d(x, y), real((4, 4), (2, 2))),
    ("jsp.signal.fftconvolve", lambda x, y: jsp.signal.fftconvolve(x, y), real(W, (3,))),
    (
        "jsp.stats.multivariate_normal.logpdf",
        lambda x, m, a: jsp.stats.multivariate_normal.logpdf(x, m, a),
        lambda rng: (*real((4,), (4,))(rng), *positive_definite(4)(rng)),
    ),
    (
        "jsp.stats.dirichlet.logpdf",
        lambda x, a: jsp.stats.dirichlet.logpdf(x / x.sum(), a),
        between(0.3, 2.0, (4,), (4,)),
    ),
    ("jsp.stats.gaussian_kde", lambda x, d: jsp.stats.gaussian_kde(d)(x), real((3,), (8,))),
    (
        "jsp.stats.poisson.logpmf",
        lambda mu: jsp.stats.poisson.logpmf(LABELS, mu),
        between(0.5, 3.0, (3,)),
    ),
    (
        "jsp.stats.bernoulli.logpmf",
        lambda p: jsp.stats.bernoulli.logpmf(LABELS % 2, p),
        between(0.1, 0.9, (3,)),
    ),
    ("nn.softmax.masked", lambda x: jax.nn.softmax(x, where=jnp.arange(4) < 3), ANYWHERE),
    ("nn.one_hot", lambda x: x * jax.nn.one_hot(LABELS, 4), ANYWHERE),
    ("nn.gelu.exact", lambda x: jax.nn.gelu(x, approximate=False), ANYWHERE),
    (
        "nn.dot_product_attention",
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v),
        real((1, 3, 2, 4), (1, 3, 2, 4), (1, 3, 2, 4)),
    ),
    (
        "nn.dot_product_attention.causal",
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
        real((1, 3, 2, 4), (1, 3, 2, 4), (1, 3, 2, 4)),
    ),
    ("lax.dot_general", lambda x, y: lax.dot_general(x, y, (((1,), (1,)), ((), ()))), TWO),
    ("lax.conv", lambda x, w: lax.conv(x, w, (1, 1), "SAME"), real((1, 2, 5, 5), (3, 2, 3, 3))),
    (
        "lax.conv.strided",
        lambda x, w: lax.conv(x, w, (2, 1), "VALID"),
        real((1, 2, 5, 5), (3, 2, 3, 3)),
    ),
    (
        "lax.conv_transpose",
        lambda x, w: lax.conv_transpose(
            x, w, (2,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        ),
        real((1, 4, 2), (3, 2, 3)),
    ),
    (
        "lax.conv_general_dilated",
        lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME", rhs_dilation=(2,)),
        real((1, 2, 7), (3, 2, 3)),
    ),
    (
        "lax.reduce_window.max",
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"),
        real((4, 4)),
    ),
    (
        "lax.reduce_window.add",
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "SAME") ** 2,
        real((4, 4)),
    ),
    ("lax.cumsum", lambda x: lax.cumsum(x) ** 2, ANYWHERE),
    ("lax.cumprod", lax.cumprod, ANYWHERE),
    ("lax.cummax", lambda x: lax.cummax(x) ** 2, ANYWHERE),
    ("lax.cummin", lambda x: lax.cummin(x) ** 2, ANYWHERE),
    ("lax.cumlogsumexp", lax.cumlogsumexp, ANYWHERE),
    ("lax.associative_scan", lambda x: lax.associative_scan(jnp.multiply, x), ANYWHERE),
    ("lax.sort", lambda x: lax.sort(x) ** 2, ANYWHERE),
    ("lax.top_k", lambda x: lax.top_k(x, 2)[0] ** 2, ANYWHERE),
    ("lax.select", lambda x, y: lax.select(x > 0, x * y, y), TWO),
    ("lax.clamp", lambda x: lax.clamp(-0.5, x, 0.5) * x, ANYWHERE),
    ("lax.dynamic_slice", lambda x: lax.dynamic_slice(x, (1, 1), (2, 2)) ** 2, ANYWHERE),
    (
        "lax.dynamic_update_slice",
        lambda x, y: lax.dynamic_update_slice(x, y, (1, 1)) ** 2,
        real(M, (2, 2)),
    ),
    ("lax.integer_pow", lambda x: lax.integer_pow(x, 3), ANYWHERE),
    ("lax.pad", lambda x: lax.pad(x, 0.0, ((1, 1, 1), (0, 2, 0))) ** 2, ANYWHERE),
    ("lax.rev", lambda x: lax.rev(x, (0,)) * x, ANYWHERE),
    (
        "lax.scan",
        lambda x, w: lax.scan(lambda h, y: (jnp.tanh(w @ h + y),) * 2, x[0], x)[1],
        real((5, 3), (3, 3)),
    ),
    ("lax.fori_loop", lambda x: lax.fori_loop(0, 3, lambda _, y: jnp.sin(y), x), ANYWHERE),
    ("lax.cond", lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), ANYWHERE),
    ("lax.map", lambda x: lax.map(lambda y: y * y.sum(), x), ANYWHERE),
    (
        "lax.custom_root",
        lambda a: lax.custom_root(
            lambda x: x**3 - a,
            jnp.ones_like(a),
            lambda f, x: jnp.cbrt(a),
            lambda g, y: y / g(jnp.ones_like(y)),
        ),
        between(0.5, 2.0, (3,)),
    ),
    (
        "lax.linalg.triangular_solve",
        lambda a, b: lax.linalg.triangular_solve(a + 3 * jnp.eye(4), b, left_side=True, lower=True),
        real((4, 4), (4, 2)),
    ),
    (
        "lax.linalg.householder_product",
        lambda a, t: lax.linalg.householder_product(a, t),
        real((4, 3), (3,)),
    ),
    ("lax.fft", lambda x: jnp.abs(lax.fft(x, lax.FftType.RFFT, (4,))) ** 2, ANYWHERE),
    ("lax.complex", lambda x, y: lax.complex(x, y) ** 2, TWO),
    (
        "lax.regularized_incomplete_beta",
        lax.betainc,
        lambda rng: (*TWO_POSITIVE(rng), *PROBABLE(rng)),
    ),
    ("lax.random_gamma_grad", lambda a: jax.random.gamma(jax.random.key(0), a), POSITIVE),
    ("random.normal", lambda s: s * jax.random.normal(jax.random.key(0), M), ANYWHERE),
    (
        "random.dirichlet",
        lambda a: jax.random.dirichlet(jax.random.key(0), a),
        between(0.5, 2.0, (4,)),
    ),
    ("numpy.linalg.cond", lambda x: jnp.linalg.cond(x), real((3, 3))),
    ("checkpoint", lambda x: jax.checkpoint(lambda y: jnp.sin(y) * y)(x), ANYWHERE),
    ("vmap", lambda x: jax.vmap(lambda y: y / jnp.linalg.norm(y))(x), ANYWHERE),
    ("image.resize", lambda x: jax.image.resize(x, (5, 6), "bilinear"), ANYWHERE),
    ("image.resize.cubic", lambda x: jax.image.resize(x, (5, 6), "cubic"), ANYWHERE),
    ("ops.segment_sum", lambda x: jax.ops.segment_sum(x, LABELS, 3) ** 2, ANYWHERE),
    ("ops.segment_max", lambda x: jax.ops.segment_max(x, LABELS, 3) ** 2, ANYWHERE),
    ("ops.segment_prod", lambda x: jax.ops.segment_prod(x, LABELS, 3), ANYWHERE),
]


def main() -> int:
    options = _options()
    jax.config.update("jax_enable_x64", True)
    functions = [entry for entry in _functions() if options.only in entry[0]][:: options.every]
    functions = functions[: options.limit]
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for count, (name, f, draw) in enumerate(functions, start=1):
        args = draw(np.random.default_rng(0))
        for order in (1, 2):
            rows.append(_row(name, f, args, order, options.seconds))
            row = rows[-1]
            if row["answer"] not in ("pass", "refused"):
                print(
                    f"\r{row['answer']:13}order {order}  {name}  jax: {row['jax']}  "
                    f"{row['message'][:SHOWN]!r}",
                    flush=True,
                )
        elapsed = time.perf_counter() - started
        print(f"\r{count}/{len(functions)}  {elapsed:.0f} s  {name:40.40}", end="", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print(
        f"\n{len(functions)} functions, {len(rows)} questions, "
        f"{time.perf_counter() - started:.0f} s"
    )
    for order in (1, 2):
        print("order", order, dict(Counter(r["answer"] for r in rows if r["order"] == order)))
    return 0


def _functions() -> list[tuple[str, Callable[..., Any], Draw]]:
    found = []
    for module, draw, names in PLAIN:
        short = module.__name__.removeprefix("jax.").replace("_src.", "")
        for name in names.split():
            if hasattr(module, name):  # a name that this version of JAX lacks is no question
                found.append((f"{short}.{name}", getattr(module, name), draw))
    return found + WRITTEN


def _row(name: str, f: Any, args: Any, order: int, seconds: float) -> dict[str, Any]:
    started = time.perf_counter()
    answer, message = _answer(f, args, order, ours, seconds)
    elapsed = time.perf_counter() - started
    theirs = "" if answer == "pass" else _answer(f, args, order, jax.test_util, seconds)[0]
    if answer == theirs == "error":  # the function has no such derivative
        answer = "refused"
    return {
        "function": name,
        "order": order,
        "answer": answer,
        "jax": theirs,
        "seconds": round(elapsed, 3),
        "message": message,
    }


def _answer(f: Any, args: Any, order: int, checker: Any, seconds: float) -> tuple[str, str]:
    """What a checker says: its answer in a word, and its message."""
    try:
        with warnings.catch_warnings(record=True) as said, _at_most(seconds):
            warnings.simplefilter("always")
            checker.check_grads(f, args, order)
    except OutOfTime:
        return "out of time", ""
    except AssertionError as failure:
        return "fail", str(failure)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    open_ = [str(w.message) for w in said if issubclass(w.category, InconclusiveWarning)]
    return ("inconclusive", open_[0]) if open_ else ("pass", "")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=int, help="ask about this many functions")
    parser.add_argument("--every", type=int, default=1, help="ask about every n-th function")
    parser.add_argument("--only", default="", help="ask about functions with this in their name")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for one question")
    parser.add_argument("--json", type=Path, help="write every answer to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
