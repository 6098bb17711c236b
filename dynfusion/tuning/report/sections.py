"""The page of a sweep in sections: best settings, what matters, every trial, what was spent."""

from itertools import combinations
from typing import Any

from dynfusion.page.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Figures,
    Fold,
    Row,
    Section,
    Table,
    Terms,
    Text,
    Tone,
    number,
    one_group,
    signed,
    span,
    with_interval,
)
from dynfusion.tuning.records import DEFAULT, Distribution
from dynfusion.tuning.report import plots_settings, plots_trials
from dynfusion.tuning.report.sections_trials import compute, failures, trials
from dynfusion.tuning.report.wording import (
    DIGITS,
    GLOSSARY,
    Record,
    Report,
    compared,
    luck,
    objective_names,
    settings_text,
    shown,
    trial_of,
)

TONES: dict[str, Tone] = {"ahead": "ahead", "behind": "behind", "level": "level", "unknown": ""}
READING = (
    "Below each value: 95 % t interval over seeds; differences are paired seed by seed. ▲ ahead of the default, "
    "▼ behind it, ≈ cannot be told apart."
)
MARKS = {"ahead": "▲", "level": "≈", "behind": "▼", "unknown": ""}


def sections(report: Report) -> list[Section]:
    """The page in the order in which it is read; what a sweep does not have yet is left out."""
    space = {name: _distribution(found) for name, found in report["sweep"]["space"].items()}
    makers = (best, held_out, lambda r: matters(r, space), curves, lambda r: trial_paths(r, space), fronts)
    found = [section for maker in makers for section in maker(report)]
    return [*found, *trials(report), *failures(report), *compute(report), *making(report)]


def _distribution(found: Record) -> Distribution:
    choices = found["choices"]
    return Distribution(**{**found, "choices": None if choices is None else tuple(choices)})


def difference_cell(found: Record | None) -> Cell:
    """A paired difference with its interval and its mark."""
    if found is None or found["value"] is None:
        return Cell(UNKNOWN)
    interval = span(found["low"], found["high"], digits=DIGITS, sign=True)
    small = (interval,) if interval else ()
    return Cell(signed(found["value"], DIGITS), small, MARKS[found["side"]], TONES[found["side"]])


def best(report: Report) -> list[Section]:
    """The best trials and the default, run again; before that, the best finished trial."""
    label = report["winner"] or report["best"]
    if label is None:
        return []
    chosen = trial_of(report, label)["settings"]
    settings = Terms(tuple((name, shown(value)) for name, value in chosen.items()), code=True)
    head = Text(f"Settings of trial {label}; all others are the base run's. best.toml is the run file with them.")
    if not report["finals"]:
        waits = Text("The best trials and the default have not been run again with fresh seeds yet.", note=True)
        return [Section("best", "Best settings so far", (head, settings, waits), "Best settings")]
    names = objective_names(report)
    columns = ("Trial", *(head for name in names for head in (name, f"{name}, less default")), "In the sweep", "Seeds")
    rows = []
    for record in report["finals"]:
        cells: list[Cell] = []
        for name in names:
            cells.append(with_interval(record["objectives"][name], digits=DIGITS))
            cells.append(difference_cell(record["differences"].get(name)))
        before = (record["sweep"] or {}).get(names[0])
        runs = f"{record['objectives'][names[0]]['runs']}{_failed(record)}"
        cells += [Cell(number(before, DIGITS)), Cell(runs)]
        title = f"{record['label']} (winner)" if record["label"] == report["winner"] else record["label"]
        rows.append(Row(title, tuple(cells), record["label"] == report["winner"]))
    plots = tuple(
        (plots_trials.fresh_seeds(report, name), f"{name} of every run with a fresh seed, with means") for name in names
    )
    how = "Strokes below a mean: its seeds. Line: its interval. Ring: the score in the sweep, which chose it."
    blocks: list[Block] = [
        Text(_how_run(report)),
        Table(columns, one_group(rows), (READING,)),
        Figures(plots, ((0, "trial, mean over seeds"), (1, "default")), solid=True),
        Text(how, note=True),
        head,
        settings,
    ]
    others = [record for record in report["finals"] if record["label"] not in (DEFAULT, label)]
    entries = tuple((record["label"], settings_text(record["settings"])) for record in others)
    blocks += [Fold("Settings of the others", (Terms(entries, code=True),))] if entries else []
    return [Section("best", "Best settings", tuple(blocks), "Best settings")]


