"""Whether an embedding still tells its molecule from all others: rank of the right candidate by cosine.

Candidates level with the right one share the hit, so that embeddings which have all collapsed into one score
k / candidates in recall@k, and not 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

LEVEL = 1e-6
"""Cosines that differ by less are level: about the rounding of a float32 product of unit vectors."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Ranks:
    """Where each query's own candidate stands."""

    above: Int64[np.ndarray, " queries"]
    """Candidates nearer than the own one."""
    level: Int64[np.ndarray, " queries"]
    """Candidates as near as the own one, itself included."""
    candidates: int

    def hits(self, k: int) -> Float[np.ndarray, " queries"]:
        """Chance that the own candidate is among the first `k` when level ones are put in random order, 0..1."""
        return np.clip((k - self.above) / self.level, 0, 1)

    def reciprocal(self) -> Float[np.ndarray, " queries"]:
        """Mean of 1 / rank over the random orders of the level ones, in (0, 1]."""
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, self.candidates + 1))])
        return (harmonic[self.above + self.level] - harmonic[self.above]) / self.level

    def placements(self) -> dict[str, Float[np.ndarray, " queries"]]:
        """`recall_1`, `recall_10` and `mrr` (reciprocal rank) of every query."""
        return {"recall_1": self.hits(1), "recall_10": self.hits(10), "mrr": self.reciprocal()}

    def summary(self) -> dict[str, float | int]:
        """The means of the placements, NaN without queries, and the numbers of `queries` and `candidates`."""
        means = {name: float(v.mean()) if len(v) else float("nan") for name, v in self.placements().items()}
        return {**means, "queries": len(self.above), "candidates": self.candidates}


def ranks(
    queries: Float[np.ndarray, "queries dim"],
    candidates: Float[np.ndarray, "candidates dim"],
    *,
    own: Int64[np.ndarray, " queries"],
) -> Ranks:
    """Rank of candidate number `own` by cosine similarity with its query; a zero vector has cosine 0 with everything.

    Source: recall@k and mean reciprocal rank as in Manning, Raghavan and Schuetze, Introduction to Information
    Retrieval (2008), chapter 8; ties by their mean, McSherry and Najork, ECIR 2008.
    """
    queries, columns = unit(queries), unit(candidates).T
    above, level = np.zeros(len(queries), dtype=np.int64), np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        similarity = queries[block] @ columns
        right = similarity[np.arange(len(similarity)), own[block]][:, None]
        above[block] = np.count_nonzero(similarity > right + LEVEL, axis=1)
        level[block] = np.count_nonzero(similarity >= right - LEVEL, axis=1) - above[block]
    return Ranks(above, level, len(candidates))


def unit(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Every row at length 1; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def row_cosines(
    first: Float[np.ndarray, "rows dim"], second: Float[np.ndarray, "rows dim"]
) -> Float[np.ndarray, " rows"]:
    """Cosine of each row of one with the same row of the other, float64; 0 where either is a zero vector."""
    return (unit(first.astype(np.float64)) * unit(second.astype(np.float64))).sum(axis=1)
