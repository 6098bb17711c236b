"""Sections about the embedding itself: reconstruction, attention, alignment, signs of collapse."""

from collections.abc import Iterable, Mapping, Sequence

from dynfusion.evaluation.report import plots_results as plots
from dynfusion.evaluation.report.selection import Record, Report, average, looked_into
from dynfusion.page.blocks import (
    Block,
    Cell,
    Figures,
    Fold,
    Group,
    Row,
    Section,
    Table,
    Text,
    one_group,
    plain,
    with_interval,
)

RECONSTRUCTION = (
    ("cosine", "Raw cosine"),
    ("centred_cosine", "Centred cosine"),
    ("r2", "R²"),
    ("skill_mean", "Skill over mean"),
    ("skill_ridge", "Skill over ridge"),
    ("skill_knn", "Skill over kNN"),
    ("recall_1", "Recall@1"),
    ("ridge_recall_1", "Recall@1 of ridge"),
    ("recall_10", "Recall@10"),
    ("mrr", "MRR"),
    ("mrr_over_ridge", "MRR over ridge"),
)
ENTROPIES = (
    ("sample_entropy", "Sample entropy"),
    ("marginal_entropy", "Marginal entropy"),
    ("mutual_information", "Mutual information"),
    ("effective_rank", "Effective rank"),
    ("participation_ratio", "Participation ratio"),
)
INFLUENCE = (
    ("removed", "Moved when removed"),
    ("shuffled", "Moved when shuffled"),
    ("gate_mean", "Gate mean"),
    ("gate_open", "Above ½"),
    ("gate_closed", "Below 1/20"),
    ("gate_gini", "Gini"),
    ("gate_deviation", "Deviation over molecules"),
)


def joined(subset: Iterable[str]) -> str:
    """A subset in words."""
    return " + ".join(subset)