def _failed(record: Record) -> str:
    return f", {len(record['failures'])} failed" if record.get("failures") else ""


def _how_run(report: Report) -> str:
    runs = [record["objectives"][objective_names(report)[0]]["runs"] for record in report["finals"]]
    plural, same = "s" if max(runs) > 1 else "", ", the same for all" if min(runs) == max(runs) else " at most"
    text = f"The best trials and the default, run again with {max(runs)} fresh seed{plural}{same}."
    drop = luck(report)
    if drop is not None and drop > 0:
        text += (
            f" The winner scored {number(drop, DIGITS)} less than in the sweep: the price of choosing the best of many."
        )
    for record in report["finals"]:
        for one in record.get("failures", ())[:1]:
            text += f" Of {record['label']} the run with seed {one['seed']} failed: {one['reason']}."
    return text if report["finals_complete"] else f"{text} These runs are not complete."


def held_out(report: Report) -> list[Section]:
    """The winner against the default on the test split."""
    if not report["test"]:
        return []
    rows = [
        Row(
            record["task"] or "Mean over tasks",
            (
                with_interval(record["ours"], digits=DIGITS),
                with_interval(record["default"], digits=DIGITS),
                difference_cell(record["difference"]),
            ),
            record["task"] is None,
        )
        for record in report["test"]
    ]
    text = "No choice read the test split; winner and default are scored on it once, run by run with equal seeds."
    looked = report.get("tested", 2)
    if looked > 2:
        text += (
            f" The sweep was extended: {looked - 1} winners in all have been scored on it, and a difference that looks "
            "large may be the largest of these."
        )
    columns = ("Task", f"Winner, {report['winner']}", "Default", "Difference")
    return [Section("test", "On the test split", (Text(text), Table(columns, one_group(rows))), "Test split")]


def matters(report: Report, space: dict[str, Distribution]) -> list[Section]:
    """Importance of every setting, response to the first ones, to the first two together."""
    found = report["importance"]
    objective = objective_names(report)[0]
    at = compared(report)
    if not found["settings"]:
        text = f"Not enough to say which settings matter: it takes 10 trials whose scores differ, found {at}."
        return [Section("importance", "What matters", (Text(text),), "What matters")]
    quality = with_interval(found["r2"], digits=2)
    interval = f" ({quality.small[0]})" if quality.small else ""
    text = (
        f"How much of the variance of {objective} each setting explains, from {at}. A forest predicts trials that it "
        f"has not seen with R² {quality.text}{interval}; 0 is guessing, and then nothing below means anything. "
        "Pale: cannot be told from no effect."
    )
    rows = [
        Row(
            record["name"],
            (with_interval(record, digits=2), Cell(_told(record)), Cell(str(record["trials"]))),
        )
        for record in found["settings"]
    ]
    columns = ("Setting", "Importance", "Effect", "Trials with it")
    figures = [(plots_settings.importance(found["settings"]), "Importance of every setting with its interval")]
    reading = "Lines over bars: 95 % intervals."
    if found["surface"]:
        pair = " and ".join(found["surface"]["names"])
        plot = plots_settings.surface(found["surface"], space, objective=objective)
        figures.append((plot, f"{objective} over {pair}"))
        reading += f" Beside them {objective} over the first two that vary together: mean prediction, dots are trials."
    slices = tuple(
        (plots_settings.slice_of(one, space, objective=objective), f"{objective} over {one['names'][0]}")
        for one in found["responses"]
    )
    blocks: tuple[Block, ...] = (
        Text(text),
        Figures(tuple(figures)),
        Text(reading, note=True),
        Text("Over one setting each: dots are trials, the line is the mean prediction."),
        Figures(slices),
        Fold("Importance as a table", (Table(columns, one_group(rows)),)),
    )
    return [Section("importance", "What matters", blocks, "What matters")]


