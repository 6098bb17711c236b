"""A run goes on exactly where it was killed, and means the same on any number of ranks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.manifest import local_folder
from dynfusion.training.assemble import make_order
from dynfusion.training.checkpoint import REGISTERED, latest, problem, read_history, read_state
from dynfusion.training.config import DataSettings, TrainSettings
from dynfusion.training.loop import NotFiniteError, Record
from dynfusion.training.schedule import learning_rate
from dynfusion.training.storage import LocalStorage
from tests.datasets import packed
from tests.training.cases import TRAIN, StoppedError, run, untimed
from tests.training.ranks import run_ranks


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[Record]]:
    return run(dataset, tmp_path_factory.mktemp("whole"))


def test_training_lowers_the_loss_and_records_every_term(whole: tuple[dict, list[Record]]) -> None:
    history = whole[1]
    assert [record["step"] for record in history] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    for record in history:
        for term in ("reconstruction", "alignment", "diversity", "entropy", "sparsity"):
            assert math.isfinite(record[term])
        assert set(record["attention"]) == set(record["gate"]) == {"a", "b", "c"}
        assert 0 < record["attention_entropy"] <= 1
    assert history[0]["hidden_rate"] < history[-1]["hidden_rate"]


def test_a_killed_run_that_is_resumed_has_bit_for_bit_the_weights_of_one_never_killed(
    dataset: Dataset, whole: tuple[dict[str, torch.Tensor], list[Record]], tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(dataset, tmp_path, stop_after=8)
    with latest(LocalStorage(tmp_path), print) as last:
        assert last is not None
        assert read_state(last[1]).step == 8
        weights, history = run(dataset, tmp_path, resume=last[1])
    for name, tensor in whole[0].items():
        assert torch.equal(weights[name], tensor), name
    assert untimed(history) == untimed(whole[1])


def test_two_runs_with_the_same_settings_give_the_same_numbers_to_the_last_digit(
    dataset: Dataset, whole: tuple[dict[str, torch.Tensor], list[Record]], tmp_path: Path
) -> None:
    weights, history = run(dataset, tmp_path)
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[0].items())
    assert untimed(history) == untimed(whole[1])


def run_in_double(uri: str, folder: str) -> tuple[dict[str, torch.Tensor], list[Record]]:
    return run(open_dataset(uri), Path(folder), double=True)


def test_two_and_three_ranks_train_the_model_that_one_does(dataset: Dataset, tmp_path: Path) -> None:
    alone, history = run(dataset, tmp_path / "alone", double=True)
    for ranks in (2, 3):
        folder = tmp_path / str(ranks)
        together = run_ranks(ranks, folder, run_in_double, dataset.uri, str(folder / "run"))
        for weights, records in together:
            for name, tensor in alone.items():
                torch.testing.assert_close(weights[name], tensor, rtol=1e-8, atol=1e-10)
            assert [record["loss"] for record in records] == pytest.approx([r["loss"] for r in history], rel=1e-9)


LONG = TRAIN.model_copy(update={"epochs": 40, "log_every_steps": 1, "checkpoint_every_steps": 50})


def part_in_double(uri: str, folder: str, resume: str | None, stop_after: int | None) -> list[Record]:
    try:
        _, history = run(
            open_dataset(uri),
            Path(folder),
            settings=LONG,
            resume=Path(resume) if resume else None,
            stop_after=stop_after,
            double=True,
        )
    except StoppedError:
        return []
    return history


@pytest.mark.slow
def test_a_run_that_goes_on_with_fewer_and_with_more_ranks_keeps_its_loss_curve(
    dataset: Dataset, tmp_path: Path
) -> None:
    (alone,) = run_ranks(
        1, tmp_path / "alone", part_in_double, dataset.uri, str(tmp_path / "alone" / "run"), None, None
    )
    folder, before = str(tmp_path / "changing"), None
    for number, (ranks, stop_after) in enumerate([(2, 50), (1, 100), (3, 150), (2, None)]):
        found = run_ranks(ranks, tmp_path / str(number), part_in_double, dataset.uri, folder, before, stop_after)
        before = f"{folder}/checkpoint-{50 * (number + 1):08d}-001"
    losses, expected = ([record["loss"] for record in history] for history in (found[0], alone))
    assert len(losses) == len(expected) == 200
    assert losses == pytest.approx(expected, rel=1e-10)


def test_accumulation_changes_nothing_but_rounding(dataset: Dataset, tmp_path: Path) -> None:
    once, _ = run(dataset, tmp_path / "once", double=True)
    twice, _ = run(dataset, tmp_path / "twice", double=True, settings=TRAIN.model_copy(update={"accumulation": 2}))
    for name, tensor in once.items():
        torch.testing.assert_close(twice[name], tensor, rtol=1e-8, atol=1e-10)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(dataset: Dataset, tmp_path: Path) -> None:
    settings = TRAIN.model_copy(update={"learning_rate": 1e30, "gradient_clipping": 0.0, "warmup_share": 0.0})
    with pytest.raises(ValueError, match=r"training stopped at step \d+, the first .* lower train.learning_rate"):
        run(dataset, tmp_path, settings=settings)
    for saved in tmp_path.glob("checkpoint-*"):
        assert all(math.isfinite(record["loss"]) for record in read_history(saved))


def poison(dataset: Dataset, row: int) -> None:
    """Write a NaN over the first number of a row's first present modality, in the packed file itself."""
    part, [shard] = dataset.mapped("train"), dataset.manifest.shards
    starts, place = part.starts(np.array([row]))
    modality = next(m for m in range(len(part.dims)) if part.presence(starts, place, m)[0])
    index = int(part.value_index(starts, place, modality)[0])
    with (local_folder(dataset.uri) / shard.path).open("r+b") as file:
        file.seek(2 * index)
        file.write(np.array([np.nan], np.float16).tobytes())
    assert np.isnan(part.values(modality)[index, 0])