def mean_records(records: Sequence[Record], keys: Sequence[str], place: Sequence[str]) -> list[dict[str, object]]:
    """One record for every place (such as target and visible subset), the mean over tasks; no intervals."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(repr([record[name] for name in place]), []).append(record)
    return [
        {**{name: found[0][name] for name in place}, **{key: average(r.get(key) for r in found) for key in keys}}
        for found in groups.values()
    ]


def by_task(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each task."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["task"], []).append(record)
    return found


def reconstruction(report: Report) -> list[Section]:
    """Figure 3."""
    records = report["reconstruction"]
    if not records:
        return []
    tasks = by_task(records)
    keys = [key for key, _ in RECONSTRUCTION]
    scopes: dict[str, Sequence[Record]] = dict(tasks)
    if len(tasks) > 1:
        scopes = {f"mean over {len(tasks)} tasks": mean_records(records, keys, ("target", "visible")), **tasks}
    figures = [(_figures(found, name), name) for name, found in scopes.items()]
    blocks: list[Block] = [
        *_whose(report),
        Text(
            "From every visible subset to every modality outside it, on test molecules that really have it. Raw cosine "
            "(the paper’s Figure 3) stands beside the centred one, because a constant can score high in the first. "
            "Skill: the share of each rival’s squared error that the model avoids; right of the line it is better."
        ),
        figures[0][0],
        *([Fold("Figures for each task", tuple(found for found, _ in figures[1:]))] if len(figures) > 1 else []),
    ]
    tables = tuple(Fold(name[0].upper() + name[1:], (_reconstruction_table(found),)) for name, found in scopes.items())
    return [
        Section(
            "reconstruction",
            "Figure 3: reconstruction of absent modalities",
            (*blocks, Fold("Numbers and retrieval", tables)),
            "Figure 3",
        )
    ]


def _figures(records: Sequence[Record], name: str) -> Figures:
    both = ((plots.cosines, "Cosines"), (plots.skills, "Skill"))
    return Figures(
        tuple((draw(records, title=f"{what}: {name}"), f"{what} of reconstructions, {name}") for draw, what in both)
    )


def _reconstruction_table(records: Sequence[Record]) -> Table:
    groups: dict[str, list[Row]] = {}
    for record in records:
        cells = [with_interval(record, key) for key, _ in RECONSTRUCTION]
        sizes = [Cell(str(record[key]) if key in record else "") for key in ("molecules", "candidates")]
        groups.setdefault(record["target"], []).append(Row(f"from {joined(record['visible'])}", (*cells, *sizes)))
    columns = ("Target", *(title for _, title in RECONSTRUCTION), "Molecules", "Candidates")
    return Table(columns, tuple(Group(name, tuple(rows)) for name, rows in groups.items()))


def inside(report: Report) -> list[Section]:
    """Attention by task, alignment, collapse."""
    modalities = report["modalities"]
    collapse = [record for record in report["collapse"] if "attention" in record]
    influence = [record for record in report["collapse"] if "gate_mean" in record]
    aligned = [record for record in report["alignment"] if "cosine" in record]
    crossed = [record for record in report["alignment"] if "query" in record]
    blocks: list[Block] = [
        *(_attention(collapse, modalities)),
        *(_collapse(collapse, influence) if collapse else []),
        *(_alignment(aligned, crossed, modalities) if aligned else []),
    ]
    return [Section("inside", "Inside the embedding", (*_whose(report), *blocks), "Inside")] if blocks else []


def _whose(report: Report) -> list[Block]:
    """Says whose embeddings these are where there are several models or training runs."""
    of = looked_into(report)
    return [Text(f"Of {of}, and of no other.", note=True)] if of else []


def _attention(records: Sequence[Record], modalities: Sequence[str]) -> list[Block]:
    whole = [(r["task"], r["attention"]) for r in records if len(r["visible"]) == len(modalities)]
    if not whole:
        return []
    legend = tuple(enumerate(modalities))
    plot = (plots.attention(whole, modalities), "Mean attention of every modality by task")
    text = Text("Mean attention by task, where a modality is visible beside another. The dashed line is equal shares.")
    return [text, Figures((plot,), legend, solid=True)]


def _collapse(collapse: Sequence[Record], influence: Sequence[Record]) -> list[Block]:
    most = max(len(record["visible"]) for record in collapse)
    whole = [record for record in collapse if len(record["visible"]) == most]
    rows = [
        Row(r["task"], tuple(plain(r.get(key), 1 if "ra" in key[-5:] else 3) for key, _ in ENTROPIES)) for r in whole
    ]
    first = Table(("Task", *(title for _, title in ENTROPIES)), one_group(rows))
    every = [Fold(task, (_entropy_table(found),)) for task, found in by_task(collapse).items()]
    blocks: list[Block] = [
        Text(
            "Signs of collapse, all present. Sample and marginal entropy both low: one modality wins everywhere. Both "
            "high: plain averaging."
        ),
        first,
        Fold("Every subset", tuple(every)),
    ]
    if influence:
        groups = [
            Group(task, tuple(Row(r["modality"], tuple(plain(r.get(key)) for key, _ in INFLUENCE)) for r in found))
            for task, found in by_task(influence).items()
        ]
        table = Table(("Modality", *(title for _, title in INFLUENCE)), tuple(groups))
        blocks.append(Fold("Gates, and what happens when a modality is removed or shuffled", (table,)))
    return blocks


def _entropy_table(records: Sequence[Record]) -> Table:
    rows = [
        Row(
            joined(r["visible"]),
            tuple(
                plain(r.get(key), 1 if key in ("effective_rank", "participation_ratio") else 3) for key, _ in ENTROPIES
            ),
        )
        for r in records
    ]
    return Table(("Visible", *(title for _, title in ENTROPIES)), one_group(rows))


def _alignment(aligned: Sequence[Record], crossed: Sequence[Record], modalities: Sequence[str]) -> list[Block]:
    tasks = by_task(aligned)
    blocks: list[Block] = [
        Text(
            "Alignment: mean cosine of the fused embedding with each modality’s projection, shown or not; in brackets "
            "that with other molecules’. Recall: whether a subset’s embedding finds that of everything."
            + (f" Mean over {len(tasks)} tasks." if len(tasks) > 1 else "")
        ),
        _alignment_table([_mean_alignment(found, modalities) for found in _by_subset(aligned)], modalities),
    ]
    if len(tasks) > 1:
        folds = [Fold(task, (_alignment_table(found, modalities),)) for task, found in tasks.items()]
        blocks.append(Fold("Each task", tuple(folds)))
    if crossed:
        keys = ("recall_1", "recall_10", "mrr")
        mean = mean_records(crossed, keys, ("query", "answer"))
        rows = [Row(f"{r['query']} → {r['answer']}", tuple(plain(r[key]) for key in keys)) for r in mean]  # type: ignore[arg-type]
        blocks.append(
            Fold(
                "Retrieval from one modality to another",
                (Table(("From → to", "Recall@1", "Recall@10", "MRR"), one_group(rows)),),
            )
        )
    return blocks


def _by_subset(records: Sequence[Record]) -> list[list[Record]]:
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record["visible"]), []).append(record)
    return list(found.values())


def _mean_alignment(records: Sequence[Record], modalities: Sequence[str]) -> Record:
    flat = {key: average(r.get(key) for r in records) for key in ("uniformity", "recall_1", "recall_10")}
    nested = {
        key: {m: average(r[key].get(m) for r in records) for m in modalities} for key in ("cosine", "cosine_others")
    }
    return {"visible": records[0]["visible"], **flat, **nested}


def _alignment_table(records: Iterable[Record], modalities: Sequence[str]) -> Table:
    rows = []
    for record in records:
        others: Mapping[str, float | None] = record.get("cosine_others", {})
        near = [
            Cell(plain(record["cosine"].get(m), 2).text, (f"({plain(others.get(m), 2).text})",)) for m in modalities
        ]
        rest = [plain(record.get("uniformity"), 2), plain(record.get("recall_1")), plain(record.get("recall_10"))]
        rows.append(Row(joined(record["visible"]), (*near, *rest)))
    columns = ("Visible", *(f"to {name}" for name in modalities), "Uniformity", "Recall@1", "Recall@10")
    return Table(columns, one_group(rows))
