"""The protocol: who is fitted on what, and the table of independent cell groups.

    fusion model   trained on the pool, without labels; frozen here
    statistics     mean and std of every modality over the pool's training rows (they come with the model)
    imputers, PCA  pool rows (at most `imputers.pool_rows`), penalty chosen on held rows; never see a task
    C, k, ...      one grid for all; chosen once for every task, representation and probe on the first fold's training
                   (and validation) rows with nothing hidden
    scaler, head   training rows of the fold; a row in which the representation has nothing visible is left out
    test rows      all of them, always, whatever is hidden. A molecule of which nothing can be said gets the share of
                   each class (the mean label) among all labelled training rows, the same number for every
                   representation, and is counted (`unscored`)

    section    split     probes          contestants                heads                       test rows
    folds      folds     linear          all                        on all that is present      every subset
                                         fused, two imputed ones    on the subset that is scored
    given      given     linear          all, ablations             on all that is present      every subset
    probes     given     the others      those of the narrow list   on all that is present      every subset
    hiding     given     linear          those that take any gap    on all that is present      random, imbalanced, ...
    training   given     linear          fused, two imputed ones    on rows with random gaps    random rates

To add a representation, edit representations/table.py; a way of hiding, hiding/patterns.py; a metric,
scores/metrics.py; a probe, probes/probe.py; a section, the functions below.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynfusion.evaluation.hiding.patterns import (
    Pattern,
    all_subsets,
    complete,
    corrupted,
    imbalanced,
    not_at_random,
    random_rates,
    subsets,
)
from dynfusion.evaluation.probes.probe import available_probes
from dynfusion.evaluation.protocol.groups import Fitting
from dynfusion.evaluation.representations.features import (
    CONCAT_MEAN,
    CONCAT_RIDGE,
    FINGERPRINT,
    LATE_FUSION,
    Contestant,
)
from dynfusion.evaluation.settings import EvaluationSettings, HidingSettings

LINEAR = "linear"
IMPUTED = (CONCAT_MEAN, CONCAT_RIDGE)


@dataclass(frozen=True)
class Part:
    """Some groups of one task that differ by fold only."""

    section: str
    given: bool
    """On the given split, else on the folds."""
    contestant: Contestant
    probe: str
    fitting: Fitting
    fit: Pattern
    patterns: tuple[Pattern, ...]
    complete_rows: bool = False


def parts(
    modalities: tuple[str, ...],
    rivals: Sequence[Contestant],
    models: Sequence[Contestant],
    ablations: Sequence[Contestant],
    *,
    settings: EvaluationSettings,
    sizes: bool = True,
) -> list[Part]:
    """Everything that is fitted on one task, in the order of the report; `sizes`: whether its molecules' are known."""
    everyone = [*rivals, *models]
    narrow = [one for one in everyone if one.model or one.name in (*modalities, *IMPUTED, LATE_FUSION, FINGERPRINT)]
    flexible = [one for one in everyone if one.covers(modalities[:1]) and one.covers(modalities[-1:])]
    main = [one for one in everyone if one.model or one.name in IMPUTED]
    folded = settings.extent != "quick" and settings.split.kind != "given"
    found = [*_transferred("folds", not folded, everyone, modalities)]
    removed = _transferred("given" if folded else "folds", True, ablations, modalities)
    if settings.extent == "quick":
        return [*found, *removed]
    found += _refitted("folds", not folded, everyone if settings.extent == "full" else main, modalities)
    if folded:
        found += _transferred("given", True, everyone, modalities)
    found += removed
    wide = settings.extent == "full"
    for probe in available_probes():
        if probe != LINEAR:
            chosen = everyone if wide else narrow
            found += _transferred("probes", not (wide and folded), chosen, modalities, probe=probe)
    found += _hiding(not (wide and folded), flexible, modalities, settings.hiding, sizes=sizes)
    return [*found, *_training(not (wide and folded), main, modalities, settings.hiding)]


def _transferred(
    section: str, given: bool, contestants: Sequence[Contestant], modalities: tuple[str, ...], probe: str = LINEAR
) -> Iterator[Part]:
    for one in contestants:
        patterns = tuple(
            pattern
            for pattern in all_subsets(modalities)
            if pattern.visible == modalities or one.covers(pattern.visible)
        )
        yield Part(section, given, one, probe, "transferred", complete(modalities), patterns)


def _refitted(
    section: str, given: bool, contestants: Sequence[Contestant], modalities: tuple[str, ...]
) -> Iterator[Part]:
    for one in contestants:
        for chosen in subsets(modalities)[1:]:
            if one.covers(chosen):
                pattern = Pattern("subset", chosen)
                yield Part(section, given, one.showing(chosen), LINEAR, "refitted", pattern, (pattern,))


def _hiding(
    given: bool,
    contestants: Sequence[Contestant],
    modalities: tuple[str, ...],
    how: HidingSettings,
    *,
    sizes: bool,
) -> Iterator[Part]:
    patterns = (
        *random_rates(modalities, (0.0, *how.rates), how.draws),
        *imbalanced(modalities, how.draws),
        *(not_at_random(modalities, how.rates, how.draws) if sizes else ()),
        *corrupted(modalities),
    )
    for one in contestants:
        yield Part("hiding", given, one, LINEAR, "transferred", complete(modalities), patterns)


def _training(
    given: bool, contestants: Sequence[Contestant], modalities: tuple[str, ...], how: HidingSettings
) -> Iterator[Part]:
    """Heads on training rows with gaps; the concatenations also on those rows alone that have none."""
    patterns = tuple(random_rates(modalities, (0.0, *how.rates), 1))
    for rate in how.training_rates:
        fit = Pattern("random", modalities, rate, 0)
        for one in contestants:
            yield Part("training", given, one, LINEAR, "missing-while-training", fit, patterns)
            if one.name in IMPUTED:
                yield Part("training", given, one, LINEAR, "missing-while-training", fit, patterns, complete_rows=True)
