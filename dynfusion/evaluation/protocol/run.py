"""One group of cells: fit its head, score the test rows under every pattern, resample the metrics."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.hiding.masks import Shown, show
from dynfusion.evaluation.probes.generalised_linear import UnconvergedWarning
from dynfusion.evaluation.protocol.groups import PROBE_SEED, CellGroup, GroupResult
from dynfusion.evaluation.protocol.reader import fit_reader
from dynfusion.evaluation.representations.features import Contestant
from dynfusion.evaluation.scores.metrics import metrics_of
from dynfusion.evaluation.scores.resampling import metrics_resamples
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.splits import Fold
from dynfusion.evaluation.tasks.task import TaskData


def run_group(
    group: CellGroup,
    task: TaskData,
    fold: Fold,
    contestant: Contestant,
    chosen: Sequence[Mapping[str, float]],
    counts: UInt8[np.ndarray, "molecules resamples"],
    settings: EvaluationSettings,
) -> GroupResult:
    """Same bytes on any number of cores. `task` is in standardised units, `counts` are those of all its molecules."""
    with threadpool_limits(limits=1):
        here = fold.of(task)
        shown = show(group.fit, here, here.rows("train"))
        if group.complete_rows:
            whole = shown.visible.all(axis=1)
            shown = Shown(shown.rows[whole], shown.visible[whole])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UnconvergedWarning)
            reader = fit_reader(
                contestant, here, shown, probe=group.probe, chosen=chosen, seed=PROBE_SEED, settings=settings.probe
            )
        unconverged = sum(issubclass(one.category, UnconvergedWarning) for one in told)
        test = here.rows("test")
        scores, unscored, hidden = [], [], []
        for pattern in group.patterns:
            look = show(pattern, here, test)
            score, said = reader.scores(here, look)
            scores.append(score)
            unscored.append(int((~said).sum()))
            hidden.append(look.hidden_share(here.present))
        metrics = metrics_of(task.kind)
        found = [metrics_resamples(metrics, score, here.labels[test], counts[test]) for score in scores]
        resampled = {metric: np.stack([by_metric[metric] for by_metric in found]) for metric in metrics}
    by_member = {member.name: dict(how) for member, how in zip(contestant.members, chosen, strict=True)}
    return GroupResult(group, np.stack(scores), resampled, tuple(unscored), tuple(hidden), by_member, unconverged)
