"""What each modality does: how its gates behave, and how far z moves when it is removed or put wrong.

Moved little by both, a modality is ignored. Moved much more by a wrong embedding than by none, the model trusts a
modality that it could do without.
"""

import zlib

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.insight.molecules import InsightModel, Molecules, Record, scored_molecules
from dynfusion.evaluation.insight.retrieval import row_cosines
from dynfusion.evaluation.settings import InsightSettings
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread


def influence_records(model: InsightModel, task: TaskData, *, settings: InsightSettings) -> list[Record]:
    """One record for every modality of a task in original units, over its `molecules` that have it.

    Gates as `gate_statistics` says. `removed` and `shuffled`: mean of 1 - cos(z, z') over the `compared` molecules that
    have another modality too, 0..2, when the modality is taken away and when it is another molecule's; NaN without any.
    """
    with one_thread():
        molecules = scored_molecules(task, settings.candidates)
        every = np.arange(len(molecules.present))
        gates = model.gates(*molecules.inputs(every, molecules.present))
        records: list[Record] = []
        for column, name in enumerate(task.modalities):
            there = molecules.present[:, column]
            compared = np.flatnonzero(there & (molecules.present.sum(axis=1) >= 2))
            others = _others(len(compared), [settings.seed, zlib.crc32(task.name.encode()), column])
            records.append(
                {
                    "task": task.name,
                    "modality": name,
                    "molecules": int(there.sum()),
                    **gate_statistics(gates[name][there]),
                    **_moved(model, molecules, name, compared, compared[others]),
                    "compared": len(compared),
                }
            )
        return records


def gate_statistics(gates: Float[np.ndarray, "rows dim"]) -> dict[str, float]:
    """Of gates in 0..1: `gate_mean`; `gate_open`, the share above 1/2; `gate_closed`, the share below 1/20;
    `gate_gini`, mean over molecules of the Gini index, 0 (all dimensions alike) .. 1 - 1 / dim (one dimension alone);
    `gate_deviation`, mean over dimensions of the standard deviation over molecules, 0 for a mask that never changes.
    NaN without rows.
    """
    if len(gates) == 0:
        return dict.fromkeys(("gate_mean", "gate_open", "gate_closed", "gate_gini", "gate_deviation"), float("nan"))
    return {
        "gate_mean": float(gates.mean(dtype=np.float64)),
        "gate_open": float((gates > 0.5).mean()),
        "gate_closed": float((gates < 0.05).mean()),
        "gate_gini": float(gini(gates).mean()),
        "gate_deviation": float(gates.std(axis=0, dtype=np.float64).mean()),
    }


def gini(values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, " rows"]:
    """Gini index of each row of non-negative numbers, 0..1 - 1 / dim; 0 for a row of zeros.

    Source: Hurley and Rickard, IEEE Trans. Inf. Theory 55 (2009), table I, arXiv:0811.4706.
    """
    ordered = np.sort(values, axis=1).astype(np.float64)
    number = values.shape[1]
    weights = (number - np.arange(1, number + 1) + 0.5) / number
    total = ordered.sum(axis=1)
    return np.where(total > 0, 1 - 2 * (ordered @ weights) / np.where(total > 0, total, 1), 0)


def _moved(
    model: InsightModel, molecules: Molecules, name: str, rows: np.ndarray, others: np.ndarray
) -> dict[str, float]:
    if len(rows) < 2:
        return {"removed": float("nan"), "shuffled": float("nan")}
    present = molecules.present[rows]
    before = molecules.encoded(model, rows, present)
    without = present & (np.arange(len(molecules.modalities)) != molecules.column(name))
    values, masks = molecules.inputs(rows, present)
    wrong = {**values, name: molecules.values[name][others]}
    return {
        "removed": float(1 - row_cosines(before, molecules.encoded(model, rows, without)).mean()),
        "shuffled": float(1 - row_cosines(before, model.encode(wrong, masks)).mean()),
    }


def _others(number: int, seed: list[int]) -> np.ndarray:
    """For each of `number` molecules another one, every one used once: a cycle through them in random order."""
    order = np.random.default_rng(seed).permutation(number)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others
