"""DeepSpeed's configuration, and the keys of `engine.deepspeed` that would end or mislead every worker, refused here.

DeepSpeed itself says which keys there are: its configuration is parsed from a mapping that notes what is asked for.
"""

import logging
import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from pydantic import ValidationError

from dynfusion.settings import nearest
from dynfusion.training.config import EngineSettings, TrainSettings

ZERO = "zero_optimization"
RESERVED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "zero_optimization.stage",
    "torch_autocast",
    "bf16",
    "bfloat16",
    "fp16",
    "data_types",
)
REMOVED = (
    *("amp", "compression_training", "curriculum_learning", "eigenvalue", "elasticity", "graph_harvesting", "nebula"),
    *("progressive_layer_drop", "quantize_training", "sparse_attention", "sparse_gradients"),
    *("zero_optimization.mics_shard_size", "zero_optimization.mics_hierarchical_params_gather"),
    "zero_optimization.zeropp_loco_param",
)
"""Keys of older releases: DeepSpeed 0.19.8 refuses them in a worker, and releases before ignored most of them."""


def configuration(train: TrainSettings, engine: EngineSettings) -> dict[str, Any]:
    """DeepSpeed's configuration: everything that decides numbers is written out, `engine.deepspeed` adds the rest.

    Raises ValueError when `engine.deepspeed` names a key that this project's own settings decide, a removed, deprecated
    or unknown one, or one that needs another setting.
    """
    extra = {name: value for name, value in engine.deepspeed.items() if name != ZERO}
    zero = engine.deepspeed.get(ZERO, {})
    if not isinstance(zero, Mapping):
        raise ValueError(f"setting engine.deepspeed.{ZERO}: found {zero!r}, allowed is a table of keys")
    for name in (*extra, *(f"{ZERO}.{key}" for key in zero)):
        if name in RESERVED:
            raise ValueError(f"setting engine.deepspeed.{name}: decided by dynfusion's own settings, leave it out")
        if name in REMOVED:
            raise ValueError(f"setting engine.deepspeed.{name}: DeepSpeed has removed this feature, leave it out")
    made = {
        "train_micro_batch_size_per_gpu": 1,  # nominal: rows per rank may differ, and the loss is already divided
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.gradient_clipping if engine.zero_stage > 0 else 0.0,
        ZERO: {"stage": engine.zero_stage, **zero},
        "steps_per_print": 1_000_000_000,
        **extra,
    }
    if engine.deepspeed:
        _refuse_unknown(made, extra, zero)
        _refuse_offload(extra, zero, engine.zero_stage)
    return made


def import_deepspeed(device: torch.device) -> Any:
    """The library, with its JIT-compiled CPU collective switched off: gloo does, and no compiler is needed."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class _Asked(dict[str, Any]):
    """A configuration that notes the keys that are asked for."""

    def __init__(self, content: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(content)
        self.names = names

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> "_Asked":
        return _Asked(self, self.names)


def _refuse_unknown(made: dict[str, Any], extra: Mapping[str, Any], zero: Mapping[str, Any]) -> None:
    """Raises ValueError for keys that DeepSpeed never asks for or has deprecated, and for values it does not take."""
    import_deepspeed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    asked: set[str] = set()
    DeepSpeedConfig(_Asked({"train_micro_batch_size_per_gpu": 1}, asked))
    known, deprecated = asked.difference(RESERVED, REMOVED), dict[str, str]()
    for name, field in DeepSpeedZeroConfig.model_fields.items():
        notes = field.json_schema_extra
        if isinstance(notes, dict) and notes.get("deprecated"):
            deprecated[name] = str(notes["new_param"])
        else:
            known.update(f"{ZERO}.{key}" for key in (name, field.alias) if key is not None)
    for name in (*extra, *(f"{ZERO}.{key}" for key in zero)):
        if name in known:
            continue
        leaf = name.removeprefix(f"{ZERO}.")
        if leaf in deprecated:
            raise ValueError(
                f"setting engine.deepspeed.{name}: DeepSpeed has deprecated it, its place is taken by "
                f"{ZERO}.{deprecated[leaf]}"
            )
        raise ValueError(f"setting engine.deepspeed.{name}: unknown name, {nearest(name, sorted(known))}")
    try:
        DeepSpeedConfig(deepcopy(made))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"setting engine.deepspeed: {where}: found {first['input']!r}, {first['msg']}") from None
    except (DeepSpeedConfigError, ValueError, AssertionError, AttributeError, TypeError) as error:
        raise ValueError(f"setting engine.deepspeed: DeepSpeed does not take it, {error}") from None


def _refuse_offload(extra: Mapping[str, Any], zero: Mapping[str, Any], stage: int) -> None:
    """Raises ValueError where DeepSpeed would end each worker, or where it would offload nothing and not say so."""
    optimizer, parameters = (
        (zero.get(name) or {}).get("device", "none") != "none" for name in ("offload_optimizer", "offload_param")
    )
    if optimizer and stage == 0:
        raise ValueError(f"setting engine.deepspeed.{ZERO}.offload_optimizer: needs engine.zero_stage 1, 2 or 3")
    if parameters and stage < 3:
        raise ValueError(f"setting engine.deepspeed.{ZERO}.offload_param: needs engine.zero_stage 3, found {stage}")
    if optimizer and extra.get("zero_force_ds_cpu_optimizer", True):
        raise ValueError(
            f"setting engine.deepspeed.{ZERO}.offload_optimizer: DeepSpeed offloads only optimizers of its own and "
            "dynfusion's is torch's AdamW; leave it out, or set engine.deepspeed.zero_force_ds_cpu_optimizer=false to "
            "have it all the same, slowly"
        )