def run_until_it_stops(uri: str, folder: str) -> str:
    """What training on this rank says when it stops for a number that is not finite."""
    try:
        run(open_dataset(uri), Path(folder), check=False)  # which would find the number first
    except NotFiniteError as error:
        return str(error)
    return "it did not stop"


def test_a_poisoned_row_stops_all_ranks_and_its_step_and_batch_are_named(tmp_path: Path) -> None:
    dataset = packed(tmp_path / "data")
    order = make_order(dataset.manifest, DataSettings(uri=dataset.uri), TRAIN)
    rows = sorted(order.rows(0, 4, range(order.layout.lanes)).tolist())
    poison(dataset, rows[60])
    said = run_ranks(2, tmp_path / "ranks", run_until_it_stops, dataset.uri, str(tmp_path / "run"))
    assert said[0] == said[1]
    shown = ", ".join(map(str, rows[:10]))
    assert said[0].startswith("training stopped at step 5, the first whose loss or gradient is not finite")
    assert f"its batch holds 128 rows of the data set: {shown}, ...;" in said[0]
    saved = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert [read_state(folder).step for folder in saved] == [4]
    tensors = load_file(saved[0] / "model" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_torn_checkpoint_is_named_and_skipped_for_the_one_before(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, tmp_path)
    saved = sorted(tmp_path.glob("checkpoint-*"))
    assert [read_state(folder).step for folder in saved] == [4, 8, 12, 15]
    assert all(problem(folder) is None for folder in saved)
    weights = saved[3] / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (saved[2] / "engine" / "optimizer.pt").write_bytes(b"")
    next(saved[1].glob("files-*")).unlink()
    said: list[str] = []
    with latest(LocalStorage(tmp_path), said.append) as last:
        assert last == (saved[0].name, saved[0])
    assert said == [
        f"checkpoint {saved[3]} skipped: model/model.safetensors does not match its SHA-256",
        f"checkpoint {saved[2]} skipped: engine/optimizer.pt has 0 bytes, expected "
        f"{(saved[1] / 'engine' / 'optimizer.pt').stat().st_size}",
        f"checkpoint {saved[1]} skipped: no list of files",
    ]


def test_a_run_that_had_checkpoints_and_has_none_whole_is_not_started_afresh(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, tmp_path)
    for folder in tmp_path.glob("checkpoint-*"):
        (folder / "engine" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="none is whole, found checkpoint-00000004-001"):
        latest(LocalStorage(tmp_path), print).__enter__()


def test_a_run_that_never_completed_a_checkpoint_starts_afresh(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000004-001").mkdir()
    said: list[str] = []
    with latest(LocalStorage(tmp_path), said.append) as last:
        assert last is None
    assert said == [f"checkpoint {tmp_path}/checkpoint-00000004-001 skipped: no list of files"]
    (tmp_path / REGISTERED).write_text('{"checkpoint_results": [{"checkpoint_dir_name": "checkpoint-00000004-001"}]}')
    with pytest.raises(ValueError, match="none is whole"):
        latest(LocalStorage(tmp_path), print).__enter__()


def test_the_learning_rate_warms_up_and_falls_to_its_final_share() -> None:
    settings = TrainSettings(learning_rate=0.1, warmup_share=0.1, final_share=0.05)
    rates = [learning_rate(settings, step, 101) for step in range(101)]
    assert rates[0] == pytest.approx(0.1 / 11.1)
    assert max(rates) == pytest.approx(0.1, rel=2e-3)
    assert rates[-1] == pytest.approx(0.005)
    assert rates[11:] == sorted(rates[11:], reverse=True)