def _told(record: Record) -> str:
    if record["low"] is None:
        return UNKNOWN
    return "matters" if record["low"] > 0 else "not shown"


def curves(report: Report) -> list[Section]:
    """Learning curves of all trials."""
    if not any(report["curves"].values()):
        return []
    states = {trial["state"] for trial in report["trials"] if trial["id"] in report["curves"]}
    names = {"finished": "finished", "stopped": "stopped early", "running": "running", "failed": "failed"}
    legend = tuple((series, names[state]) for state, series in plots_trials.LOOKS.items() if state in states)
    plots = tuple(
        (plots_trials.learning_curves(report, name), f"{name} of every trial over the molecules seen")
        for name in objective_names(report)
    )
    best = report["winner"] or report["best"]
    text = "A line a trial; one that did not finish ends with its mark." + (f" Thick: trial {best}." if best else "")
    return [Section("curves", "Learning curves", (Text(text), Figures(plots, legend, solid=True)), "Curves")]


def trial_paths(report: Report, space: dict[str, Distribution]) -> list[Section]:
    """Parallel coordinates."""
    known = [t for t in report["trials"] if t["objectives"] and t["state"] in ("finished", "stopped", "running")]
    if len(known) < 2 or not space:
        return []
    text = (
        "Parallel coordinates, read downwards: every line is a trial on its way through the settings to its last "
        f"{objective_names(report)[0]}. In colour: the best tenth. Off: the setting is not in force."
    )
    stopped = " Trials that were stopped early stand at the score they had then." if _stopped(report) else ""
    plot = plots_trials.paths(report, space)
    blocks = (Text(text + stopped), Figures(((plot, "Parallel coordinates of all trials"),)))
    return [Section("paths", "Paths through the space", blocks, "Paths")]


def _stopped(report: Report) -> bool:
    return report["states"]["stopped"] + report["states"]["running"] > 0


def fronts(report: Report) -> list[Section]:
    """The Pareto front of several objectives."""
    names = objective_names(report)
    if not report["front"] or len(names) < 2:
        return []
    rows = []
    for label in report["front"]:
        trial: dict[str, Any] = dict(trial_of(report, label))
        cells = (*(Cell(number(trial["objectives"][name], DIGITS)) for name in names),)
        rows.append(Row(label, (*cells, Cell(settings_text(trial["settings"])))))
    plots = tuple(
        (plots_trials.pareto(report, pair), f"{pair[1]} against {pair[0]}") for pair in combinations(names, 2)
    )
    text = "Finished trials that no other beats in every objective; one seed each, so neighbours may change places."
    table = Table(("Trial", *names, "Settings"), one_group(rows), words=True)
    return [Section("front", "Pareto front", (Text(text), Figures(plots), table), "Pareto front")]


def making(report: Report) -> list[Section]:
    """How the sweep was set up, versions, what words mean."""
    sweep = report["sweep"]
    space = tuple((name, _range(found)) for name, found in sweep["space"].items())
    setup = (
        ("objective", sweep["objective"]),
        *((key, str(sweep[key])) for key in ("search", "scheduler", "samples", "seed", "top_k", "rerun_seeds")),
        ("overrides", " ".join(sweep["overrides"]) or "none"),
    )
    blocks = (
        Fold("Terms", (Terms(GLOSSARY),)),
        Fold("The sweep", (Terms(setup, code=True),)),
        Fold("The space", (Terms(space, code=True),)),
        Fold("Versions", (Terms(tuple(sweep["versions"].items()), code=True),)),
    )
    return [Section("terms", "Terms and settings", blocks, "Terms")]


def _range(found: Record) -> str:
    if found["choices"] is not None:
        text = ", ".join(str(choice) for choice in found["choices"])
    else:
        text = f"{found['low']} to {found['high']}" + (f", step {found['step']}" if found["step"] else "")
    when = ", ".join(f"{name}={value}" for name, value in (found["when"] or {}).items())
    return f"{found['kind']}: {text}" + (f"; when {when}" if when else "")
