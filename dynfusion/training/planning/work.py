"""What one training step multiplies, and by which parameters, from shapes alone.

    settings, manifest --Shape--> parameters, products: counted from the layers of `fusion.model` and `fusion.losses`

What else a step does is in `passes`. Of products and parameters every one is counted; the tests compare them with those
of real steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings, hidden_rate, subset_share
from dynfusion.fusion.model import ModelSettings

RAMP_POINTS = 64


@dataclass(frozen=True)
class Shape:
    """One micro-batch of one worker, as far as its cost depends on it."""

    dims: tuple[int, ...]
    """Width of every modality."""
    model: ModelSettings
    loss: LossSettings
    precision: str
    rows: int
    group_rows: int
    decoded: tuple[float, ...]
    """Share of the rows whose reconstruction of each modality is computed."""

    @property
    def modalities(self) -> int:
        return len(self.dims)


@dataclass(frozen=True)
class Product:
    """`batches` products of [rows, inner] and [inner, columns]."""

    rows: int
    inner: int
    columns: int
    batches: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.batches * self.rows * self.inner * self.columns


def parameters(dims: Sequence[int], model: ModelSettings) -> int:
    """Trained numbers of the model, the contrast's temperature among them."""
    return sum(parameter_sizes(dims, model))


def parameter_sizes(dims: Sequence[int], model: ModelSettings) -> list[int]:
    """How many numbers each parameter has."""
    return [1, *(size for width in dims for size in _sizes_of_one(width, model))]


def _sizes_of_one(width: int, model: ModelSettings) -> tuple[int, ...]:
    """Of one modality's gate, projection, score and decoder."""
    dim, gate, score, hidden = model.dim, model.gate_hidden, model.score_hidden, model.decoder_hidden
    gates = (width * gate, gate, gate * width, width)
    scores = (dim * score, score, score, 1)
    decoder = (dim * width, width, dim * hidden, hidden, hidden * width, width)
    return (*gates, width * dim, dim, *scores, *decoder)


def products(shape: Shape) -> list[Product]:
    """Every matrix product of one micro-batch, forward and backward."""
    found: list[Product] = []
    for width, share in zip(shape.dims, shape.decoded, strict=True):
        found += _products_of_one(shape, width, round(share * shape.rows))
    if _contrasts(shape.loss):
        rows, dim, groups = shape.group_rows, shape.model.dim, shape.rows // shape.group_rows
        logits, gradient = Product(rows, dim, rows, groups), Product(rows, rows, dim, groups)
        found += [logits, gradient, gradient] * shape.modalities
    return found


def _products_of_one(shape: Shape, width: int, decoded_rows: int) -> Iterator[Product]:
    model, rows, loss = shape.model, shape.rows, shape.loss
    dim, reconstructs = model.dim, loss.reconstruction > 0
    yield from _linear(rows, width, model.gate_hidden, first=True)
    yield from _linear(rows, model.gate_hidden, width)
    yield from _linear(rows, width, dim)
    yield from _linear(rows, width, dim, trains=loss.diversity > 0 and shape.modalities > 1)
    yield from _linear(rows, dim, model.score_hidden)
    yield from _linear(rows, model.score_hidden, 1)
    yield from _linear(decoded_rows, dim, width, trains=reconstructs)
    yield from _linear(decoded_rows, dim, model.decoder_hidden, trains=reconstructs)
    yield from _linear(decoded_rows, model.decoder_hidden, width, trains=reconstructs)


def _linear(rows: int, inner: int, columns: int, *, first: bool = False, trains: bool = True) -> Iterator[Product]:
    """A linear layer: forward, the gradient of its weight and, unless it reads data (`first`), that of its input."""
    yield Product(rows, inner, columns)
    if trains:
        yield Product(columns, rows, inner)
        if not first:
            yield Product(rows, columns, inner)


def _contrasts(loss: LossSettings) -> bool:
    return loss.preset == "robust" and loss.alignment > 0


def step_flops(shape: Shape) -> int:
    """Operations of all matrix products of one micro-batch."""
    return sum(product.flops for product in products(shape))


def decoded_shares(
    present: Sequence[float], loss: LossSettings, masking: MaskingSettings, *, on_gpu: bool
) -> tuple[float, ...]:
    """Share of rows whose reconstruction of each modality is computed, over a whole run.

    All on a GPU; on a CPU the present cells, or only the hidden ones where no loss looks at visible ones.
    """
    if on_gpu:
        return (1.0,) * len(present)
    if loss.preset == "robust" and loss.reconstruction > 0 and loss.visible_weight > 0:
        return tuple(present)
    hidden = mean_hidden_share(len(present), masking)
    return tuple(share * hidden for share in present)


def mean_hidden_share(modalities: int, masking: MaskingSettings) -> float:
    """Share of present cells that are hidden, over a run, for rows in which all modalities are present."""
    points = [(number + 0.5) / RAMP_POINTS for number in range(RAMP_POINTS)]
    return sum(_hidden_share(modalities, masking, progress) for progress in points) / RAMP_POINTS


def _hidden_share(modalities: int, masking: MaskingSettings, progress: float) -> float:
    rate, subsets = hidden_rate(masking, progress), subset_share(masking, progress)
    independent = rate * (1 - rate ** (modalities - 1)) / (1 - rate**modalities)
    uniform = 1 - 2 ** (modalities - 1) / (2**modalities - 1)
    return (1 - subsets) * independent + subsets * uniform
