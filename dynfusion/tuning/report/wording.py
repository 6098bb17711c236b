"""A sweep in words: one paragraph from its numbers, and what its terms mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynfusion.evaluation.report.wording import listed
from dynfusion.page.blocks import number, signed, span

DIGITS = 4
Report = Mapping[str, Any]
Record = Mapping[str, Any]
STATE_NAMES = {
    "finished": "finished",
    "stopped": "stopped early",
    "running": "running",
    "waiting": "waiting",
    "failed": "failed",
}
_CONTINUES = "the same `dynfusion tune` command continues"
GLOSSARY = (
    (
        "Score, reconstruction",
        "Reconstruction is 1 less the squared error of hidden modalities over that of a ridge regression on the same "
        "held-out molecules, mean over the visible subsets: 1 is perfect, 0 is level with the ridge, below 0 is worse. "
        "The score adds the probe's ROC-AUC where the sweep has tasks; without them it is the reconstruction.",
    ),
    ("Default", "The sweep's base run: its run file and the settings given on top, with nothing of the space drawn."),
    (
        "Run again",
        "The best of many trials is partly the luckiest: part of its score is chance. So the best ones and the default "
        "are run again with fresh seeds, the same for all, and only these runs are compared.",
    ),
    (
        "Interval",
        "95 % t interval over training seeds. Differences are paired: each seed's winner less the same seed's default. "
        "Few seeds make wide intervals. The winner is chosen by these same runs: were all settings equal, the best of "
        "three would be called ahead in 5 of 100 sweeps, the best of ten in 9, not in 2.5. On the test split no "
        "molecule was read by any choice, but a seed that was lucky on validation rows may be lucky there; and its "
        "molecules are fixed, so that how few they are is not in the interval.",
    ),
    ("Ahead, level, behind", "The interval of the difference lies above zero (better), includes it, or lies below."),
    (
        "Drop",
        "Score in the sweep less mean score when run again: what the best of many owed to luck. Without a finished "
        "score in the sweep there is none.",
    ),
    (
        "Importance",
        "A random forest learns the score from the settings of four fifths of the trials and predicts it for the rest. "
        "Shuffling one setting among these raises the squared error; importance is half of that as a share of the "
        "score's variance: what the setting explains, alone or together with others. The interval is over 20 repeated "
        "folds, with Nadeau and Bengio's correction for training parts that overlap. It holds for the ranges searched, "
        "and for trials as the search drew them.",
    ),
    (
        "Response",
        "The forest's mean prediction when one or two settings are held at a value and the others stay as drawn "
        "(partial dependence).",
    ),
    ("Pareto front", "Finished trials that no other trial beats in every objective at once."),
)


def summary(report: Report) -> list[str]:
    """The paragraph; its first sentence is the headline."""
    return [
        sentence
        for part in (_verdict, _below_ridge, _under_way, _luck, _tied, _test, _matters, _spent, _failed)
        for sentence in part(report)
    ]


def objective_names(report: Report) -> list[str]:
    """Names of the objectives, the first of which decides."""
    return [objective["name"] for objective in report["sweep"]["objectives"]]


def final_of(report: Report, label: str | None) -> Record | None:
    """The entry of the runs with fresh seeds that is called so."""
    return next((record for record in report["finals"] if record["label"] == label), None)


def trial_of(report: Report, label: str) -> Record:
    """The trial of an id."""
    return next(trial for trial in report["trials"] if trial["id"] == label)


def luck(report: Report) -> float | None:
    """How much better the winner was in the sweep than when run again; below 0: worse."""
    final = final_of(report, report["winner"])
    if final is None or final["sweep"] is None or trial_of(report, final["label"])["state"] != "finished":
        return None
    first = report["sweep"]["objectives"][0]
    drop = final["sweep"][first["name"]] - final["objectives"][first["name"]]["value"]
    return float(drop if first["direction"] == "max" else -drop)


def _verdict(report: Report) -> list[str]:
    name = objective_names(report)[0]
    final = final_of(report, report["winner"])
    found = final["differences"].get(name) if final else None
    if final is not None and found is not None and found["value"] is not None:
        size = f"{signed(found['value'], DIGITS)} {name}"
        interval = span(found["low"], found["high"], digits=DIGITS, sign=True)
        if found["side"] == "unknown":
            return [f"Trial {final['label']} differs from the default by {size} on one seed, which proves nothing."]
        runs = f"{interval}, {found['runs']} seeds"
        if found["side"] == "level":
            return [
                f"The winner, trial {final['label']}, cannot be told from the default: it differs by {size} ({runs})."
            ]
        verb = "beats" if found["side"] == "ahead" else "loses to"
        return [f"The winner, trial {final['label']}, {verb} the default by {size} ({runs})."]
    if final is not None:
        return [f"Trial {final['label']} is the best of those run again; the default has no runs to hold it against."]
    if report["best"] is None:
        return (
            ["No trial has finished yet."] if _open(report) else ["No trial finished, so there is nothing to choose."]
        )
    score = trial_of(report, report["best"])["objectives"][name]
    return [
        f"The best finished trial is {report['best']} with {name} {number(score, DIGITS)}; it has not been run again "
        "beside the default, so part of this is luck and nothing is proved."
    ]


def _below_ridge(report: Report) -> list[str]:
    """Worth a sentence: the best of a sweep may still be worse than what needs no training."""
    name, final = objective_names(report)[0], final_of(report, report["winner"])
    if final is None or name not in ("score", "reconstruction"):
        return []
    value = final["objectives"][name]["value"]
    if value is None or value >= 0:
        return []
    return [
        f"Its {name} is {number(value, DIGITS)}, below 0: ridge regression, which needs no such training, reconstructs "
        "better than any of these settings do; longer training may change that."
    ]


def _open(report: Report) -> int:
    return max(0, report["sweep"]["samples"] - _ended(report))


def _ended(report: Report) -> int:
    return sum(report["states"][state] for state in ("finished", "stopped", "failed"))


def _under_way(report: Report) -> list[str]:
    if _open(report) == 0:
        wanted = report["sweep"]["top_k"] > 0 and not report["finals_complete"]
        missing = "The runs with fresh seeds are not complete" + ("." if report["driven"] else f"; {_CONTINUES}.")
        return [missing] if wanted and report["best"] else []
    done = f"{_ended(report)} of {report['sweep']['samples']} trials are done"
    if report["driven"]:
        return [f"The sweep is under way: {done}, {report['states']['running']} running."]
    return [f"The sweep was interrupted: {done}, and no command is at work on it; {_CONTINUES}."]


def _luck(report: Report) -> list[str]:
    drop = luck(report)
    if drop is None:
        return []
    final = final_of(report, report["winner"])
    assert final is not None
    name = objective_names(report)[0]
    before, after = final["sweep"][name], final["objectives"][name]["value"]
    values = f"{number(before, DIGITS)} in the sweep, {number(after, DIGITS)} when run again"
    if drop <= 0:
        return [f"The best of {_ended(report)} is partly luck, but this one did not fall: {values}."]
    return [f"The best of {_ended(report)} is partly luck: {values}, a drop of {number(drop, DIGITS)}."]


def _tied(report: Report) -> list[str]:
    if not report["ties"]:
        return []
    plural = "s" if len(report["ties"]) > 1 else ""
    return [f"Trial{plural} {listed(report['ties'])} cannot be told from it by these runs."]


def _test(report: Report) -> list[str]:
    if not report["test"]:
        return []
    record = report["test"][-1]
    found = record["difference"]
    where = f"over {len(report['test']) - 1} tasks" if record["task"] is None else f"of {record['task']}"
    interval = span(found["low"], found["high"], digits=DIGITS, sign=True) or "one seed"
    said = {"ahead": "is ahead of", "behind": "is behind", "level": "is level with", "unknown": "cannot be told from"}
    return [
        f"On the test split {where}, scored once, it {said[found['side']]} the default: "
        f"{signed(found['value'], DIGITS)} ({interval})."
    ]


def _matters(report: Report) -> list[str]:
    found = report["importance"]
    if not found["settings"]:
        return []
    if found["r2"]["low"] is None or found["r2"]["low"] <= 0:
        return [
            "Which settings matter cannot be said: they do not surely predict other trials better than chance does."
        ]
    sure = [record for record in found["settings"] if record["low"] is not None and record["low"] > 0]
    if not sure:
        return ["Settings together predict the score, but none can be told apart as the one that matters."]
    tied = [r["name"] for r in sure[1:] if r["high"] >= sure[0]["low"]]
    doubt = f" ({listed(tied)} may matter as much)" if tied else ""
    rest = len(found["settings"]) - len(sure)
    others = (
        f" No effect of {rest} of {len(found['settings'])} settings could be shown by {compared(report)}."
        if rest
        else ""
    )
    return [f"{sure[0]['name']} matters most{doubt}.{others}"]


def compared(report: Report) -> str:
    """How many trials the importance of settings is from, and where in their course they are compared."""
    found = report["importance"]
    if found["samples"] is None:
        return f"{found['trials']} trials, each at its end"
    return f"{found['trials']} trials at {found['samples']:,} molecules seen, as far as all of them came"


def _spent(report: Report) -> list[str]:
    spent = report["compute"]
    if not spent["trials"] or not spent["samples_seen"]:
        return []
    share = spent["samples_seen"] / spent["total_samples"] if spent["total_samples"] else 1.0
    saved = f", {100 * share:.0f} % of the molecules that running all of them to the end takes" if share < 0.995 else ""
    plural = "s" if spent["trials"] > 1 else ""
    return [f"{spent['trials']} trial{plural} took {duration(spent['seconds'])} of training{saved}."]


def _failed(report: Report) -> list[str]:
    failed = report["states"]["failed"]
    return [f"{failed} trial{'s' if failed > 1 else ''} failed; the reasons are below."] if failed else []


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def shown(value: Any) -> str:
    """A setting's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """All settings in a line."""
    return ", ".join(f"{name}={shown(value)}" for name, value in settings.items())


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Settings by their last part where that is unique."""
    leaves = [name.rpartition(".")[2] for name in names]
    return {name: leaf if leaves.count(leaf) == 1 else name for name, leaf in zip(names, leaves, strict=True)}
