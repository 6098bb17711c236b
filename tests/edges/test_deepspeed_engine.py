"""The engines mean the same thing: one update, applied, over engines, stages, ranks and accumulation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from dynfusion.edges.deepspeed_config import configuration
from dynfusion.edges.deepspeed_engine import DeepSpeedEngine
from dynfusion.edges.universal_checkpoint import place_steps
from dynfusion.fusion.batch import Batch
from dynfusion.fusion.objective import FusionObjective
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import Engine, TorchEngine
from tests.fusion import cases
from tests.training.ranks import run_ranks

STEPS = 3


def updates(
    kinds: list[tuple[str, int]], accumulation: int, precision: str = "fp32"
) -> dict[tuple[str, int], tuple[list[float], dict[str, Tensor]]]:
    """(gradient norms, weights) after three steps with each engine, on this rank's groups of the same batches."""
    return {kind: _train(*kind, accumulation, precision) for kind in kinds}


def _train(kind: str, stage: int, accumulation: int, precision: str) -> tuple[list[float], dict[str, Tensor]]:
    train = TrainSettings(accumulation=accumulation, gradient_clipping=0.5, learning_rate=1e-2)
    settings = EngineSettings(kind=kind, zero_stage=stage, precision=precision)
    made = cases.objective().float()
    engine: Engine = (TorchEngine if kind == "torch" else DeepSpeedEngine)(made, train, settings, torch.device("cpu"))
    norms = []
    for step in range(STEPS):
        mine = _share(_float(cases.batch(48, group_rows=8, seed=step)), engine)
        counts = engine.sum(made.counts(mine))
        for micro in mine.micro_batches(accumulation):
            totals, _ = engine.forward(micro)
            engine.backward(engine.world_size * (made.coefficients(counts).to(totals.dtype) * totals).sum())
        norms.append(float(engine.step(1e-2)))
    return norms, engine.weights()


def _share(batch: Batch, engine: Engine) -> Batch:
    """Two of six groups for rank 0 of 2, four for rank 1: ranks need not be equal."""
    if engine.world_size == 1:
        return batch
    thirds = batch.micro_batches(3)
    mine = thirds[:1] if engine.rank == 0 else thirds[1:]
    return Batch(
        values=tuple(torch.cat(columns) for columns in zip(*(part.values for part in mine), strict=True)),
        present=torch.cat([part.present for part in mine]),
        hidden=torch.cat([part.hidden for part in mine]),
        row_ids=torch.cat([part.row_ids for part in mine]),
        group_rows=batch.group_rows,
    )


def _float(batch: Batch) -> Batch:
    return Batch(
        tuple(value.float() for value in batch.values), batch.present, batch.hidden, batch.row_ids, batch.group_rows
    )


def _assert_alike(
    found: tuple[list[float], dict[str, Tensor]], expected: tuple[list[float], dict[str, Tensor]]
) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for name, tensor in expected[1].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=2e-5)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("reference")
    return run_ranks(1, folder, updates, [("torch", 0)], 1)[0][("torch", 0)]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_torch_and_deepspeed_apply_the_same_update(
    world_size: int, accumulation: int, tmp_path: Path, reference: tuple[list[float], dict[str, Tensor]]
) -> None:
    assert min(reference[0]) > 0.5, "the reference must clip, or clipping is not compared"
    for rank in run_ranks(world_size, tmp_path, updates, [("torch", 0), ("deepspeed", 0)], accumulation):
        for found in rank.values():
            _assert_alike(found, reference)


def test_bf16_means_autocast_in_both_engines(tmp_path: Path) -> None:
    for rank in run_ranks(2, tmp_path, updates, [("torch", 0), ("deepspeed", 0)], 1, "bf16"):
        _assert_alike(rank[("deepspeed", 0)], rank[("torch", 0)])


