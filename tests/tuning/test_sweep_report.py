import json
import math
import re
import tomllib
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from dynfusion.run_settings import RunSettings, read_run
from dynfusion.settings import build
from dynfusion.training.lease import driving
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.records import (
    Final,
    Finals,
    Objective,
    Point,
    SeedFailure,
    SeedRun,
    Trial,
    read_curves,
    read_finals,
    read_sweep,
    read_trials,
    write_curve,
    write_finals,
    write_trial,
)
from dynfusion.tuning.report.assembly import build_report, front
from dynfusion.tuning.report.contents import Contents, read_contents
from dynfusion.tuning.report.encoding import Encoded, encode, position, value_at
from dynfusion.tuning.report.importance import _shuffled, comparable, importance_record
from dynfusion.tuning.report.page import content, terminal_table
from dynfusion.tuning.report.seeds import difference, estimate, final_records, test_records, winner
from dynfusion.tuning.report.wording import final_of, luck, summary
from dynfusion.verbs.config_show import config_show
from dynfusion.verbs.tune_show import tune_show
from tests.browser import CHROMIUM, browse
from tests.tuning.sweep_example import CHILD, NOTHING, SPACE, STRONG, TOTAL, TWO, write_example

test_records.__test__ = False


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A finished sweep under ASHA whose winner is really ahead, with its report."""
    folder = tmp_path_factory.mktemp("sweep")
    write_example(folder, lead=0.02)
    tune_show(str(folder))
    return folder


@pytest.fixture(scope="module")
def report(shown):
    return json.loads((shown / "report.json").read_text())


def contents_of(folder, **changes):
    write_example(folder, **changes)
    return read_contents(LocalStorage(folder))


def test_what_is_written_is_read_back(tmp_path):
    sweep = write_example(tmp_path, samples=20)
    storage = LocalStorage(tmp_path)
    assert read_sweep(storage) == sweep
    trials = read_trials(storage)
    assert [trial.id for trial in trials] == [f"{number:04d}" for number in range(20)]
    write_trial(storage, trials[3])
    assert read_trials(storage) == trials
    finals = read_finals(storage)
    write_finals(storage, finals)
    assert read_finals(storage) == finals


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("trials/0001.json", '{"id": "00', "trials/0001.json: not readable as JSON"),
        ("trials/0001.json", "[]", "trials/0001.json: trial: found [], allowed is an object"),
        ("trials/0001.json", '{"id": "0001"}', "trials/0001.json: not a trial of this version, it has no state"),
        ("curves/0001.jsonl", "{}\n", "curves/0001.jsonl, line 1: not a point of this version, it has no step"),
        ("finals.json", '{"a": 1}', "finals.json: not a finals of this version"),
        ("sweep.json", '{"jobs": []}', "sweep.json: not a sweep of this version"),
        ("curves/0777.jsonl", None, "curves of trials: found 0777, allowed are those of trials/"),
    ],
)
def test_torn_and_foreign_files_are_refused_by_name(tmp_path, path, text, said):
    write_example(tmp_path, samples=4, finals=False)
    (tmp_path / path).write_text((tmp_path / "curves/0001.jsonl").read_text() if text is None else text)
    with pytest.raises(ValueError, match=re.escape(said)):
        tune_show(str(tmp_path))


def test_a_trial_of_another_sweep_is_refused(tmp_path):
    write_example(tmp_path, samples=4, finals=False)
    storage = LocalStorage(tmp_path)
    trial = read_trials(storage)[1]
    write_trial(storage, replace(trial, settings={**trial.settings, "model.width": 3}))
    with pytest.raises(ValueError, match=r"0001.json: settings: found model.width, allowed are those of the sweep's"):
        read_contents(storage)
    write_trial(storage, replace(trial, objectives={"other": 1.0}))
    with pytest.raises(ValueError, match=r"0001.json: objectives: found other, allowed are score"):
        read_contents(storage)
    (tmp_path / "trials/0002.json").write_bytes((tmp_path / "trials/0003.json").read_bytes())
    with pytest.raises(ValueError, match=r"0002.json: found trial 0003, allowed is 0002"):
        read_contents(storage)


def test_a_folder_without_a_sweep_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"it has no sweep.json, give the folder of a sweep"):
        tune_show(str(tmp_path / "nothing"))


def test_a_line_that_is_being_written_is_left_out_and_a_resumed_trial_goes_on_from_its_checkpoint(tmp_path):
    storage = LocalStorage(tmp_path)
    points = [
        Point(step, 100 * step, {"score": float(step)}, {}, 1.0 * step, order)
        for order, step in enumerate((1, 2, 3, 2, 3))
    ]
    points[3:] = [replace(point, objectives={"score": 10.0 + point.step}) for point in points[3:]]
    write_curve(storage, "0000", points)
    with (tmp_path / "curves/0000.jsonl").open("a") as file:
        file.write(json.dumps(asdict(points[0]))[:30])
    read = read_curves(storage)["0000"]
    assert [(point.step, point.objectives["score"]) for point in read] == [(1, 1.0), (2, 12.0), (3, 13.0)]


def test_intervals_over_seeds_are_students():
    found = estimate([0.1, 0.2, 0.3])
    assert found["value"] == pytest.approx(0.2)
    assert found["high"] - 0.2 == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert estimate([0.1])["low"] is None


def test_differences_are_paired_by_seed():
    theirs = {1: 0.1, 2: 0.5, 3: 0.9, 4: 7.0}
    ours = {seed: theirs[seed] + lead for seed, lead in ((1, 0.010), (2, 0.011), (3, 0.012))}
    found = difference(ours, theirs)
    assert (found["side"], found["runs"]) == ("ahead", 3)
    assert found["value"] == pytest.approx(0.011)
    assert difference(ours, theirs, sign=-1)["side"] == "behind"
    assert difference({1: 0.2, 2: 0.4, 3: 0.9}, theirs)["side"] == "level"
    assert difference({1: 0.2}, theirs)["side"] == "unknown"


def test_a_setting_that_matters_is_told_from_one_that_does_not(report):
    found = report["importance"]
    by_name = {record["name"]: record for record in found["settings"]}
    assert found["settings"][0]["name"] == STRONG
    assert by_name[STRONG]["low"] > 0.3
    assert by_name[STRONG]["value"] < 1.1
    for name in (NOTHING, CHILD):
        assert by_name[name]["low"] < 0.02
        assert by_name[name]["value"] < 0.1 * by_name[STRONG]["value"]
    assert by_name[CHILD]["trials"] < found["trials"]
    assert found["r2"]["low"] > 0
    assert any(sentence.startswith(f"{STRONG} matters most.") for sentence in summary(report))


def test_scores_that_are_noise_give_no_importance(tmp_path):
    record = importance_record(contents_of(tmp_path, samples=40, gain=0.0, noise=0.05, scheduler="fifo", finals=False))
    assert record["r2"]["low"] <= 0
    assert not [one["name"] for one in record["settings"] if one["low"] is not None and one["low"] > 0.05]


def test_trials_are_compared_at_the_molecules_that_all_have_seen(tmp_path):
    contents = contents_of(tmp_path)
    trials, scores, budget = comparable(contents)
    ended = [trial for trial in contents.trials if trial.state in ("finished", "stopped")]
    assert {trial.id for trial in trials} == {trial.id for trial in ended}
    assert budget == min(trial.samples_seen for trial in ended) < TOTAL
    for trial, score in zip(trials, scores, strict=True):
        point = next(point for point in contents.curves[trial.id] if point.samples_seen == budget)
        assert score == point.objectives["score"]


def test_trials_of_different_length_are_compared_at_their_ends_where_none_was_stopped(tmp_path):
    contents = contents_of(tmp_path, scheduler="fifo", finals=False)
    short = next(trial.id for trial in contents.trials if trial.state == "finished")
    curves = {**contents.curves, short: contents.curves[short][:2]}
    trials, scores, budget = comparable(replace(contents, curves=curves))
    assert budget is None
    assert scores == [curves[trial.id][-1].objectives["score"] for trial in trials]
    assert {trial.id for trial in trials} == {t.id for t in contents.trials if t.state == "finished"}


def test_a_setting_that_is_seldom_in_force_explains_only_what_it_decides_of_all_trials():
    draws = np.random.default_rng(0)
    chance = draws.random((600, 2))
    in_force = np.stack([np.ones(600, dtype=bool), chance[:, 0] < 0.2], axis=1)
    positions = np.where(in_force, chance, draws.random((600, 2)))
    score = 0.5 * chance[:, 0] + in_force[:, 1] * chance[:, 1]
    losses, _ = _shuffled(Encoded(("parent", "child"), positions, in_force), score, seed=0)
    true = 0.2 * (1 / 12) / score.var()
    assert np.nanmean(losses[:, 1]) / 2 == pytest.approx(true, rel=0.3)


def test_positions_and_values_are_each_others_inverse(tmp_path):
    contents = contents_of(tmp_path, samples=30, finals=False)
    for trial in contents.trials:
        for name, value in trial.settings.items():
            back = value_at(position(value, SPACE[name]), SPACE[name])
            assert back == value if isinstance(value, str) else back == pytest.approx(value)
    encoded = encode(contents.trials, SPACE, seed=0)
    child = encoded.names.index(CHILD)
    assert [CHILD in trial.settings for trial in contents.trials] == encoded.in_force[:, child].tolist()
    assert (encoded.positions >= 0).all()
    assert (encoded.positions <= 1).all()


def test_the_winner_is_ahead_where_it_is_and_what_was_luck_is_said(shown, report):
    final = report["finals"][0]
    assert final["label"] == report["winner"]
    assert final["differences"]["score"]["side"] == "ahead"
    assert final["differences"]["score"]["low"] <= 0.02 <= final["differences"]["score"]["high"]
    assert report["finals"][-1]["label"] == "default"
    drop = final["sweep"]["score"] - final["objectives"]["score"]["value"]
    assert luck(report) == pytest.approx(drop)
    words = " ".join(summary(report))
    assert f"trial {report['winner']}, beats the default by +0.0" in words
    assert "is partly luck" in words
    assert report["test"][-1]["task"] is None
    assert report["test"][-1]["difference"]["side"] == "ahead"
    assert "On the test split over 2 tasks, scored once, it is ahead of the default" in words
    assert "is ahead" in words
    assert "–" not in (shown / "report.md").read_text().split("\n")[2].split("(")[0]


def test_a_tie_is_said(tmp_path):
    contents = contents_of(tmp_path, lead=0.0, samples=30, scheduler="fifo")
    records, (best, ties) = final_records(contents), winner(contents)
    assert best is not None
    assert ties
    assert {record["differences"]["score"]["side"] for record in records[:-1]} <= {"level", "ahead", "behind"}
    ours = next(record for record in records if record["label"] == best)
    assert ours["differences"]["score"]["side"] == "level"
    tune_show(str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "cannot be told from the default: it differs by" in page
    assert "cannot be told from it by these runs" in page
    assert test_records(contents.finals, best)[0]["task"] == "bace"


def final(label, values, *, failures=(), tested=False):
    runs = [SeedRun(n, {"score": v}, {"bace": 0.7} if tested else None, "runs/x") for n, v in values.items()]
    return Final(label, {}, tuple(runs), tuple(SeedFailure(seed, "not finite") for seed in failures))


def test_what_fails_with_a_seed_is_not_the_winner_and_an_extended_sweep_may_have_another_one(tmp_path):
    contents = contents_of(tmp_path, lead=0.02)

    def winner_of(*entries):
        return winner(replace(contents, finals=Finals(entries, 2, complete=True)))

    whole, default = final("0000", {1: 0.6, 2: 0.7, 3: 0.7}, tested=True), final("default", {1: 0.5, 2: 0.5, 3: 0.5})
    assert winner_of(whole, final("0001", {1: 0.9}, failures=(2, 3)), default) == ("0000", [])
    assert winner_of(whole, final("0001", {1: 0.9, 2: 0.9, 3: 0.91}), default) == ("0001", [])
    assert winner_of(final("0001", {}, failures=(1, 2)), default) == (None, [])


def test_failures_of_seeds_and_later_looks_at_the_test_split_are_said(tmp_path):
    write_example(tmp_path, lead=0.02)
    storage = LocalStorage(tmp_path)
    finals = read_finals(storage)
    last = finals.entries[-2]
    scored = replace(last, seeds=tuple(replace(run, test={"bace": 0.7, "bbbp": 0.7}) for run in last.seeds))
    scored = replace(scored, failures=(SeedFailure(7, "loss is not finite at step 3"),))
    write_finals(storage, replace(finals, entries=(*finals.entries[:-2], scored, finals.entries[-1])))
    tune_show(str(tmp_path))
    page = (tmp_path / "report.md").read_text()
    assert f"Of {last.label} the run with seed 7 failed: loss is not finite at step 3." in page
    assert "2 winners in all have been scored on it" in page


def test_settings_that_failed_with_a_fresh_seed_are_not_recommended(tmp_path):
    contents = contents_of(tmp_path, lead=0.02)
    lost = tuple(replace(entry, failures=(SeedFailure(7, "not finite"),)) for entry in contents.finals.entries)
    report = build_report(replace(contents, finals=replace(contents.finals, entries=lost)))
    assert report["winner"] is None
    assert report["best"] not in {entry.label for entry in lost}


def test_the_run_file_holds_only_differences_and_reproduces_the_winner(shown, report, capsys):
    text = (shown / "best.toml").read_text()
    label = report["winner"]
    settings = next(trial["settings"] for trial in report["trials"] if trial["id"] == label)
    assert text.startswith(f"# The best settings that sweep joint found: trial {label}, the best of 48.")
    final = report["finals"][0]["objectives"]["score"]
    assert f"# Expected score: {final['value']:.4f} ({final['low']:.4f}–{final['high']:.4f}; 3 fresh seeds)." in text
    assert f"# Made by: dynfusion tune show {shown}" in text
    tree = read_run(shown / "best.toml").model_dump(mode="json")
    for name, value in settings.items():
        group, leaf = name.split(".")
        assert tree[group][leaf] == value
    base = build(RunSettings, report["sweep"]["run"]).model_dump(mode="json")
    for name in settings:
        group, leaf = name.split(".")
        base[group][leaf] = tree[group][leaf]
    base["train"]["log_every_steps"], base["cluster"]["name"] = 10, "joint-best"
    assert tree == base
    held = {f"{group}.{leaf}" for group, leaves in tomllib.loads(text).items() for leaf in leaves}
    assert held <= {*settings, "data.uri", "train.epochs", "train.log_every_steps", "cluster.name"}
    config_show(shown / "best.toml")
    assert "joint-best" in capsys.readouterr().out


def test_every_trial_is_a_row_of_the_table(shown):
    table = pq.read_table(shown / "trials.parquet")
    trials = read_trials(LocalStorage(shown))
    assert table["id"].to_pylist() == [trial.id for trial in trials]
    assert table[f"setting.{CHILD}"].to_pylist() == [trial.settings.get(CHILD) for trial in trials]
    assert table["objective.score"].to_pylist() == [trial.objectives["score"] for trial in trials]


def test_a_winner_that_is_worse_than_ridge_regression_is_said_to_be(tmp_path):
    write_example(tmp_path)
    report = build_report(read_contents(LocalStorage(tmp_path)))
    assert "below 0" not in " ".join(summary(report))
    final_of(report, report["winner"])["objectives"]["score"]["value"] = -0.83
    assert "Its score is −0.8300, below 0: ridge regression" in " ".join(summary(report))


def test_a_sweep_under_way_is_shown(tmp_path, capsys):
    write_example(tmp_path, begun=14, finals=False)
    storage = LocalStorage(tmp_path)
    waiting = replace(read_trials(storage)[0], id="0014", state="waiting", objectives=None, attempts=0, samples_seen=0)
    write_trial(storage, waiting)
    with driving(storage, print):
        tune_show(str(tmp_path))
    assert "The sweep is under way: 12 of 48 trials are done, 2 running." in capsys.readouterr().out.replace("\n", " ")
    page = (tmp_path / "report.html").read_text()
    assert "it has not been run again beside the default" in page
    assert "not yet run again" in (tmp_path / "best.toml").read_text()
    tune_show(str(tmp_path))
    said = capsys.readouterr().out.replace("\n", " ")
    assert "The sweep was interrupted: 12 of 48 trials are done, and no command is at work on it; the same" in said


def test_a_sweep_of_which_nothing_has_ended_is_shown(tmp_path):
    sweep = write_example(tmp_path, begun=0, finals=False)
    assert "No trial has finished yet." in tune_show(str(tmp_path)).read_text()
    trial = Trial("0000", "failed", "out of memory", {}, None, 0, 0, TOTAL, 1.0, 9.0, 1, "runs/joint-0000")
    write_trial(LocalStorage(tmp_path), trial)
    page = tune_show(str(tmp_path)).read_text()
    assert "out of memory" in page
    assert sweep.name in page
    assert not (tmp_path / "best.toml").exists()


def test_a_front_holds_the_trials_that_none_beats_everywhere(tmp_path):
    contents = contents_of(tmp_path, objectives=TWO, scheduler="fifo", samples=24)
    found = set(front(contents))
    done = {t.id: t.objectives for t in contents.trials if t.state == "finished"}
    for name, mine in done.items():
        beaten = any(
            all(other[key] >= mine[key] for key in mine) and any(other[key] > mine[key] for key in mine)
            for other in done.values()
        )
        assert (name in found) != beaten
    down = replace(contents.sweep, objectives=(TWO[0], Objective("reconstruction", "min")))
    single = max(done, key=lambda name: done[name]["quality"])
    assert single in front(Contents(down, contents.trials, contents.curves, None))
    tune_show(str(tmp_path))
    assert "Pareto front" in (tmp_path / "report.md").read_text()


def test_the_page_needs_nothing_else_and_holds_every_part(shown, report):
    page = (shown / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)""", page)
    assert not re.search(r"\bnan\b|\bNone\b", page)
    for anchor in ("best", "test", "importance", "curves", "paths", "trials", "failures", "compute", "terms"):
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "loss is not finite at step 61" in page
    for trial in report["trials"]:
        assert f'<th scope="row">{trial["id"]}' in page


