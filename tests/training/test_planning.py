"""Memory, reading and time of a run: hand-worked figures, and that they move the right way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.dataset import Dataset
from dynfusion.store.origin import CacheSettings
from dynfusion.training.config import EngineSettings
from dynfusion.training.planning.calibration import (
    Calibration,
    ProductRate,
    calibrate,
    read_calibration,
    write_calibration,
)
from dynfusion.training.planning.forecast import Forecast, exchange_seconds, forecast, step_parts, step_seconds
from dynfusion.training.planning.hardware import ACHIEVED_COMPUTE, GPUS, cpu_machine, gpu_machine
from dynfusion.training.planning.job import Job, Place, job_of
from dynfusion.training.planning.memory import keeps_all, memory, state
from dynfusion.training.planning.passes import calls, pass_bytes
from dynfusion.training.planning.reading import reading
from dynfusion.training.planning.work import Product, parameters, products, step_flops
from dynfusion.training.sources import join
from tests.datasets import DIMS, packed

SMALL = {"dim": 8, "gate_hidden": 6, "decoder_hidden": 8, "score_hidden": 4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("planned"), rows=2000)


@pytest.fixture
def calibration() -> Calibration:
    rates = [
        ProductRate(rows=512, inner=64, columns=64, precision="fp32", flops_per_second=1e9),
        ProductRate(rows=512, inner=512, columns=512, precision="fp32", flops_per_second=1e11),
        ProductRate(rows=512, inner=512, columns=512, precision="bf16", flops_per_second=4e11),
    ]
    return Calibration(
        processor="by hand",
        cores=4,
        memory_bytes=8 << 30,
        threads=1,
        workers=2,
        products=tuple(rates),
        pass_rate=4e10,
        gather_rate=1e10,
        call_seconds=5e-6,
    )


def settings(dataset: Dataset, **changed: Any) -> RunSettings:
    tree = {"data": {"uri": str(dataset.uri)}, "train": {"global_batch_rows": 256, "epochs": 4}, "model": SMALL}
    return build(RunSettings, tree, changed)


def make_job(dataset: Dataset, *, workers: int = 1, nodes: int = 1, on_gpu: bool = False, **changed: Any) -> Job:
    return job_of(settings(dataset, **changed), join([dataset], ()), Place(workers, nodes, on_gpu))


def far(job: Job, *, files_bytes: int = 1000, num_blocks: int = 100, block_bytes: int = 9, least: int = 5) -> Job:
    stored = replace(
        job.stored[0],
        far=True,
        files_bytes=files_bytes,
        shards_bytes=900,
        num_blocks=num_blocks,
        block_bytes=block_bytes,
        least_blocks=least,
    )
    return replace(job, stored=(stored,))


def on_gpus(dataset: Dataset, workers: int, kind: str = "h200", **changed: Any) -> Forecast:
    run = settings(dataset, **changed)
    job = job_of(run, join([dataset], ()), Place(workers, 1, True))
    return forecast(job, run, gpu_machine(kind, threads=2))


def test_a_job_has_the_steps_and_rows_of_the_run(dataset: Dataset) -> None:
    job = make_job(dataset, workers=3)
    assert (job.steps_per_epoch, job.steps, job.skipped_rows) == (2000 // 256, 4 * (2000 // 256), 2000 % 256)
    assert job.worker_rows == 3 * job.shape.group_rows  # of 8 groups the busiest of three workers has three
    assert job.shape.rows == job.worker_rows
    assert make_job(dataset, train={"accumulation": 4}).shape.rows == 2 * job.shape.group_rows
    assert job.row_bytes == 2 * sum(DIMS.values()) + len(DIMS) + 8


def test_what_training_would_refuse_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="contrast groups"):
        make_job(dataset, workers=9)
    with pytest.raises(ValueError, match=r"train.global_batch_rows: found 4096"):
        make_job(dataset, train={"global_batch_rows": 4096})


def test_zero_stages_split_what_they_say(dataset: Dataset) -> None:
    job = make_job(dataset, workers=4)
    whole = 4.0 * parameters(job.shape.dims, job.shape.model)
    found = {stage: state(job, EngineSettings(zero_stage=stage), on_gpu=False) for stage in (0, 1, 2, 3)}
    assert found[0] == {
        "parameters": whole,
        "gathered parameters": 0.0,
        "gradients": whole,
        "optimizer": 2 * whole,
        "exchange": whole,
    }
    assert (found[1]["parameters"], found[1]["gradients"], found[1]["optimizer"]) == (1.25 * whole, whole, whole / 2)
    assert (found[2]["parameters"], found[2]["gradients"], found[2]["optimizer"]) == (
        1.25 * whole,
        whole / 4,
        whole / 2,
    )
    assert found[3]["parameters"] == 1.25 * whole  # all of these parameters are too small to be split
    on_gpu = state(job, EngineSettings(zero_stage=2), on_gpu=True)
    assert on_gpu["exchange"] == 2e9  # DeepSpeed's bucket, whatever the model
    smaller = {"zero_optimization": {"reduce_bucket_size": 1000}}
    assert state(job, EngineSettings(zero_stage=2, deepspeed=smaller), on_gpu=True)["exchange"] == 4000


def test_more_rows_and_wider_models_take_more_memory(dataset: Dataset, calibration: Calibration) -> None:
    def total(**changed: Any) -> float:
        run = settings(dataset, **changed)
        job = job_of(run, join([dataset], ()), Place(1, 1, False))
        machine = cpu_machine(calibration, workers=1, threads=1)
        return sum(memory(job, run.engine, "auto", machine, reading(job, run.data)).values())

    usual = total()
    assert total(train={"global_batch_rows": 512}) > usual
    assert total(model={"decoder_hidden": 800}) > usual
    assert total(train={"accumulation": 8}) < usual
    assert total(engine={"precision": "bf16"}) < usual
    assert total(train={"start": "principal"}) >= usual


def test_rows_stay_on_a_gpu_that_has_room_for_them(dataset: Dataset) -> None:
    job, machine = make_job(dataset, on_gpu=True), gpu_machine("l4", threads=2)
    near = reading(job, CacheSettings())
    assert keeps_all(job, "auto", machine, near)
    assert not keeps_all(job, "never", machine, near)
    assert not keeps_all(far(job), "auto", machine, reading(far(job), CacheSettings()))
    large = replace(job, stored=(replace(job.stored[0], num_blocks=10**7, block_bytes=1400),))
    assert not keeps_all(large, "auto", machine, near)
    held = memory(large, EngineSettings(), "auto", machine, reading(large, CacheSettings()))
    assert held["resident data"] == 2 * large.stored[0].slab_blocks * 1400


def test_a_cache_that_holds_everything_is_filled_once_by_every_node(dataset: Dataset) -> None:
    found = reading(far(make_job(dataset, workers=4, nodes=2)), CacheSettings(cache_dir="cache", cache_bytes=1000))
    assert (found.first_epoch_bytes, found.later_epoch_bytes) == (2 * 900, 0)
    assert found.total_bytes(3) == 1800
    assert (found.cache_needed_bytes, found.cache_bytes, found.streaming_bytes) == (1000, 1000, 0)


def test_without_a_cache_every_epoch_brings_every_block(dataset: Dataset) -> None:
    found = reading(far(make_job(dataset, workers=4)), CacheSettings())
    assert (found.first_epoch_bytes, found.later_epoch_bytes) == (900, 900)
    assert found.streaming_bytes == 10 * 9  # twice the five blocks that a step may need


def test_a_smaller_cache_spares_its_share(dataset: Dataset) -> None:
    found = reading(far(make_job(dataset, workers=2)), CacheSettings(cache_dir="cache", cache_bytes=720))
    # 360 bytes a worker are 40 blocks, 10 of which are being read: 30 of 100 are there when they come again
    assert (found.first_epoch_bytes, found.later_epoch_bytes) == (900, pytest.approx(630))


def test_local_data_are_read_from_no_store(dataset: Dataset) -> None:
    found = reading(make_job(dataset), CacheSettings(cache_dir="cache"))
    assert not found.far
    assert found.total_bytes(5) == 0


def test_seconds_of_a_gpu_step_are_worked_by_hand(dataset: Dataset) -> None:
    job, machine = make_job(dataset, workers=2, on_gpu=True), gpu_machine("h200", threads=2)
    parts = step_parts(job, EngineSettings(kind="torch"), machine, feeds=True)
    assert parts["compute"] == pytest.approx(step_flops(job.shape) / (ACHIEVED_COMPUTE * 67e12))
    assert parts["memory bandwidth"] == pytest.approx(pass_bytes(job.shape) / (0.7 * 4.8e12))
    assert parts["host"] == pytest.approx(calls(job.shape) * 6e-6)
    assert parts["feed"] == pytest.approx(128 * job.row_bytes / 16e9)  # two threads of 8 GB/s
    size = 4 * parameters(job.shape.dims, job.shape.model)
    assert parts["network"] == pytest.approx(2 * size / 2 / (0.7 * 450e9) + 1e-4)
    assert step_seconds(parts, machine) == parts["host"] + parts["network"]


def test_one_worker_exchanges_nothing_and_nodes_exchange_through_one_connection(dataset: Dataset) -> None:
    machine, engine = gpu_machine("h100", threads=2), EngineSettings()
    assert exchange_seconds(make_job(dataset, on_gpu=True), engine, machine) == 0
    near = exchange_seconds(make_job(dataset, workers=4, on_gpu=True), engine, machine)
    assert exchange_seconds(make_job(dataset, workers=4, nodes=2, on_gpu=True), engine, machine) > near
    assert exchange_seconds(make_job(dataset, workers=4, on_gpu=True), EngineSettings(zero_stage=3), machine) > near


def test_more_gpus_are_no_slower_and_better_ones_neither(dataset: Dataset) -> None:
    rates = [on_gpus(dataset, workers, train={"accumulation": 1}).ceilings["compute"] for workers in (1, 2, 4, 8)]
    assert rates == sorted(rates)
    by_kind = {kind: on_gpus(dataset, 1, kind, model={"dim": 512}).ceilings["compute"] for kind in GPUS}
    assert by_kind["h100"] == by_kind["h200"]
    bf16 = on_gpus(dataset, 1, engine={"precision": "bf16"}).ceilings["compute"]
    assert bf16 > on_gpus(dataset, 1).ceilings["compute"]


def test_the_lowest_ceiling_binds_and_a_slow_store_is_one(dataset: Dataset) -> None:
    run = settings(dataset)
    job, machine = make_job(dataset, on_gpu=True), gpu_machine("h200", threads=2)
    found = forecast(job, run, machine)
    assert found.binds == min(found.ceilings, key=found.ceilings.__getitem__) == "host"
    assert found.rows_per_second == pytest.approx(256 / found.step_seconds)
    remote = forecast(far(job, num_blocks=10**6, block_bytes=10**6), run, machine)
    assert remote.binds == "store"
    assert remote.rows_per_second == pytest.approx(remote.ceilings["store"])
    assert remote.read_bytes == 4 * 1e12
    assert not any("measured" in sentence and "not measured" not in sentence for sentence in found.basis)


def test_an_unknown_gpu_names_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"--gpu: found 'h300', allowed is h200, h100, a100, l4"):
        gpu_machine("h300", threads=1)


def test_a_cpu_step_is_the_sum_of_its_parts_at_the_measured_rates(dataset: Dataset, calibration: Calibration) -> None:
    job, machine = make_job(dataset, workers=2), cpu_machine(calibration, workers=2, threads=1)
    parts = step_parts(job, EngineSettings(kind="torch"), machine, feeds=True)
    assert parts["compute"] == pytest.approx(step_flops(job.shape) / 1e9)  # all are nearest to the small product
    assert step_seconds(parts, machine) == pytest.approx(sum(parts.values()) - parts["feed"])  # two cores are free
    crowded = cpu_machine(calibration, workers=8, threads=1)
    assert crowded.product_seconds(products(job.shape)[0], "fp32") == pytest.approx(
        2 * machine.product_seconds(products(job.shape)[0], "fp32")
    )
    assert any("more workers than cores" in sentence for sentence in crowded.basis)


def test_a_calibration_serves_the_nearest_size_and_survives_a_file(tmp_path: Path, calibration: Calibration) -> None:
    assert calibration.product_rate(Product(512, 700, 400), "fp32") == 1e11
    assert calibration.product_rate(Product(100, 30, 90), "fp32") == 1e9
    write_calibration(calibration, tmp_path / "here.json")
    assert read_calibration(tmp_path / "here.json") == calibration
    only = calibration.model_copy(update={"products": calibration.products[:2]})
    with pytest.raises(ValueError, match="holds no products in bf16"):
        only.product_rate(Product(1, 1, 1), "bf16")


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', '{"format": "dynfusion-calibration-1"}'])
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(ValueError, match=r"calibration .*wrong.json: not readable"):
        read_calibration(tmp_path / "wrong.json")


def test_this_machine_is_calibrated_for_the_run(dataset: Dataset) -> None:
    job = make_job(dataset, workers=2)
    found = calibrate(products(job.shape), "fp32", workers=1, threads=1)
    assert (found.workers, found.threads) == (1, 1)
    assert {rate.precision for rate in found.products} == {"fp32"}
    assert max(rate.rows for rate in found.products) <= 1024
    slowest = min(rate.flops_per_second for rate in found.products)
    assert 1e6 < slowest <= max(rate.flops_per_second for rate in found.products) < 1e14
    assert 1e8 < found.pass_rate < 1e13
    assert 1e-7 < found.call_seconds < 1e-2
