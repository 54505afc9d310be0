"""The matrices that the products are measured on: those of the papers' tables, and any other."""

import dataclasses
import functools
import re

import numpy as np

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.bsr import BsrMatrix

# Batches of a product, and of the gradients.
BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)
GRADIENT_BATCHES = (64, 2048)


@dataclasses.dataclass(frozen=True)
class Case:
    """A weight matrix to measure: its name, shape `(in, out)`, sparsity (a fraction) and gates."""

    name: str
    shape: tuple
    sparsity: float
    gates: int = 1

    @property
    def title(self):
        return f"{self.name.rstrip('0123456789').upper()} {self.shape[0]}x{self.shape[1]}, {self.sparsity:.0%} zero"


# [BSR] Figure 2 (rnn, gru) and Table 6.
CASES = {
    case.name: case
    for case in (
        Case("rnn", (1760, 1760), 0.90),
        Case("gru", (2560, 7680), 0.95, gates=3),
        Case("lstm65", (1500, 6000), 0.65, gates=4),
        Case("lstm83", (1500, 6000), 0.83, gates=4),
        Case("lstm90", (1500, 6000), 0.90, gates=4),
    )
}


def parse_case(text):
    """A `Case` from its name, or from a text like "1024x4096@0.9" or, with gates, "1024x4096@0.9/4"."""
    if text in CASES:
        return CASES[text]
    match = re.fullmatch(r"(\d+)x(\d+)@([01]?\.\d+|0|1)(?:/(\d+))?", text)
    if not match:
        raise ValueError(
            f"A case is one of {', '.join(CASES)}, or INxOUT@SPARSITY with /GATES or without, such as "
            f"1024x4096@0.9/4. Received: {text!r}."
        )
    height, width, sparsity, gates = match.groups()
    # "matrix" stands for the letters of a known case; digits at its end are not part of the title.
    return Case(f"matrix{height}x{width}@{sparsity}", (int(height), int(width)), float(sparsity), int(gates or 1))


@dataclasses.dataclass(frozen=True)
class Problem:
    """One product to time.

    Args:
        matrix: the `BsrMatrix`.
        inputs: arrays `[batch, in]`, float32, multiplied in turns.
        output_gradients: arrays `[batch, out]`, float32, as many as inputs.
    """

    matrix: BsrMatrix
    inputs: list
    output_gradients: list

    @functools.cached_property
    def dense(self):
        """The matrix with its zeros, float32 `[in, out]`."""
        return np.array(self.matrix.to_dense(), order="C")  # a copy: PyTorch asks for arrays it may write to

    @property
    def flops(self):
        """Floating-point operations of one product: two for each stored weight and row of the batch."""
        return 2 * self.matrix.blocks.size * len(self.inputs[0])

    @property
    def weight_bytes(self):
        """Bytes of the stored blocks."""
        return self.matrix.blocks.nbytes


def random_matrix(case, block_shape, seed=0):
    """A `BsrMatrix` of the case with an exact number of blocks, at random places."""
    rng = np.random.default_rng(seed)
    grid = BlockGrid(case.shape, block_shape, case.gates)
    kept = rng.permutation(grid.num_blocks)[: round(grid.num_blocks * (1 - case.sparsity))]
    block_mask = np.zeros(grid.num_blocks, bool)
    block_mask[kept] = True
    w = rng.standard_normal(case.shape, dtype=np.float32)
    return BsrMatrix.from_dense(w, grid, block_mask.reshape(grid.mask_shape))


def random_problem(case, block_shape, batch, inputs=2, seed=0):
    """A `Problem` on a random matrix of the case."""
    rng = np.random.default_rng(seed + 1)
    x = [rng.standard_normal((batch, case.shape[0]), dtype=np.float32) for _ in range(inputs)]
    dy = [rng.standard_normal((batch, case.shape[1]), dtype=np.float32) for _ in range(inputs)]
    return Problem(random_matrix(case, block_shape, seed), x, dy)
