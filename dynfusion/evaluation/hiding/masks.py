"""From a pattern to what some molecules show: visible cells, and which modality holds foreign values."""

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dynfusion.evaluation.hiding.patterns import OFTEN, SELDOM, Pattern
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.fusion.masking import uniform


@dataclass(frozen=True)
class Shown:
    """What is looked at: rows of a task, and of each which modalities."""

    rows: Int[np.ndarray, " rows"]
    visible: Bool[np.ndarray, "rows modalities"]
    corrupted: str | None = None
    """The modality whose values are those of other molecules, if any."""

    def hidden_share(self, present: Bool[np.ndarray, "all modalities"]) -> float:
        """Share of the present cells of these rows that are hidden, 0..1; NaN where nothing is present."""
        cells = int(present[self.rows].sum())
        return 1 - float(self.visible.sum()) / cells if cells else float("nan")


def show(pattern: Pattern, task: TaskData, rows: Int[np.ndarray, " rows"]) -> Shown:
    """The rows under a pattern: visible = present and not hidden."""
    present = task.present[rows]
    if pattern.protocol in ("subset", "corrupted"):
        return Shown(rows, present & np.isin(task.modalities, pattern.visible), pattern.target)
    draws = _draws(pattern, task.ids[rows], len(task.modalities))
    return Shown(rows, present & ~hide(present, _rates(pattern, task, rows), draws))


def visible_mask(
    shown: tuple[str, ...], present: Bool[np.ndarray, "rows modalities"], *, modalities: tuple[str, ...]
) -> Bool[np.ndarray, "rows modalities"]:
    """What is present and among the modalities that are shown."""
    return present & np.isin(modalities, shown)


def hide(
    present: Bool[np.ndarray, "rows modalities"],
    rates: Float[np.ndarray, "rows modalities"],
    draws: Float[np.ndarray, "rows modalities"],
) -> Bool[np.ndarray, "rows modalities"]:
    """Independent hiding with the given chances (below 1), exactly conditional on one present cell staying visible.

    While nothing of a row is kept yet, the chance to hide is taken given that something will be: r (1 - L) / (1 - r L)
    with L the product of the chances of the later present cells.
    """
    chances = np.where(present, rates, 1.0)
    hidden = np.zeros_like(present)
    kept = np.zeros(len(present), dtype=bool)
    for column in range(present.shape[1]):
        later = chances[:, column + 1 :].prod(axis=1)
        rate = chances[:, column]
        given = rate * (1 - later) / np.maximum(1 - rate * later, np.finfo(float).tiny)
        hidden[:, column] = present[:, column] & (draws[:, column] < np.where(kept, rate, given))
        kept |= present[:, column] & ~hidden[:, column]
    return hidden


def _rates(pattern: Pattern, task: TaskData, rows: np.ndarray) -> np.ndarray:
    rates = np.full((len(rows), len(task.modalities)), pattern.rate, dtype=np.float64)
    if pattern.protocol == "imbalanced":
        return np.where(np.array(task.modalities) == pattern.target, OFTEN, np.full_like(rates, SELDOM))
    if pattern.protocol == "not-at-random":
        order = np.lexsort((task.ids, molecule_sizes(task)))
        rank = np.empty(len(order))
        rank[order] = (np.arange(len(order)) + 0.5) / len(order)
        return 2 * rates * rank[rows][:, None]
    return rates


def molecule_sizes(task: TaskData) -> Int[np.ndarray, " rows"]:
    """Heavy atoms of every molecule where they are known, else the length of its SMILES."""
    return task.structure.heavy_atoms if task.structure is not None else np.char.str_len(task.smiles)


def _draws(pattern: Pattern, ids: np.ndarray, modalities: int) -> np.ndarray:
    """Uniform numbers [rows, modalities] from the ids."""
    numbers = [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True) for name in ids
    ]
    words = torch.tensor(numbers, dtype=torch.int64)
    seed = zlib.crc32(repr((pattern.protocol, pattern.rate, pattern.target)).encode())
    return np.stack([uniform(seed, pattern.draw or 0, words, stream).numpy() for stream in range(modalities)], axis=1)


def donors(task: TaskData, modality: str) -> Int[np.ndarray, " rows"]:
    """For every row another molecule of the task that has the modality, each of them once; itself where it is absent.

    A fixed shuffled cycle: nobody keeps his own values while there are two.
    """
    rows = np.flatnonzero(task.present[:, task.modalities.index(modality)])
    shuffled = np.random.default_rng(zlib.crc32(f"{task.name}|{modality}".encode())).permutation(rows)
    given = np.arange(len(task.ids))
    given[shuffled] = np.roll(shuffled, 1)
    return given