def test_equal_folders_give_equal_pages_and_names_break_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_example(tmp_path / name, samples=14, finals=False)
        storage = LocalStorage(tmp_path / name)
        trial = next(trial for trial in read_trials(storage) if trial.state == "failed")
        write_trial(storage, replace(trial, reason="<b>x|y</b>"))
        tune_show(str(tmp_path / name))
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "<b>" not in (tmp_path / "a" / "report.html").read_text()
    lines = [line for line in (tmp_path / "a" / "report.md").read_text().splitlines() if "x\\|y" in line]
    assert lines


def test_a_terminal_shows_the_best_trials_with_their_new_runs(report):
    console = Console(width=100, record=True)
    console.print(terminal_table(report))
    text = console.export_text()
    for record in report["finals"][:-1]:
        assert record["label"] in text
        assert f"{record['objectives']['score']['value']:.4f}" in text
    assert "…" not in text
    assert np.isfinite(luck(report))
    assert content(report)["tiles"][0]["side"] == "ahead"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found to open the page with")
@pytest.mark.parametrize("width", [1200, 360])
def test_a_person_sees_every_part_and_nothing_overflows(shown, report, tmp_path, width):
    seen = browse(shown, tmp_path, width)
    assert (seen["width"], seen["overflow"], seen["requests"]) == (width, 0, 0)
    assert seen["closed"] == seen["wide"] == []
    assert len(seen["plots"]) == 1 + 2 + 3 + 1 + 1
    assert all(240 < plot <= width for plot in seen["plots"])
    assert all(-1 <= left <= 1 for left in seen["headings"])
    text = " ".join(seen["shown"].split())
    for sentence in summary(report):
        assert sentence in text
    for name in (*SPACE, report["winner"], "stopped early", "Pareto" if report["front"] else "Paths through the space"):
        assert name in text


@pytest.mark.parametrize(("rivals", "most"), [(1, 0.035), (3, 0.06), (10, 0.105)])
def test_how_often_equal_settings_are_called_ahead_is_what_the_glossary_says(rivals, most):
    draws, sweeps, ahead = np.random.default_rng(0), 1500, 0
    for _ in range(sweeps):
        scores = draws.normal(size=(rivals + 1, 3))
        best = 1 + int(np.argmax(scores[1:].mean(axis=1)))
        ours, default = (dict(enumerate(map(float, scores[label]))) for label in (best, 0))
        ahead += difference(ours, default)["side"] == "ahead"
    assert most - 0.03 < ahead / sweeps < most
