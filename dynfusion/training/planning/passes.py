"""What one training step does beside its matrix products: bytes read and written, calls made, memory held.

These operations are many and small (`fusion.rowwise`, `gating`, `contrast`, masks, the optimizer), so they are not
counted one by one: all three quantities are linear in the sizes of a step, and the coefficients below were fitted to
recordings of every operation of steps of random sizes (`python -m tests.training.fit_passes` fits them again). The
tests record steps of other sizes and compare.
"""

from dataclasses import dataclass

from dynfusion.training.planning.work import Shape, parameters


@dataclass(frozen=True)
class Coefficients:
    """What a step adds to a quantity for every row and modality: so much for each number of these sizes.

    `decoded` is for each number that is reconstructed, `hidden` for each of the three hidden widths, `group_row` for
    each row of the contrast group, `pair` for every pair of modalities and shared dimension, `cell` for the modality as
    such; `parameter` is for every parameter of the model, whatever the rows.
    """

    width: float
    decoded: float
    dim: float
    hidden: float
    group_row: float
    pair: float
    cell: float
    parameter: float

    def of(self, shape: Shape) -> float:
        """The quantity of one step."""
        terms = zip(self.__dict__.values(), sizes(shape), strict=True)
        return sum(coefficient * size for coefficient, size in terms)


def sizes(shape: Shape) -> tuple[float, ...]:
    """What the fields of Coefficients are multiplied by, in their order."""
    model, rows, number = shape.model, shape.rows, shape.modalities
    cells, pairs = rows * number, rows * number * (number - 1) / 2
    counted = (
        rows * sum(shape.dims),
        rows * sum(share * width for share, width in zip(shape.decoded, shape.dims, strict=True)),
        cells * model.dim,
        cells * (model.gate_hidden + model.decoder_hidden + model.score_hidden),
        cells * shape.group_rows,
        pairs * model.dim,
        cells,
        parameters(shape.dims, model),
    )
    return tuple(map(float, counted))


@dataclass(frozen=True)
class Calls:
    """How many operations are dispatched for a micro-batch: so many in any case, for each modality, for each pair."""

    always: int
    modality: int
    pair: int

    def of(self, shape: Shape) -> int:
        number = shape.modalities
        return self.always + self.modality * number + self.pair * number * (number - 1) // 2


PASSES = {
    ("robust", "fp32"): Coefficients(253.7, 136.7, 415.8, 14.57, 66.47, 7.514, 4995.0, 46.7),
    ("robust", "bf16"): Coefficients(265.2, 115.3, 367.0, 3.829, 66.25, 4.43, 4809.0, 61.27),
    ("paper", "fp32"): Coefficients(278.6, 94.76, 456.4, 0.5783, 0.0, 36.51, 3931.0, 45.84),
    ("paper", "bf16"): Coefficients(275.3, 82.66, 377.4, 0.0, 0.0, 34.91, 3236.0, 60.77),
}
"""Bytes that operations other than products read and write, by preset and precision; the optimizer's among them."""

HELD = {
    ("robust", "fp32"): Coefficients(4.67, 14.56, 31.83, 7.03, 1.493, 0.0, 155.0, 1.469),
    ("robust", "bf16"): Coefficients(4.842, 9.768, 21.54, 3.784, 0.0, 0.0, 84.78, 2.428),
    ("paper", "fp32"): Coefficients(13.17, 6.221, 31.1, 2.44, 0.0, 0.0, 193.2, 2.253),
    ("paper", "bf16"): Coefficients(10.38, 4.799, 23.14, 1.129, 0.0, 0.0, 149.0, 2.567),
}
"""Bytes that a step's own tensors hold at most at one time, whatever lives longer left out."""

CALLS = {
    ("robust", "fp32"): Calls(429, 328, 27),
    ("robust", "bf16"): Calls(434, 375, 27),
    ("paper", "fp32"): Calls(316, 266, 27),
    ("paper", "bf16"): Calls(320, 309, 27),
}
"""Operations other than views, while all rows of a tensor are one piece (`rowwise.pieces`)."""


def pass_bytes(shape: Shape) -> float:
    """Bytes read and written beside the matrix products of one micro-batch."""
    return PASSES[shape.loss.preset, shape.precision].of(shape)


def held_bytes(shape: Shape) -> float:
    """The most that activations and temporary tensors of one micro-batch hold."""
    return HELD[shape.loss.preset, shape.precision].of(shape)


def calls(shape: Shape) -> int:
    """Operations that the host dispatches for one micro-batch."""
    return CALLS[shape.loss.preset, shape.precision].of(shape)
