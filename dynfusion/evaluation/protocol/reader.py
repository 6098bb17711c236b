"""A contestant with its fitted heads: from what is shown to a prediction for every molecule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dynfusion.evaluation.hiding.masks import Shown, show
from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.probes.labelled import Labelled, probe_task
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.probe import PROBES, Head
from dynfusion.evaluation.representations.features import Contestant, Representation
from dynfusion.evaluation.settings import ProbeSettings
from dynfusion.evaluation.tasks.task import TaskData


@dataclass(frozen=True)
class Reader:
    """Heads of a contestant's members; what no member can say has the training prior."""

    members: tuple[Representation, ...]
    heads: tuple[Head | None, ...]
    """None for a member that too few training rows show: it says nothing."""
    prior: Float[np.ndarray, " outputs"]

    def scores(
        self, task: TaskData, shown: Shown
    ) -> tuple[Float[np.ndarray, "rows outputs"], Bool[np.ndarray, " rows"]]:
        """Mean prediction over the usable members, and which rows had one."""
        total = np.zeros((len(shown.rows), len(self.prior)))
        votes = np.zeros(len(shown.rows), dtype=int)
        for member, head in zip(self.members, self.heads, strict=True):
            if head is None:
                continue
            found = member.features(task, shown)
            if found.usable.any():
                total[found.usable] += head.scores(found.values[found.usable])
            votes += found.usable
        said = votes > 0
        return np.where(said[:, None], total / np.maximum(votes, 1)[:, None], self.prior), said


def labelled(member: Representation, task: TaskData, shown: Shown) -> Labelled:
    """Features and labels of the rows that have both something visible and a label."""
    found = member.features(task, shown)
    labels = task.labels[shown.rows]
    rows = found.usable & ~np.isnan(labels).all(axis=1)
    return found.values[rows], labels[rows]


def choose(
    member: Representation, task: TaskData, *, probe: str, seed: int, settings: ProbeSettings
) -> dict[str, float]:
    """Hyper-parameters of a probe on one representation, from training and validation rows with nothing hidden."""
    train, valid = (
        labelled(member, task, show(Pattern("subset", task.modalities), task, task.rows(part)))
        for part in ("train", "valid")
    )
    return PROBES[probe].choose(train, valid, target=probe_task(task), seed=seed, settings=settings)


def fit_reader(
    contestant: Contestant,
    task: TaskData,
    shown: Shown,
    *,
    probe: str,
    chosen: Sequence[Mapping[str, float]],
    seed: int,
    settings: ProbeSettings,
) -> Reader:
    """Heads fitted on the shown training rows, one for every member, with the hyper-parameters chosen before.

    A member of which fewer labelled rows than inner folds show something has no head, so that its molecules have the
    training prior and are counted as such.
    """
    heads: list[Head | None] = []
    for member, how in zip(contestant.members, chosen, strict=True):
        train = labelled(member, task, shown)
        if len(train[1]) < settings.folds:
            heads.append(None)
            continue
        heads.append(PROBES[probe].fit(train, target=probe_task(task), chosen=how, seed=seed, settings=settings))
    return Reader(contestant.members, tuple(heads), prior(task.labels[task.rows("train")], probe_task(task)))
