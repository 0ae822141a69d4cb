"""Who agrees with whom: one table per suite, a row per layer, a column per pair of sources."""

import math
from dataclasses import dataclass

from gradcheck.results import Agreement, SuiteRecord

__all__ = ["Table", "agrees", "margin", "table"]

Pair = tuple[str, str]
Cells = tuple[tuple[Agreement, ...], ...]  # one cell per pair; empty where it was not compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The agreements of one suite, layers and pairs in the order of their first appearance."""

    pairs: tuple[Pair, ...]
    rows: tuple[tuple[str, Cells], ...]


def table(suite: SuiteRecord) -> Table:
    """Return the agreements of `suite` as rows and columns; (a, b) and (b, a) share a column."""
    pairs: dict[frozenset[str], Pair] = {}
    rows: dict[str, dict[frozenset[str], list[Agreement]]] = {}
    for agreement in suite.agreements:
        key = frozenset(agreement.pair)
        pairs.setdefault(key, agreement.pair)
        rows.setdefault(agreement.layer, {}).setdefault(key, []).append(agreement)
    return Table(
        pairs=tuple(pairs.values()),
        rows=tuple(
            (layer, tuple(tuple(cells.get(key, ())) for key in pairs))
            for layer, cells in rows.items()
        ),
    )


def agrees(agreement: Agreement) -> bool:
    """Return whether the worst difference stayed within the tolerance; NaN does not."""
    return agreement.worst <= agreement.tolerance


def margin(agreement: Agreement) -> str:
    """Return how far the worst difference lies under its tolerance, as a factor in words."""
    if math.isnan(agreement.worst):
        return "not a number"
    if agreement.worst == 0:
        return "equal to the last bit"
    if agreement.worst <= agreement.tolerance:
        return f"{_factor(agreement.tolerance / agreement.worst)} under"
    over = agreement.worst / agreement.tolerance if agreement.tolerance else math.inf
    return f"{_factor(over)} over"


def _factor(value: float) -> str:
    """Return "1.3×", "250×", "4,300×", "4.3e+07×": two digits, the rest would be noise."""
    if not value < 1e6:
        return f"{value:.1e}×"
    return f"{value:.1f}×" if value < 10 else f"{float(f'{value:.1e}'):,.0f}×"
