"""The model as a person uses it in a notebook: named arrays in, arrays out, a folder to keep it in.

model = FusionModel.load("model")
fused = model.encode({"morgan": a, "selfies": b})          # a modality left out is absent for every row
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynfusion.fusion.gating import Gates
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.printable import quoted
from dynfusion.settings import build, parse_json

FORMAT = "dynfusion-model-1"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9_.+-]+")
"""Of a modality, as in a packed dataset."""

Embeddings = Mapping[str, "np.ndarray | Tensor | None"]
Presence = Mapping[str, "np.ndarray | Tensor"]


class FusionModel:
    """A trained fusion network with the training data's statistics inside; eval mode, no gradients.

    Every method takes a mapping from modality name to [rows, dim_m] embeddings in their original units, and optionally
    to [rows] booleans that say where they are present. A modality that is left out or None is absent for every row, and
    a row of NaN is absent too. Raises ValueError for an unknown modality, a wrong width, differing row counts, a value
    that is not finite in a present row, or a row with nothing present, naming what was found.
    """

    def __init__(self, network: FusionNetwork, *, batch_rows: int = 8192) -> None:
        self.network = network.eval()
        self.batch_rows = batch_rows

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.network.modalities

    @property
    def dims(self) -> dict[str, int]:
        return dict(self.network.widths)

    @property
    def dim(self) -> int:
        """Width of the fused embedding."""
        return self.network.settings.dim

    def encode(self, embeddings: Embeddings, present: Presence | None = None) -> Float[np.ndarray, "rows dim"]:
        """The fused embedding of every row, float32."""
        return np.concatenate([fused.numpy() for fused, _ in self._run(embeddings, present)])

    def attention(
        self, embeddings: Embeddings, present: Presence | None = None
    ) -> Float[np.ndarray, "rows modalities"]:
        """How much each present modality contributed: weights that sum to 1 over a row, 0 where absent, float32.

        Of the first round, where `model.completion` makes two.
        """
        return np.concatenate([attention.numpy() for _, attention in self._run(embeddings, present)])

    def reconstruct(
        self, embeddings: Embeddings, present: Presence | None = None
    ) -> dict[str, Float[np.ndarray, "rows _"]]:
        """Every modality, absent ones too, from the present ones of each row; original units, float32."""
        chunks: dict[str, list[np.ndarray]] = {name: [] for name in self.modalities}
        for fused, _ in self._run(embeddings, present):
            with torch.inference_mode():
                decoded = self.network.decode(fused)
            for name, tower, values in zip(self.modalities, self.network.towers, decoded, strict=True):
                scale = torch.where(tower.informative, tower.std, torch.zeros_like(tower.std))
                chunks[name].append((values * scale + tower.mean).numpy())
        return {name: np.concatenate(parts) for name, parts in chunks.items()}

    def projections(
        self, embeddings: Embeddings, present: Presence | None = None
    ) -> dict[str, Float[np.ndarray, "rows dim"]]:
        """Every present modality in the shared space, what `encode` weighs and adds; zero where absent, float32."""
        return self._per_modality(embeddings, present, lambda gates, projection: projection)

    def gates(self, embeddings: Embeddings, present: Presence | None = None) -> dict[str, Float[np.ndarray, "rows _"]]:
        """How far each dimension of a modality is let through, 0..1, as wide as its embedding; zero where absent."""
        return self._per_modality(embeddings, present, lambda gates, projection: gates.values)

    def statistics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation of each modality over the training rows, float64."""
        return {
            name: (tower.mean.double().numpy(), tower.std.double().numpy())
            for name, tower in zip(self.modalities, self.network.towers, strict=True)
        }

    def save(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` into `folder`, made if need be."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        save_weights(self.network, self.network.state_dict(), target)
        return target

    @classmethod
    def load(cls, folder: str | Path) -> "FusionModel":
        """The model that `save`, a training run or `dynfusion export` left in `folder`; nothing is unpickled.

        Raises ValueError when a file is missing, damaged or of another format.
        """
        return cls(load_network(Path(folder)))

    def _run(self, embeddings: Embeddings, present: Presence | None) -> Iterator[tuple[Tensor, Tensor]]:
        for values, visible in self._batches(embeddings, present):
            with torch.inference_mode():
                yield self.network.encode(values, visible)

    def _per_modality(
        self, embeddings: Embeddings, present: Presence | None, pick: Callable[[Gates, Tensor], Tensor]
    ) -> dict[str, np.ndarray]:
        """What `pick` takes of every tower's gates and projection, zero where the modality is absent."""
        chunks: dict[str, list[np.ndarray]] = {name: [] for name in self.modalities}
        for values, visible in self._batches(embeddings, present):
            with torch.inference_mode():
                for column, (name, tower) in enumerate(
                    zip(self.modalities, self._towers(values, visible), strict=True)
                ):
                    chunks[name].append(torch.where(visible[:, [column]], pick(*tower), 0).numpy())
        return {name: np.concatenate(parts) for name, parts in chunks.items()}

    def _batches(self, embeddings: Embeddings, present: Presence | None) -> Iterator[tuple[list[Tensor], Tensor]]:
        values, visible = self._gather(embeddings, present or {})
        for start in range(0, max(1, len(visible)), self.batch_rows):
            rows = slice(start, start + self.batch_rows)
            yield [value[rows] for value in values], visible[rows]

    def _towers(self, values: list[Tensor], visible: Bool[Tensor, "rows modalities"]) -> Iterator[tuple[Gates, Tensor]]:
        """Gates and projection of every modality, one after the other."""
        for tower, value, column in zip(self.network.towers, values, visible.unbind(dim=1), strict=True):
            gates, projection, _ = tower(tower.standardise(value, column), column.to(tower.mean.dtype)[None])
            yield gates, projection

    def _gather(
        self, embeddings: Embeddings, present: Presence
    ) -> tuple[list[Tensor], Bool[Tensor, "rows modalities"]]:
        for name in (*embeddings, *present):
            if name not in self.modalities:
                raise ValueError(
                    f"modality {name!r}: not known to this model, allowed are {', '.join(self.modalities)}"
                )
        for name in present:
            if embeddings.get(name) is None:
                raise ValueError(f"modality {name!r}: presence is given without embeddings")
        given = {name: torch.as_tensor(value) for name, value in embeddings.items() if value is not None}
        if not given:
            raise ValueError(f"embeddings: found none, give at least one of {', '.join(self.modalities)}")
        rows = len(next(iter(given.values())))
        values, columns = [], []
        for name, width in self.network.widths.items():
            value, column = _checked(name, given.get(name), present.get(name), (rows, width))
            values.append(value)
            columns.append(column)
        visible = torch.stack(columns, dim=1)
        empty = (~visible.any(dim=1)).nonzero()
        if len(empty):
            raise ValueError(
                f"row {int(empty[0])}: no modality is present in {len(empty)} of {rows} rows, each needs at least one"
            )
        return values, visible


def _checked(
    name: str, value: Tensor | None, present: "np.ndarray | Tensor | None", shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    rows, width = shape
    if value is None:
        return torch.zeros(rows, width), torch.zeros(rows, dtype=torch.bool)
    if tuple(value.shape) != shape:
        wanted = f"({rows}, {width})" if value.ndim == 2 else f"(rows, {width})"
        raise ValueError(f"modality {name!r}: found shape {tuple(value.shape)}, allowed is {wanted}")
    value = value.to(torch.float32)
    missing = value.isnan().all(dim=1)
    column = ~missing if present is None else torch.as_tensor(present).to(torch.bool)
    if column.shape != (rows,):
        raise ValueError(f"modality {name!r}: found presence of shape {tuple(column.shape)}, allowed is ({rows},)")
    broken = (column & ~value.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise ValueError(
            f"modality {name!r}, row {int(broken[0])}: found a value that is not finite in a present row, "
            "allowed are finite numbers, or a whole row of NaN for absent"
        )
    return value, column


def save_weights(network: FusionNetwork, weights: Mapping[str, Tensor], folder: Path) -> None:
    """`config.json` of `network` and `model.safetensors` of `weights`, its state, in an existing folder.

    Raises ValueError for a modality's name that `load` would refuse.
    """
    for name in network.widths:
        if not _NAME.fullmatch(name):
            raise ValueError(f"modality {name!r}: allowed are letters, digits and any of _ . + - in a saved model")
    config = {"format": FORMAT, "modalities": network.widths, "settings": network.settings.model_dump(mode="json")}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_network(folder: Path) -> FusionNetwork:
    """The network in a model folder. Raises ValueError as `FusionModel.load` does."""
    widths, settings = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model {path}: not readable as safetensors, {' '.join(str(error).split())}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"model {path}: {name} holds {tensor.dtype}, allowed are floating point numbers")
    if len(widths) > len(tensors):  # before so many parts are made
        raise ValueError(f"model {path}: does not fit {CONFIG}, {len(tensors)} tensors for {len(widths)} modalities")
    try:
        with torch.device("meta"):  # so that no memory is asked for that the weights do not fill
            expected = {name: tensor.shape for name, tensor in FusionNetwork(widths, settings).state_dict().items()}
    except (RuntimeError, TypeError) as error:  # numbers that no tensor can have
        raise ValueError(f"model {folder / CONFIG}: no such network, {str(error).partition(chr(10))[0]}") from None
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        shapes = [_shape(shapes.get(wrong[0])) for shapes in (found, expected)]
        raise ValueError(
            f"model {path}: does not fit {CONFIG}, {quoted(wrong[0])} is {shapes[0]}, needed is {shapes[1]}"
        )
    network = FusionNetwork(widths, settings)
    network.load_state_dict(tensors)
    return network


def _shape(shape: torch.Size | None) -> str:
    return "not there" if shape is None else f"of shape {tuple(shape)}"


def _read_config(path: Path) -> tuple[dict[str, int], ModelSettings]:
    """Width by modality, and the settings; a folder that does not name `completion` was encoded without."""
    try:
        config = parse_json(path.read_bytes(), f"model {path}")
    except FileNotFoundError as error:
        what = f"no {CONFIG} in it" if path.parent.is_dir() else "there is no such folder"
        raise ValueError(f"model folder {path.parent}: {what}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"model {path}: not a model of this version, expected format {FORMAT!r}")
    widths, settings = config.get("modalities"), config.get("settings")
    if not isinstance(widths, dict) or not isinstance(settings, dict) or not widths:
        raise ValueError(f"model {path}: found no modalities or no settings, allowed are objects of names and values")
    for name, width in widths.items():
        if type(width) is not int or width < 1 or not _NAME.fullmatch(name):
            raise ValueError(
                f"model {path}: modality {name!r} of width {width!r}, allowed are a name of letters, digits and any of "
                "_ . + - and a whole number from 1 on"
            )
    try:
        return widths, build(ModelSettings, {"completion": False, **settings})
    except ValueError as error:
        raise ValueError(f"model {path}: {error}") from None
