"""A table of vectors, looked up by index."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = ["Embedding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """y[...] = W[i[...]], the row of W that each index names.

    W̄[k] = Σ u[...] over all places where i = k, so a row that is used twice collects twice and
    a row that is not used gets zero. The indices carry no gradient.

    With `padding_index` that one row of W̄ is zero by declaration, as in PyTorch, though y does
    depend on it: W̄ is then not the derivative of y, and differences along that row disagree
    with it. It is the derivative with the row held constant; a check should hold it so too.

    Shapes: i any, integer, in [0, vocabulary); weight (vocabulary, features); y i.shape +
    (features,).

    Sources:
        Bengio, Ducharme, Vincent and Jauvin, A neural probabilistic language model, JMLR 3 (2003).
    """

    vocabulary: int
    features: int
    padding_index: int | None = None

    def __post_init__(self) -> None:
        if self.padding_index is not None and not 0 <= self.padding_index < self.vocabulary:
            raise ValueError(
                f"Embedding: expected padding_index in [0, {self.vocabulary}); got "
                f"{self.padding_index}. Use None if no row stands for padding."
            )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {"weight": rng.standard_normal((self.vocabulary, self.features)).astype(dtype)}

    def forward(self, params: Params, indices: Array) -> tuple[Outputs, Array]:
        self._check_indices(indices)
        return (params["weight"][indices],), indices

    def backward(self, params: Params, indices: Array, u: Array) -> tuple[Params, Cotangents]:
        weight = np.zeros((self.vocabulary, self.features), u.dtype)
        np.add.at(weight, indices, u)
        if self.padding_index is not None:
            weight[self.padding_index] = 0
        return {"weight": weight}, (None,)

    def _check_indices(self, indices: Array) -> None:
        if not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                f"Embedding: expected integer indices; got {indices.dtype}. "
                "Is the embedding behind another layer instead of first?"
            )
        if indices.size and not 0 <= indices.min() <= indices.max() < self.vocabulary:
            raise ValueError(
                f"Embedding: expected indices in [0, {self.vocabulary}); got {indices.min()} to "
                f"{indices.max()}. Is the vocabulary as large as the tokenizer's?"
            )
