"""The settings of a training run beside the model's and the losses' own: data, optimisation, engine, workers."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from dynfusion.settings import Settings
from dynfusion.store.feed import FeedSettings
from dynfusion.store.origin import CacheSettings


class DataSettings(CacheSettings):
    """Which packed data sets are read, and how; remote ones through `cache_dir`."""

    uri: str | tuple[str, ...] = Field(
        min_length=1, description="folder or s3:// address of the packed data set, or a list of several"
    )
    weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="how often an epoch passes over each of several data sets; once by default"
    )
    group_rows: int | None = Field(
        None,
        ge=2,
        description="rows of a contrast group; by default as many lanes as give at most 512 rows and 8 groups",
    )
    feed: FeedSettings = FeedSettings()

    @property
    def uris(self) -> tuple[str, ...]:
        """The addresses, also of a single one."""
        return (self.uri,) if isinstance(self.uri, str) else self.uri


class TrainSettings(Settings):
    """The optimisation. Steps are optimizer steps; a step sees one global batch."""

    epochs: int = Field(10, ge=1, description="passes over the data; raise it to go on with a finished run")
    init: str | None = Field(
        None, description="folder of a trained model that the run starts from, with the statistics it was trained with"
    )
    start: Literal["random", "principal"] = Field(
        "random",
        description="principal: projections and decoders start as a principal component analysis of the data",
    )
    global_batch_rows: int = Field(4096, ge=2, description="molecules per step, over all workers")
    accumulation: int = Field(1, ge=1, description="micro-batches per step and worker")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="share of all steps during which it climbs from 0, linearly"
    )
    final_share: float = Field(
        0.01, ge=0, le=1, description="learning rate at the end, as a share of the peak; cosine between"
    )
    weight_decay: float = Field(
        0.01, ge=0, description="AdamW's decay of matrices; biases and the temperature have none"
    )
    gradient_clipping: float = Field(1.0, ge=0, description="largest gradient norm; 0 never clips")
    seed: int = Field(0, ge=0, description="of the weights, the order and the masks")
    log_every_steps: int = Field(20, ge=1, description="steps between two records of the history")
    checkpoint_every_steps: int = Field(500, ge=1, description="steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the latest checkpoints stay")

    @model_validator(mode="after")
    def _one_start(self) -> "TrainSettings":
        if self.init is not None and self.start != "random":
            raise ValueError(f"start {self.start} would replace the weights of init, leave one of them out")
        return self


class EngineSettings(Settings):
    """What runs backward passes and optimizer steps."""

    kind: Literal["deepspeed", "torch"] = Field(
        "deepspeed", description="DeepSpeed, or plain torch as the measured control"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="DeepSpeed's ZeRO stage; 0 is the fastest for models this small"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast with fp32 parameters, in both engines"
    )
    compile: bool = Field(
        False, description="torch.compile of model and losses; needs a C++ compiler on a CPU, a minute at each start"
    )
    deepspeed: dict[str, Any] = Field({}, description="further keys of DeepSpeed's own configuration, passed through")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "EngineSettings":
        if self.kind == "torch" and (self.zero_stage or self.deepspeed):
            raise ValueError("kind torch knows no zero_stage and no deepspeed keys, leave them out")
        return self


class TrackingSettings(Settings):
    """Where a run is watched beside its own folder, which always has history.jsonl and TensorBoard's events."""

    mlflow: str | None = Field(None, description="MLflow's tracking address, such as http://host:5000")
    wandb: str | None = Field(None, description="project of Weights & Biases; its key comes from WANDB_API_KEY")

    @field_validator("mlflow")
    @classmethod
    def _no_secret(cls, address: str | None) -> str | None:
        """Settings are printed, and kept in the run's folder."""
        if address is not None and re.match(r"[^/]*://[^/?#]*@", address):
            raise ValueError(
                "found an address with user:password@ in it, allowed is one without; "
                "MLflow takes them from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return address


class ClusterSettings(Settings):
    """Who works, and where the run is kept."""

    name: str = Field("run", description="folder of the run in `storage`; its resume key")
    storage: str = Field("runs", description="folder that every worker can reach")
    workers: tuple[int, int] = Field(
        (2, 2), description="training processes: how many, or [fewest, most] for a cluster that grows and shrinks"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs reserved for each worker; also its number of threads")
    gpus: bool = Field(False, description="one GPU for every worker")
    gpu_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="how much of a GPU each worker gets; below 1 with one worker, for several runs on one",
    )
    max_failures: int = Field(3, ge=0, description="how often a failed worker group is started again")
    resize_seconds: float = Field(
        60, gt=0, description="how often an elastic run looks whether it could have more workers"
    )
    start_deadline_seconds: float = Field(300, gt=0, description="how long the cluster may take to provide the workers")

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"found {name!r}, allowed are letters, digits, dots, dashes and underscores, a letter or digit first"
            )
        return name

    @field_validator("workers", mode="before")
    @classmethod
    def _one_number_is_both(cls, found: object) -> object:
        pair = (found, found) if isinstance(found, int) else found
        match pair:
            case [int(fewest), int(most)] if 1 <= fewest <= most:
                return pair
            case _:
                raise ValueError(
                    f"found {found!r}, allowed is a whole number from 1 on, or two of them as [fewest, most]"
                )

    @model_validator(mode="after")
    def _one_worker_on_a_shared_gpu(self) -> "ClusterSettings":
        if self.gpu_share < 1 and self.workers[1] > 1:  # two workers of one run on one GPU cannot talk to each other
            raise ValueError(f"gpu_share: found {self.gpu_share:g} with {self.workers[1]} workers, allowed is 1 worker")
        return self

    @field_serializer("workers")
    def _one_number_when_level(self, workers: tuple[int, int]) -> int | list[int]:
        return workers[0] if workers[0] == workers[1] else list(workers)
