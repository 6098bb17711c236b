"""Whether the fused embedding stays one place whatever is visible: the paper claims it and shows nothing.

    visible subset S --> z_S --cosine--> projection p_m of every modality the molecule has, shown or not
                          |---nearest--> z of everything     retrieval
                          \\--spread----> uniformity on the unit sphere
    p_a --nearest--> p_b of the same molecule                cross-modal retrieval

A high cosine alone says nothing, since one shared direction gives it to any two molecules: `cosine_others` is that
between a molecule's z and the projections of the others.

Source: uniformity by Wang and Isola, ICML 2020, arXiv:2005.10242, t = 2, over distinct pairs.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.insight.molecules import InsightModel, Molecules, Record, scored_molecules
from dynfusion.evaluation.insight.retrieval import ranks, row_cosines, unit
from dynfusion.evaluation.settings import InsightSettings
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread

TEMPERATURE = 2.0
_ROWS_AT_ONCE = 1024


def alignment_records(model: InsightModel, task: TaskData, *, settings: InsightSettings) -> list[Record]:
    """One record for every visible subset of a task in original units, over its `molecules` that show something.

    `cosine`: by modality the mean cosine of z with its projection, over molecules that have it, -1..1; `cosine_others`:
    the same with the projections of other molecules. `uniformity`: log mean exp(-2 |a - b|^2) over pairs of z on the
    unit sphere; 0 when all have collapsed, about -4 when evenly spread in many dimensions. `recall_1`, `recall_10` and
    `mrr`, 0..1: whether z finds the z of the molecule's all modalities among `candidates`; `queries` are the molecules
    that hide something (all of them for the complete subset, where only twins are confused). NaN where nothing counts.
    """
    with one_thread():
        molecules = scored_molecules(task, settings.candidates)
        every = np.arange(len(molecules.present))
        everything = molecules.encoded(model, every, molecules.present)
        projections = model.projections(*molecules.inputs(every, molecules.present))
        records: list[Record] = []
        for shown in subsets(task.modalities):
            visible = molecules.visible(shown)
            rows = np.flatnonzero(visible.any(axis=1))
            fused = molecules.encoded(model, rows, visible[rows])
            hiding = (molecules.present[rows] & ~visible[rows]).any(axis=1) | (len(shown) == len(task.modalities))
            records.append(
                {
                    "task": task.name,
                    "visible": list(shown),
                    "molecules": len(rows),
                    **_closeness(molecules, rows, fused, projections),
                    "uniformity": uniformity(fused),
                    **ranks(fused[hiding], everything, own=rows[hiding]).summary(),
                }
            )
        return records


def cross_modal_records(model: InsightModel, task: TaskData, *, settings: InsightSettings) -> list[Record]:
    """One record for every ordered pair of modalities: whether a molecule's projection of one finds that of the other.

    `recall_1`, `recall_10` and `mrr` as in `alignment_records`, among the molecules that have both.
    """
    with one_thread():
        molecules = scored_molecules(task, settings.candidates)
        every = np.arange(len(molecules.present))
        projections = model.projections(*molecules.inputs(every, molecules.present))
        records: list[Record] = []
        for query in task.modalities:
            for answer in (name for name in task.modalities if name != query):
                both = molecules.present[:, [molecules.column(query), molecules.column(answer)]].all(axis=1)
                found = ranks(projections[query][both], projections[answer][both], own=np.arange(both.sum()))
                records.append({"task": task.name, "query": query, "answer": answer, **found.summary()})
        return records


def uniformity(vectors: Float[np.ndarray, "rows dim"]) -> float:
    """log of the mean of exp(-2 |a - b|^2) over pairs of different rows, each at length 1; -8..0, NaN below two rows.

    0 when all are one point; for points drawn evenly from the sphere in d dimensions about -4 + 8 / d.
    """
    if len(vectors) < 2:
        return math.nan
    points = unit(vectors)
    total = 0.0
    for start in range(0, len(points), _ROWS_AT_ONCE):
        block = points[start : start + _ROWS_AT_ONCE]
        kernel = block @ points[start:].T
        kernel -= 1
        kernel *= 2 * TEMPERATURE
        np.exp(kernel, out=kernel)
        square = kernel[:, : len(block)]
        within = square.sum(dtype=np.float64) - np.trace(square, dtype=np.float64)
        total += within / 2 + kernel[:, len(block) :].sum(dtype=np.float64)
    return math.log(total / (len(points) * (len(points) - 1) / 2))


def _closeness(
    molecules: Molecules, rows: np.ndarray, fused: np.ndarray, projections: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Mean cosine of z with the own projection and with those of others, by modality."""
    own, others = {}, {}
    for column, name in enumerate(molecules.modalities):
        there = molecules.present[rows, column]
        number = int(there.sum())
        first, second = fused[there], projections[name][rows[there]]
        same = row_cosines(first, second).sum()
        crossed = unit(first.astype(np.float64)).sum(axis=0) @ unit(second.astype(np.float64)).sum(axis=0)
        own[name] = float(same / number) if number else math.nan
        others[name] = float((crossed - same) / (number * (number - 1))) if number > 1 else math.nan
    return {"cosine": own, "cosine_others": others}
