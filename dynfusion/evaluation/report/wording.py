"""The report in words: one paragraph made from its numbers, and what its terms mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynfusion.evaluation.report.selection import (
    ALL_PRESENT,
    absent_column,
    best_row,
    cell_of,
    comparison,
    fused_lines,
    headline_scope,
    is_model,
    looked_into,
    main_table,
    matching,
    scope_name,
)
from dynfusion.evaluation.representations.features import (
    CONCAT_MEAN,
    CONCAT_RIDGE,
    FINGERPRINT,
    LATE_FUSION,
)
from dynfusion.page.blocks import number, signed, span

NAMES = {
    CONCAT_MEAN: "mean-imputed concatenation",
    CONCAT_RIDGE: "ridge-imputed concatenation",
    LATE_FUSION: "late fusion",
    FINGERPRINT: "ECFP",
}
METRIC_NAMES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "r2": "R²", "rmse": "RMSE", "spearman": "Spearman"}
SPLIT_NAMES = {
    "given": "the given split",
    "hashed": "a split by hash of the molecule's id",
    "scaffold": "the scaffold split",
    "scaffold-cv": "repeated scaffold-group cross-validation",
}
PROBE_NAMES = {"linear": "linear", "knn": "nearest neighbours", "boosting": "gradient boosting", "xgboost": "XGBoost"}
PROTOCOL_NAMES = {
    "random": "Hidden at random",
    "random-up-to": "Random, up to 25 %",
    "imbalanced": "One modality hidden often",
    "not-at-random": "Large molecules hidden more",
    "corrupted": "One modality swapped between molecules",
}
GLOSSARY = (
    (
        "ROC-AUC",
        "Chance that a random positive molecule is scored above a random negative one: 0.5 is guessing, 1 is perfect. "
        "Several labels: mean over those with both classes. Classes: mean of each against the rest.",
    ),
    ("PR-AUC", "Area under the precision-recall curve (average precision); guessing gives the share of positives."),
    ("R²", "Share of the labels' variance that is explained: 0 is a constant, 1 is perfect, negative is worse."),
    (
        "All present, one absent, ...",
        "How many modalities are hidden in the test molecules, averaged over every way of choosing them. “Any absent” "
        "averages over all of these subsets. Molecules lack some modalities by nature as well; these stay lacking.",
    ),
    (
        "Fused, projection-mean",
        "The fusion model's embedding of whatever is visible, and the plain mean of its projections without attention. "
        "The model never saw a label.",
    ),
    (
        "concat-mean, concat-ridge",
        "All modalities side by side; an invisible one is replaced by its mean, or by a linear prediction from the "
        "visible ones, fitted on molecules of the fusion model's pool (how many: under Choices of imputers).",
    ),
    ("late-fusion", "The mean prediction of one head per visible modality."),
    ("pca, random", "Mean-imputed concatenation on its main axes in the pool, or on random axes, as wide as fused."),
    ("ECFP", "Counts of circular substructures of the molecule itself; needs no modality, so that nothing is hidden."),
    (
        "Transferred, refitted",
        "A transferred head is fitted once on all that is present and used unchanged when modalities disappear. A "
        "refitted head is fitted anew on exactly the modalities that the test molecules show. For late fusion and ECFP "
        "the two are the same: none of their heads reads what may be absent.",
    ),
    (
        "Interval",
        "What remains when the test molecules are drawn again, many times. Differences are paired: both sides are "
        "scored on the same draws. With cross-validation a second interval, over folds, allows for training sets that "
        "overlap (Nadeau and Bengio 2003).",
    ),
    (
        "Bold, ≈",
        "Bold: the best of its column, and every paired interval of difference from another excludes zero. ≈: cannot "
        "be told apart from the best.",
    ),
    (
        "Relative and chance-corrected drop",
        "Per cent of the metric that is lost when something is absent, and per cent of what it was better than chance. "
        "From 0.80 to 0.70 ROC-AUC is 12.5 % of the metric and a third of what was above guessing.",
    ),
    (
        "Area, effective robustness, worst subset",
        "Mean metric over the share of absent modalities; how much less is lost than by late fusion; the visible "
        "modalities with which a representation does worst.",
    ),
    (
        "Shapley value",
        "What a modality adds to the metric, averaged over all orders in which modalities could arrive; they add up "
        "to the metric with all present less chance.",
    ),
    (
        "Realised rate",
        "Share of present cells that were really hidden. It is below the rate asked for, since one always stays.",
    ),
    (
        "Skill over mean, ridge, kNN",
        "1 − (squared error of the model / squared error of the rival). 1 is perfect, 0 is level, negative is worse. "
        "The rivals see the same modalities; they are fitted on molecules of the same pool (how many: under Choices of "
        "imputers).",
    ),
    (
        "Cosine and centred cosine",
        "Mean cosine between true and reconstructed embedding, raw and after the pool's mean is taken away. Raw cosine "
        "can be high for a constant.",
    ),
    ("Recall@1, recall@10, MRR", "How often the right one is first, or among ten; mean of one over its rank."),
    ("Uniformity", "How evenly embeddings spread on the sphere: 0 is one point, about −4 is evenly spread."),
    (
        "Attention entropy",
        "Of each molecule's attention (sample) and of the mean attention (marginal), 0 to 1. Both low: the same "
        "modality wins everywhere. Both high: plain averaging. Sample below marginal: molecules choose.",
    ),
    ("Effective rank, participation ratio", "How many directions the embeddings use."),
    ("Removed, shuffled", "How far the embedding moves (1 − cosine) when a modality is absent, or another molecule's."),
    ("Brier score, calibration error", "Squared error of the probabilities; how far they are from true frequencies."),
    ("Gate", "How far the model opens a modality's features, 0 to 1."),
)


def summary(report: Mapping[str, Any]) -> list[str]:
    """Plain sentences from the numbers, the headline first; none when there is nothing to compare."""
    table = main_table(report)
    ours = next(iter(fused_lines(report)), None)
    if table is None or ours is None:
        return []
    found = [
        *_absent(report, table, ours),
        *_present(report, table, ours),
        *_task_by_task(report, table, ours),
        *_reconstruction(report),
        *_one_modality(report, table, ours),
    ]
    return [sentence[0].upper() + sentence[1:] for sentence in found]


def verdict(found: Mapping[str, Any]) -> str:
    """ahead, behind or level."""
    return "level" if found["tie"] else "ahead" if found["difference"] > 0 else "behind"


def decisive_interval(found: Mapping[str, Any]) -> str:
    """The one over molecules; where only the one over training sets includes zero, that one, which decides."""
    over_molecules = span(found["low"], found["high"], sign=True)
    if not found["tie"] or found["fold_low"] is None or found["low"] <= 0 <= found["high"]:
        return over_molecules
    return f"{span(found['fold_low'], found['fold_high'], sign=True)} over training sets"


def named(name: str) -> str:
    """A representation in a sentence."""
    return NAMES.get(name, name)


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _absent(report: Mapping[str, Any], table: Mapping[str, Any], ours: str) -> list[str]:
    """With something absent: against the strongest rival, the imputed concatenations, and ECFP, which loses nothing."""
    if len(table["columns"]) < 2:
        return []
    column, task = absent_column(table["columns"]), headline_scope(report)
    rivals = [row["representation"] for row in table["rows"] if not is_model(row["representation"])]
    strongest = best_row(table, [name for name in rivals if name != FINGERPRINT], column)
    order = dict.fromkeys([*([strongest] if strongest else []), CONCAT_RIDGE, CONCAT_MEAN, FINGERPRINT])
    records = [record for name in order if (record := comparison(report, name, column, ours=ours, task=task))]
    if not records:
        return []
    where = f"When modalities are missing ({scope_name(report, task, table['tasks'])})"
    first = f"{where}, {_difference(records[0], ours, table['metric'])}"
    strong = f", its strongest rival there ({_pair(table, ours, records[0]['against'], column)})"
    return [f"{first}{strong}.", *([f"There {_chain(ours, records[1:])}."] if records[1:] else [])]


def _present(report: Mapping[str, Any], table: Mapping[str, Any], ours: str) -> list[str]:
    task = headline_scope(report)
    rivals = [row["representation"] for row in table["rows"] if not is_model(row["representation"])]
    projected = [name for name in rivals if name.startswith("pca-")]
    strongest = best_row(table, rivals, ALL_PRESENT)
    order = dict.fromkeys([*([strongest] if strongest else []), CONCAT_MEAN, *projected, FINGERPRINT])
    records = [record for name in order if (record := comparison(report, name, ALL_PRESENT, ours=ours, task=task))]
    if not records:
        return []
    widths = report["dims"].get(ours), report["dims"].get(CONCAT_MEAN)
    size = f" ({widths[0]} dimensions against {widths[1]} of the concatenation)" if all(widths) else ""
    return [f"With all modalities present{size}, {_chain(ours, records)}."]


def _task_by_task(report: Mapping[str, Any], table: Mapping[str, Any], ours: str) -> list[str]:
    if table["task"] is not None or len(table["columns"]) < 2:
        return []
    column = absent_column(table["columns"])
    sides: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for task in table["tasks"]:
        record = comparison(report, CONCAT_RIDGE, column, ours=ours, task=task)
        if record is not None and record["difference"] is not None:
            sides[verdict(record)].append(task)
    said = [f"{side} on {listed(names)}" for side, names in sides.items() if names]
    if not said:
        return []
    return [f"Task by task against ridge-imputed concatenation with something missing, {ours} is {listed(said)}."]


def _reconstruction(report: Mapping[str, Any]) -> list[str]:
    known = [r for r in report["reconstruction"] if r.get("skill_ridge_low") is not None]
    if not known:
        return []
    better = sum(record["skill_ridge_low"] > 0 for record in known)
    worse = sum(record["skill_ridge_high"] < 0 for record in known)
    ours = looked_into(report) or "the model"
    return [
        f"Filling in absent embeddings, {ours} has a smaller squared error than ridge regression from the same "
        f"modalities in {better} of {len(known)} cases, a larger one in {worse} and a level one in "
        f"{len(known) - better - worse}."
    ]


def _one_modality(report: Mapping[str, Any], table: Mapping[str, Any], ours: str) -> list[str]:
    """What to compute if only one can be afforded, and what the others would add."""
    singles, task = list(report["modalities"]), headline_scope(report)
    best = best_row(table, singles, ALL_PRESENT)
    if best is None or len(singles) < 2:
        return []
    chosen = cell_of(table, best, ALL_PRESENT)
    assert chosen is not None
    others = {name: cell for name in singles if name != best and (cell := cell_of(table, name, ALL_PRESENT))}
    near = [name for name, cell in others.items() if cell["high"] is not None and cell["high"] >= (chosen["low"] or 0)]
    metric = METRIC_NAMES[table["metric"]]
    text = f"If you can afford only one modality, compute {best}: alone it reaches {number(chosen['value'])} {metric}"
    text += f" ({span(chosen['low'], chosen['high'])})"
    if near:
        text += (
            f"; the interval of {listed(near)} overlaps, so the choice is not sure"
            if len(near) == 1
            else (f"; the intervals of {listed(near)} overlap with it, so the choice is not sure")
        )
    record = comparison(report, best, ALL_PRESENT, ours=ours, task=task)
    if record is not None and record["difference"] is not None:
        text += f". Computing all {len(singles)} and fusing them is worth {signed(record['difference'])} "
        text += f"({decisive_interval(record)}){', which cannot be told from nothing' if record['tie'] else ''}"
    return [f"{text}.", *_most_valuable(report, ours, task)]


def _most_valuable(report: Mapping[str, Any], ours: str, task: str | None) -> list[str]:
    found = matching(report["modality_value"], section="folds", task=task, representation=ours)
    known = sorted((r for r in found if r["shapley"] is not None), key=lambda record: -record["shapley"])
    if len(known) < 2:
        return []
    parts = [f"{record['modality']} {number(record['shapley'])}" for record in known]
    sure = known[0]["low"] is not None and known[1]["high"] is not None and known[0]["low"] > known[1]["high"]
    doubt = "" if sure else ", with intervals that overlap"
    return [f"Inside {ours}, {known[0]['modality']} adds most (Shapley values: {listed(parts)}{doubt})."]


def _difference(found: Mapping[str, Any], ours: str, metric: str) -> str:
    if found["difference"] is None or found["low"] is None:
        return f"{ours} cannot be compared with {named(found['against'])}"
    side, other = verdict(found), named(found["against"])
    if side == "level":
        size = f"difference {signed(found['difference'])}, {decisive_interval(found)}"
        return f"{ours} is not told apart from {other} ({size})"
    verb = "beats" if side == "ahead" else "loses to"
    size = number(abs(found["difference"]))
    return f"{ours} {verb} {other} by {size} {METRIC_NAMES[metric]} ({decisive_interval(found)})"


def _chain(ours: str, records: Sequence[Mapping[str, Any]]) -> str:
    """One clause for several rivals, those it beats first."""
    known = [record for record in records if record["difference"] is not None]
    words = {"ahead": "beats", "level": "is not told apart from", "behind": "loses to"}
    parts = []
    for side, verb in words.items():
        of_side = [r for r in known if verdict(r) == side]
        if of_side:
            names = [f"{named(r['against'])} ({signed(r['difference'])})" for r in of_side]
            parts.append(f"{verb} {listed(names)}")
    return f"{ours} {listed(parts)}" if parts else f"{ours} cannot be compared"


def _pair(table: Mapping[str, Any], ours: str, other: str, column: str) -> str:
    first, second = cell_of(table, ours, column), cell_of(table, other, column)
    values = [number(cell["value"] if cell else None) for cell in (first, second)]
    return f"{values[0]} against {values[1]}"