@pytest.mark.slow
def test_every_zero_stage_reduces_the_gradients_of_bf16_in_fp32(tmp_path: Path) -> None:
    stages = [("deepspeed", stage) for stage in (1, 2, 3)]
    found = run_ranks(2, tmp_path, updates, [("torch", 0), *stages], 1, "bf16")[0]
    norms, weights = found[("torch", 0)]
    for stage in stages:
        assert found[stage][0] == pytest.approx(norms, rel=1e-6)  # 2e-5 off when they are reduced in bfloat16
        for name, tensor in weights.items():
            torch.testing.assert_close(found[stage][1][name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bf16", "fp16", "data_types", "torch_autocast", "amp"])
def test_precision_is_the_settings_to_decide(name: str) -> None:
    with pytest.raises(ValueError, match=rf"engine\.deepspeed\.{name}: .* leave it out"):
        configuration(TrainSettings(), EngineSettings(deepspeed={name: {"enabled": True}}))


def resumed_and_not(stage: int, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights after four steps without a break, and after two, a save, a load into a new engine and two more."""
    train, settings = TrainSettings(), EngineSettings(zero_stage=stage)

    def fresh() -> tuple[FusionObjective, DeepSpeedEngine]:
        made = cases.objective().float()
        return made, DeepSpeedEngine(made, train, settings, torch.device("cpu"))

    def steps(made: FusionObjective, engine: Engine, seeds: range) -> None:
        for seed in seeds:
            mine = _share(_float(cases.batch(48, group_rows=8, seed=seed)), engine)
            totals, _ = engine.forward(mine)
            coefficients = made.coefficients(engine.sum(made.counts(mine)))
            engine.backward(engine.world_size * (coefficients.to(totals.dtype) * totals).sum())
            engine.step(1e-2)

    made, engine = fresh()
    steps(made, engine, range(2))
    saved = Path(folder)
    saved.mkdir(parents=True, exist_ok=True)
    engine.save(saved)
    weights = engine.weights()
    distributed.barrier()
    steps(made, engine, range(2, 4))
    whole = engine.weights()
    made, engine = fresh()
    engine.load(saved, weights)
    steps(made, engine, range(2, 4))
    return whole, engine.weights()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_continues_bit_for_bit_from_what_it_saved(stage: int, tmp_path: Path) -> None:
    for whole, resumed in run_ranks(2, tmp_path, resumed_and_not, stage, str(tmp_path / "saved")):
        for name, tensor in whole.items():
            assert torch.equal(resumed[name], tensor), name


def saved_or_continued(
    stage: int, folder: str, weights: dict[str, Tensor] | None, steps: range, kind: str = "cpu"
) -> dict[str, Tensor]:
    """Weights after `steps` of a new run, saved in `folder`; or of the one that `folder` and `weights` hold."""
    made = cases.objective().float()
    device = torch.device(kind)
    engine = DeepSpeedEngine(made, TrainSettings(), EngineSettings(zero_stage=stage), device)
    if weights is not None:
        engine.load(Path(folder), weights)
        for state in engine.optimizer.optimizer.state.values() if stage else ():
            assert (state["step"].device, state["step"].dtype) == (state["exp_avg"].device, torch.float32)
    for seed in steps:
        mine = _share(_float(cases.batch(48, group_rows=8, seed=seed)), engine).to(device)
        totals, _ = engine.forward(mine)
        coefficients = made.coefficients(engine.sum(made.counts(mine)))
        engine.backward(engine.world_size * (coefficients.to(totals.dtype) * totals).sum())
        engine.step(1e-2)
    if weights is None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        engine.save(Path(folder))
    return engine.weights()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_every_stage_continues_on_another_number_of_ranks(stage: int, first: int, then: int, tmp_path: Path) -> None:
    saved, other = str(tmp_path / "saved"), str(tmp_path / "other")
    weights = run_ranks(first, tmp_path / "first", saved_or_continued, stage, saved, None, range(2))[0]
    found = run_ranks(then, tmp_path / "then", saved_or_continued, stage, saved, weights, range(2, 4))[0]
    expected = run_ranks(1, tmp_path / "whole", saved_or_continued, 0, other, None, range(4))[0]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_continues_on_another_number_of_ranks_on_a_gpu(stage: int, tmp_path: Path) -> None:
    saved = str(tmp_path / "saved")
    weights = run_ranks(2, tmp_path / "first", saved_or_continued, stage, saved, None, range(2))[0]
    found = run_ranks(1, tmp_path / "then", saved_or_continued, stage, saved, weights, range(2, 4), "cuda")[0]
    expected = run_ranks(1, tmp_path / "cpu", saved_or_continued, stage, saved, weights, range(2, 4))[0]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_counts_of_steps_lie_beside_the_moments_as_fused_adamw_needs_them() -> None:
    elsewhere = torch.empty(3, device="meta")  # a device that is not the CPU
    states = [{"step": torch.tensor(7), "exp_avg": torch.zeros(3)}, {"step": 7.0, "exp_avg": elsewhere}, {}]
    place_steps(states)
    assert float(states[0]["step"]) == 7.0
    assert [state["step"].device.type for state in states[:2]] == ["cpu", "meta"]
    assert all(state["step"].dtype == torch.float32 for state in states[:2])
    without = [{"exp_avg": torch.zeros(3)}]
    place_steps(without, 5.0)
    assert float(without[0]["step"]) == 5.0
    assert states[2] == {}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_applies_the_same_update(
    stage: int, accumulation: int, world_size: int, tmp_path: Path, reference: tuple[list[float], dict[str, Tensor]]
) -> None:
    found = run_ranks(world_size, tmp_path, updates, [("deepspeed", stage)], accumulation)
    _assert_alike(found[0][("deepspeed", stage)], reference)


def test_a_key_that_dynfusion_decides_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"engine\.deepspeed\.gradient_clipping: decided by dynfusion's own settings"):
        configuration(TrainSettings(), EngineSettings(deepspeed={"gradient_clipping": 3.0}))
    with pytest.raises(ValueError, match=r"engine\.deepspeed\.zero_optimization\.stage"):
        configuration(TrainSettings(), EngineSettings(deepspeed={"zero_optimization": {"stage": 2}}))
    passed = configuration(TrainSettings(), EngineSettings(deepspeed={"zero_optimization": {"overlap_comm": True}}))
    assert passed["zero_optimization"] == {"stage": 0, "overlap_comm": True}


@pytest.mark.parametrize(
    ("stage", "keys", "sentence"),
    [
        (0, {"foo": 1}, r"deepspeed\.foo: unknown name, known here: .*activation_checkpointing"),
        (0, {"flops_profilr": {}}, r"flops_profilr: unknown name, did you mean flops_profiler\?"),
        (2, {"zero_optimization": {"overlap_com": True}}, r"did you mean zero_optimization\.overlap_comm\?"),
        (2, {"overlap_comm": True}, r"deepspeed\.overlap_comm: .* did you mean zero_optimization\.overlap_comm\?"),
        (2, {"zero_optimization": {"cpu_offload": True}}, "deprecated it, .* zero_optimization.offload_optimizer"),
        (2, {"cpu_offload": True}, "deprecated it, .* zero_optimization.offload_optimizer"),
        (2, {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "torch's AdamW; leave it out, or set"),
        (0, {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "needs engine.zero_stage 1, 2 or 3"),
        (2, {"zero_optimization": {"offload_param": {"device": "cpu"}}}, "needs engine.zero_stage 3, found 2"),
        (2, {"zero_optimization": {"reduce_bucket_size": "many"}}, "reduce_bucket_size: found 'many'"),
        (2, {"zero_optimization": 2}, "found 2, allowed is a table"),
        (0, {"communication_data_type": "fp7"}, "DeepSpeed does not take it, .*fp7"),
    ],
)
def test_a_key_that_deepspeed_would_refuse_or_ignore_in_a_worker_is_refused_by_name(
    stage: int, keys: dict, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        configuration(TrainSettings(), EngineSettings(zero_stage=stage, deepspeed=keys))


def test_keys_that_deepspeed_knows_are_passed_on() -> None:
    keys = {
        "flops_profiler": {"enabled": False},
        "activation_checkpointing": {},
        "aio": {},
        "wall_clock_breakdown": True,
    }
    zero = {"stage3_max_live_parameters": 1000, "sub_group_size": 10}
    passed = configuration(TrainSettings(), EngineSettings(zero_stage=3, deepspeed={**keys, "zero_optimization": zero}))
    assert {name: passed[name] for name in keys} == keys
    assert passed["zero_optimization"] == {"stage": 3, **zero}


def test_no_process_group_is_left_behind() -> None:
    assert not distributed.is_initialized()
