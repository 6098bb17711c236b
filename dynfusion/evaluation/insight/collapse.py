"""Whether attention still chooses, and how many directions the fused embedding uses, per visible subset.

    sample entropy   marginal entropy   what it means
    low              high               molecules choose, and not all the same: healthy
    high             high               plain averaging
    low              low                collapse: the same modality wins everywhere

Entropies are of attention over the modalities that a molecule shows, divided by the log of their number, over the
molecules that show two or more. Marginal entropy is that of the mean attention among molecules that show the same
modalities, so that what is missing is not mistaken for a choice; mutual information is marginal minus sample entropy.
"""

import numpy as np
from jaxtyping import Bool, Float

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.insight.molecules import InsightModel, Record, scored_molecules
from dynfusion.evaluation.settings import InsightSettings
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread


def collapse_records(model: InsightModel, task: TaskData, *, settings: InsightSettings) -> list[Record]:
    """One record for every visible subset of a task in original units.

    `attention`: by modality the mean weight among `choices`, the molecules that show it beside another; then what
    `entropies` and `spectrum` say. Where nothing counts: NaN.
    """
    with one_thread():
        molecules = scored_molecules(task, settings.candidates)
        records: list[Record] = []
        for shown in subsets(task.modalities):
            visible = molecules.visible(shown)
            rows = np.flatnonzero(visible.any(axis=1))
            inputs = molecules.inputs(rows, visible[rows])
            attention = model.attention(*inputs).astype(np.float64)
            choice = visible[rows].sum(axis=1) >= 2
            weights = {
                name: _mean(attention[choice & visible[rows, column], column])
                for column, name in enumerate(task.modalities)
            }
            records.append(
                {
                    "task": task.name,
                    "visible": list(shown),
                    "molecules": len(rows),
                    "choices": int(choice.sum()),
                    "attention": weights,
                    **entropies(attention, visible[rows]),
                    **spectrum(model.encode(*inputs)),
                }
            )
        return records


def entropies(
    attention: Float[np.ndarray, "rows modalities"], visible: Bool[np.ndarray, "rows modalities"]
) -> dict[str, float]:
    """`sample_entropy`, `marginal_entropy` and `mutual_information`, 0..1; NaN when no row shows two modalities."""
    number = visible.sum(axis=1)
    samples, marginals, rows = [], [], []
    for shown in np.unique(visible[number >= 2], axis=0):
        chosen = attention[(visible == shown).all(axis=1)][:, shown]
        scale = np.log(shown.sum())
        samples.append(float(_entropy(chosen).mean()) / scale)
        marginals.append(float(_entropy(chosen.mean(axis=0, keepdims=True))[0]) / scale)
        rows.append(len(chosen))
    sample, marginal = _mean(samples, rows), _mean(marginals, rows)
    return {"sample_entropy": sample, "marginal_entropy": marginal, "mutual_information": marginal - sample}


def spectrum(vectors: Float[np.ndarray, "rows dim"]) -> dict[str, float]:
    """How many directions the centred vectors use, 0 (all equal) .. dim.

    `effective_rank` = exp of the entropy of the singular values as shares (Roy and Vetterli, EUSIPCO 2007);
    `participation_ratio` = (sum l)^2 / sum l^2 of the covariance's eigenvalues. NaN without rows.
    """
    if len(vectors) == 0:
        return {"effective_rank": float("nan"), "participation_ratio": float("nan")}
    exact = vectors.astype(np.float64)
    centred = exact - exact.mean(axis=0)
    gram = centred.T @ centred if len(vectors) >= vectors.shape[1] else centred @ centred.T
    eigenvalues = np.linalg.eigvalsh(gram)
    rounding = float(np.finfo(np.float32).eps) ** 2 * float(np.square(exact).sum())
    eigenvalues = eigenvalues[eigenvalues > rounding]
    if len(eigenvalues) == 0:
        return {"effective_rank": 0.0, "participation_ratio": 0.0}
    singular = np.sqrt(eigenvalues)
    return {
        "effective_rank": float(np.exp(_entropy((singular / singular.sum())[None])[0])),
        "participation_ratio": float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()),
    }


def _entropy(shares: Float[np.ndarray, "rows shares"]) -> Float[np.ndarray, " rows"]:
    """In nats, of each row; a share of 0 adds nothing."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=1)


def _mean(values: np.ndarray | list[float], weights: list[int] | None = None) -> float:
    return float(np.average(values, weights=weights)) if len(values) else float("nan")
