"""The product with blocks that each example chooses, and its gradients, against float64 NumPy and plain TensorFlow."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import assert_close
from helpers import run_python
from tf_blocksparse.custom_ops import dynamic_block_matmul, dynamic_block_matmul_reference, library_path
from tf_blocksparse.custom_ops.library import ops

BOTH = pytest.mark.parametrize("function", [dynamic_block_matmul, dynamic_block_matmul_reference])


@dataclasses.dataclass
class Case:
    """A product; elements of the blocks outside of the matrix are NaN, and so are all blocks that nobody wants."""

    in_features: int
    out_features: int
    x: np.ndarray
    blocks: np.ndarray
    block_ids: np.ndarray
    block_gates: np.ndarray

    @property
    def sizes(self):
        return {"in_features": self.in_features, "out_features": self.out_features}

    @property
    def inputs(self):
        return self.x, self.blocks, self.block_ids, self.block_gates

    def wanted(self):
        """Yields `(example, place in k, id, gate, rows, columns, block)` of what counts, the block without its rest."""
        _, height, width = self.blocks.shape
        grid_columns = -(-self.out_features // width)
        for (e, k), block_id in np.ndenumerate(self.block_ids):
            i, j = divmod(int(block_id), grid_columns)
            rows = slice(i * height, min((i + 1) * height, self.in_features))
            columns = slice(j * width, min((j + 1) * width, self.out_features))
            block = self.blocks[block_id, : rows.stop - rows.start, : columns.stop - columns.start]
            yield e, k, block_id, np.float64(self.block_gates[e, k]), rows, columns, block.astype(np.float64)

    def product(self):
        y = np.zeros([len(self.x), self.out_features])
        for e, _, _, gate, rows, columns, block in self.wanted():
            if gate != 0:
                y[e, columns] += gate * (self.x[e, rows] @ block)
        return y

    def gradients(self, dy):
        """Of `sum(y * dy)` to x, to the blocks and to the gates; that of a zero gate counts, too."""
        dx = np.zeros(self.x.shape)
        dblocks = np.zeros(self.blocks.shape)
        dgates = np.zeros(self.block_gates.shape)
        for e, k, block_id, gate, rows, columns, block in self.wanted():
            dgates[e, k] = self.x[e, rows] @ block @ dy[e, columns]
            if gate != 0:
                dx[e, rows] += gate * (block @ dy[e, columns])
                outer = gate * np.outer(self.x[e, rows], dy[e, columns])
                dblocks[block_id, : outer.shape[0], : outer.shape[1]] += outer
        return dx, dblocks, dgates


def normal(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_case(in_features, out_features, block_shape, batch, share=0.5, zeros=0.2, seed=0):
    """`share` of the blocks for each example, `zeros` of the gates exactly zero."""
    rng = np.random.default_rng(seed)
    height, width = block_shape
    rows, columns = -(-in_features // height), -(-out_features // width)
    k = round(share * rows * columns)
    block_ids = np.stack([rng.permutation(rows * columns)[:k] for _ in range(batch)] or [np.zeros([0])])
    block_ids = block_ids.astype(np.int32).reshape(batch, k)
    block_gates = np.where(rng.random([batch, k]) < zeros, 0, rng.random([batch, k]) * 3 - 1).astype(np.float32)
    blocks = normal([rows * columns, height, width], seed + 1)
    inside = (np.arange(rows * height) < in_features).reshape(rows, 1, height, 1) & (
        np.arange(columns * width) < out_features
    ).reshape(1, columns, 1, width)
    blocks[~inside.reshape(blocks.shape)] = np.nan
    wanted = np.zeros(len(blocks), bool)
    wanted[block_ids.ravel()] = True  # with a zero gate, too: it has a gradient
    blocks[~wanted] = np.nan
    return Case(in_features, out_features, normal([batch, in_features], seed + 2), blocks, block_ids, block_gates)


def gradients(function, case, dy):
    inputs = [tf.constant(a) for a in (case.x, case.blocks, case.block_gates)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        x, blocks, gates = inputs
        loss = tf.reduce_sum(function(x, blocks, case.block_ids, gates, **case.sizes) * dy)
    return tape.gradient(loss, inputs)


def check(case):
    terms = max(case.in_features, 1)
    assert_close(dynamic_block_matmul(*case.inputs, **case.sizes), case.product(), terms, 8)
    dy = normal([len(case.x), case.out_features], seed=5)
    actual = gradients(dynamic_block_matmul, case, dy)
    for a, e in zip(actual, case.gradients(dy), strict=True):
        assert_close(a, e, max(case.out_features, terms, len(case.x)), 8)


# Multiples of the block, ragged at one side, at both, and smaller than one block.
SIZES = [(96, 128), (100, 128), (96, 130), (101, 131), (5, 3)]
SHAPES = [(1, 1), (4, 4), (3, 5), (16, 16), (1, 16), (16, 1), (32, 64), (64, 24), (128, 128)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("block_shape", SHAPES)
def test_product_and_gradients(sizes, block_shape):
    small = block_shape[0] * block_shape[1] < 16
    for batch in (1, 3, 16) if not small else (2,):
        check(random_case(*sizes, block_shape, batch, seed=batch))


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 6, 7, 8, 9, 13, 31, 64, 70])
def test_batches(batch):
    check(random_case(130, 200, (32, 64), batch, share=0.6))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("batch", [0, 1, 9])
def test_from_no_block_to_all(share, zeros, batch):
    check(random_case(70, 90, (16, 8), batch, share, zeros))


def test_no_blocks_at_all_give_the_bias():
    bias = normal([90])
    y = dynamic_block_matmul(
        normal([3, 70]), normal([60, 16, 8]), np.zeros([3, 0], np.int32), np.zeros([3, 0], np.float32),
        in_features=70, out_features=90, bias=bias,
    )  # fmt: skip
    np.testing.assert_array_equal(y, np.tile(bias, [3, 1]))


@BOTH
def test_a_zero_gate_keeps_infinities_away(function):
    x = np.float32([[1, np.inf], [1, 2]])
    blocks = np.float32([[[1.0]], [[np.nan]], [[3.0]], [[np.inf]]])
    block_ids, block_gates = np.int32([[0, 1, 2, 3]] * 2), np.float32([[2, 0, 0, -0.0]] * 2)
    y = function(x, blocks, block_ids, block_gates, in_features=2, out_features=2)
    np.testing.assert_array_equal(y, [[2, 0], [2, 0]])


@BOTH
def test_missing_numbers_are_seen(function):
    case = random_case(64, 64, (16, 16), 2, share=1.0, zeros=0.0)
    case.block_gates[1, 3] = np.nan
    y = function(*case.inputs, **case.sizes).numpy()
    column = case.block_ids[1, 3] % 4
    expected = np.zeros([2, 64], bool)
    expected[1, 16 * column : 16 * column + 16] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


@BOTH
def test_a_block_that_comes_twice_counts_twice(function):
    case = random_case(40, 48, (8, 16), 9, zeros=0.0)
    case.block_ids[:, 1] = case.block_ids[:, 0]
    case.blocks = np.nan_to_num(case.blocks)
    assert_close(function(*case.inputs, **case.sizes), case.product(), 40, 8)
    dy = normal([9, 48], seed=5)
    for a, e in zip(gradients(function, case, dy), case.gradients(dy), strict=True):
        assert_close(a, e, 48, 8)


def test_results_depend_on_nothing_but_the_example():
    """To the last bit: neither on the other examples, nor on the order of the blocks, nor on how work is split."""
    case = random_case(1000, 1100, (64, 48), 11, share=0.7)
    together = dynamic_block_matmul(*case.inputs, **case.sizes).numpy()
    order = np.random.default_rng(3).permutation(case.block_ids.shape[1])
    shuffled = (case.x, case.blocks, case.block_ids[:, order], case.block_gates[:, order])
    np.testing.assert_array_equal(dynamic_block_matmul(*shuffled, **case.sizes), together)
    for e in range(11):
        one = slice(e, e + 1)
        alone = (case.x[one], case.blocks, case.block_ids[one], case.block_gates[one])
        np.testing.assert_array_equal(dynamic_block_matmul(*alone, **case.sizes)[0], together[e])


EXPECTED = {
    "linear": lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "tanh": np.tanh,
    "sigmoid": lambda y: 1 / (1 + np.exp(-y)),
}


@BOTH
@pytest.mark.parametrize("activation", EXPECTED)
def test_bias_and_activation(function, activation):
    bias = normal([131], seed=4)
    for batch in (1, 5, 17):
        case = random_case(101, 131, (16, 32), batch)
        case.blocks = np.nan_to_num(case.blocks)
        for b, added in ((bias, bias), (None, 0.0)):
            y = function(*case.inputs, **case.sizes, bias=b, activation=activation)
            assert_close(y, EXPECTED[activation](case.product() + added), 101, 8)


@pytest.mark.parametrize("dtype", [tf.float64, tf.bfloat16, tf.float16])
def test_reference_in_other_dtypes(dtype):
    case = random_case(37, 29, (8, 5), 6)
    x, blocks, gates = (tf.cast(a, dtype) for a in (case.x, case.blocks, case.block_gates))
    y = dynamic_block_matmul_reference(x, blocks, case.block_ids, gates, **case.sizes)
    assert y.dtype == dtype
    case.x, case.blocks, case.block_gates = (tf.cast(a, tf.float64).numpy() for a in (x, blocks, gates))
    tolerance = {tf.float64: 1e-13, tf.bfloat16: 0.3, tf.float16: 0.04}[dtype]
    np.testing.assert_allclose(tf.cast(y, tf.float64), case.product(), atol=tolerance)


@pytest.mark.parametrize("block_shape", [(8, 5), (4, 16)])
def test_gradients_equal_the_reference_and_differences(block_shape):
    case = random_case(36, 32, block_shape, 5)
    case.blocks = np.nan_to_num(case.blocks)
    dy = normal([5, 32], seed=2)
    actual, expected = (gradients(f, case, dy) for f in (dynamic_block_matmul, dynamic_block_matmul_reference))
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e.numpy().astype(np.float64), 36, 8)
    theoretical, numeric = tf.test.compute_gradient(
        lambda x, blocks, gates: dynamic_block_matmul(x, blocks, case.block_ids, gates, **case.sizes),
        [case.x, case.blocks, case.block_gates],
        delta=0.01,
    )
    for t, n in zip(theoretical, numeric, strict=True):
        np.testing.assert_allclose(t, n, atol=4e-3)


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid"])
def test_gradients_of_gradients(activation):
    case = random_case(21, 18, (4, 8), 5)
    case.blocks = np.nan_to_num(case.blocks)

    def three_orders(function):
        inputs = [tf.constant(a) for a in (case.x, case.blocks, case.block_gates, normal([18], seed=4))]

        def gradient(order):
            if order == 0:
                x, blocks, gates, bias = inputs
                y = function(x, blocks, case.block_ids, gates, **case.sizes, bias=bias, activation=activation)
                return [y]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradient(order - 1)])
            return tape.gradient(loss, inputs)

        return gradient(1) + gradient(2) + gradient(3)

    for a, e in zip(three_orders(dynamic_block_matmul), three_orders(dynamic_block_matmul_reference), strict=True):
        scale = np.abs(e).max()
        assert scale > 0.1
        np.testing.assert_allclose(a, e, atol=5e-5 * scale)


@BOTH
@pytest.mark.parametrize("leading", [[], [3], [2, 3], [2, 0]])
def test_any_rank(function, leading):
    case = random_case(24, 20, (8, 4), int(np.prod(leading)))
    case.blocks = np.nan_to_num(case.blocks)
    ids, gates = (a.reshape([*leading, a.shape[1]]) for a in (case.block_ids, case.block_gates))
    y = function(case.x.reshape([*leading, 24]), case.blocks, ids, gates, **case.sizes)
    assert_close(y, case.product().reshape([*leading, 20]), 24, 8)


@BOTH
def test_unknown_shapes_in_a_function(function):
    case = random_case(24, 20, (8, 4), 12)
    case.blocks = np.nan_to_num(case.blocks)

    def call(x, blocks, ids, gates):
        y = function(x, blocks, ids, gates, **case.sizes)
        return y, *tf.gradients(y, [x, blocks, gates])

    float32, int32 = (lambda shape, d=d: tf.TensorSpec(shape, d) for d in (tf.float32, tf.int32))
    some = [float32([None, None, 24]), float32([None, 8, 4]), int32([None, None, None]), float32([None, None, None])]
    none = [float32(None), float32(None), int32(None), float32(None)]
    for signature in (some, none):
        compiled = tf.function(call, input_signature=signature)
        ids, gates = (a.reshape([3, 4, -1]) for a in (case.block_ids, case.block_gates))
        y, dx, dblocks, dgates = compiled(case.x.reshape([3, 4, 24]), case.blocks, ids, gates)
        assert_close(y, case.product().reshape([3, 4, 20]), 24, 8)
        expected = case.gradients(np.ones([12, 20]))
        for a, e in zip((tf.reshape(dx, [12, 24]), dblocks, tf.reshape(dgates, [12, -1])), expected, strict=True):
            assert_close(a, e, 24, 8)


def test_shape_function():
    with tf.Graph().as_default():
        placeholder = tf.compat.v1.placeholder
        x, gates = placeholder(tf.float32, [None, 24]), placeholder(tf.float32, [5, None])
        ids, blocks = placeholder(tf.int32, [None, 7]), placeholder(tf.float32, [None, 8, 4])
        y = dynamic_block_matmul(x, blocks, ids, gates, in_features=24, out_features=20)
        assert y.shape.as_list() == [5, 20]
        dx, dblocks, dgates = tf.gradients(y, [x, blocks, gates])
        assert dx.shape.as_list() == [5, 24]
        assert dblocks.shape.as_list()[1:] == [8, 4]
        assert dgates.shape.as_list() == [5, None]
        with pytest.raises(ValueError, match="must be 15 but is 16"):
            bad = placeholder(tf.float32, [16, 8, 4])
            dynamic_block_matmul(x, bad, ids, gates, in_features=24, out_features=20)


def test_in_a_loop():
    case = random_case(24, 24, (8, 4), 5, zeros=0.0)
    case.blocks = np.nan_to_num(case.blocks)

    @tf.function
    def function(x, blocks, gates):
        for _ in tf.range(3):
            x = dynamic_block_matmul(x, blocks, case.block_ids, gates, **case.sizes, activation="tanh")
        return x, tf.gradients(x, [blocks, gates])

    y, found = function(*(tf.constant(a) for a in (case.x, case.blocks, case.block_gates)))
    expected = case.x.astype(np.float64)
    for _ in range(3):
        expected = np.tanh(dataclasses.replace(case, x=expected).product())
    assert_close(y, expected, 24, 8)
    assert all(np.abs(g).max() > 0.01 and np.isfinite(g).all() for g in found)


LOADED = """
import sys

import numpy as np
import tensorflow as tf

tf.load_op_library(sys.argv[3])  # to predict, nothing of Python's is needed
model = tf.saved_model.load(sys.argv[1])
case = np.load(sys.argv[2])
x, ids, gates = (tf.constant(case[name]) for name in ("x", "ids", "gates"))
y = model(x, ids, gates)
assert "tf_blocksparse" not in sys.modules

import tf_blocksparse  # has the gradients

with tf.GradientTape() as tape:
    tape.watch([x, gates])
    loss = tf.reduce_sum(model(x, ids, gates))
np.savez(sys.argv[4], y, *tape.gradient(loss, [x, model.blocks, gates]))
"""


def test_saved_model_in_a_fresh_process(tmp_path):
    case = random_case(24, 20, (8, 4), 5)
    case.blocks = np.nan_to_num(case.blocks)
    ids, gates = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None])

    class Model(tf.Module):
        def __init__(self):
            self.blocks = tf.Variable(case.blocks)

        @tf.function(input_signature=[tf.TensorSpec([None, 24]), ids, gates])
        def __call__(self, x, ids, gates):
            return dynamic_block_matmul(x, self.blocks, ids, gates, **case.sizes)

    model, given, found = tmp_path / "model", tmp_path / "case.npz", tmp_path / "found.npz"
    tf.saved_model.save(Model(), str(model))
    np.savez(given, x=case.x, ids=case.block_ids, gates=case.block_gates)
    run_python(LOADED, model, given, library_path(), found)
    expected = (case.product(), *case.gradients(np.ones([5, 20])))
    for actual, e in zip(np.load(found).values(), expected, strict=True):
        assert_close(actual, e, 24, 8)


GOOD = {
    "x": np.ones([2, 8], np.float32),
    "blocks": np.ones([6, 4, 4], np.float32),
    "block_ids": np.array([[0, 5], [3, 1]], np.int32),
    "block_gates": np.ones([2, 2], np.float32),
    "in_features": 8,
    "out_features": 12,
}
HUGE = 2**31
BAD_INPUTS = [
    ({"x": np.zeros([8], np.float32)}, r"x must have shape \[batch, in_features\], got shape \[8\]"),
    ({"x": np.zeros([2, 9], np.float32)}, r"dimension 1 of x must be 8 \(in_features\), got shape \[2,9\]"),
    ({"x": np.zeros([3, 8], np.float32)}, r"dimension 0 of block_ids must be 3 \(the batch, as in x\)"),
    ({"blocks": np.zeros([6, 16], np.float32)}, r"blocks must have shape .* got shape \[6,16\]"),
    ({"blocks": np.zeros([5, 4, 4], np.float32)}, r"dimension 0 of blocks must be 6 .* got shape \[5,4,4\]"),
    ({"blocks": np.zeros([7, 4, 4], np.float32)}, r"dimension 0 of blocks must be 6"),
    ({"blocks": np.zeros([0, 4, 4], np.float32)}, r"dimension 0 of blocks must be 6"),
    ({"blocks": np.zeros([6, 0, 4], np.float32)}, r"block height must be from 1"),
    ({"blocks": np.zeros([6, 4, 0], np.float32)}, r"block width must be from 1"),
    ({"blocks": np.zeros([0, HUGE, 1], np.float32)}, r"block height must .* got 2147483648"),
    ({"blocks": np.zeros([0, 1, HUGE - 1], np.float32)}, r"dimension 0 of blocks must be 8"),
    ({"block_ids": np.zeros([4], np.int32)}, r"block_ids must have shape \[batch, k\], got shape \[4\]"),
    ({"block_ids": np.zeros([3, 2], np.int32)}, r"dimension 0 of block_ids must be 2"),
    ({"block_ids": np.zeros([2, 3], np.int32)}, r"dimension 1 of block_gates must be 3 \(k, as in block_ids\)"),
    ({"block_gates": np.zeros([2, 2, 1], np.float32)}, r"block_gates must have shape \[batch, k\]"),
    ({"block_gates": np.zeros([1, 2], np.float32)}, r"dimension 0 of block_gates must be 2"),
    ({"block_ids": np.array([[0, 6], [3, 1]], np.int32)}, r"block_ids\[0, 1\] = 6 is not in \[0, 6\)"),
    ({"block_ids": np.array([[0, 5], [-1, 1]], np.int32)}, r"block_ids\[1, 0\] = -1 is not in \[0, 6\)"),
    ({"block_ids": np.array([[0, 5], [3, 2**31 - 1]], np.int32)}, r"block_ids\[1, 1\] = 2147483647 is not"),
    ({"block_ids": np.array([[-(2**31), 5], [3, 1]], np.int32)}, r"block_ids\[0, 0\] = -2147483648 is not"),
    ({"in_features": 0}, r"in_features"),
    ({"in_features": 7}, r"dimension 1 of x must be 7"),
    ({"in_features": HUGE, "x": np.zeros([0, HUGE], np.float32)}, r"in_features must be from 1 .* got 2147483648"),
    ({"out_features": 0}, r"out_features"),
    ({"out_features": -3}, r"out_features"),
    ({"out_features": HUGE}, r"out_features must be from 1 to 2147483647, got 2147483648|dimension 1 of dy"),
    ({"out_features": 13}, r"dimension 0 of blocks must be 8|dimension 1 of dy must be 13"),
]


@pytest.mark.parametrize("change, message", BAD_INPUTS)
def test_bad_inputs_of_the_product(change, message):
    ops().block_sparse_dynamic_mat_mul(**GOOD, bias=[])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_dynamic_mat_mul(**{**GOOD, **change}, bias=[])


@pytest.mark.parametrize("change, message", BAD_INPUTS)
def test_bad_inputs_of_the_gradients(change, message):
    x = change.get("x", GOOD["x"])
    dy = np.zeros([len(x) if x.ndim == 2 else 2, 12], np.float32)
    for op in (ops().block_sparse_dynamic_mat_mul_grad_inputs, ops().block_sparse_dynamic_mat_mul_grad_blocks):
        op(**GOOD, dy=np.zeros([2, 12], np.float32))
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            op(**{**GOOD, **change}, dy=dy)


@pytest.mark.parametrize(
    "dy, message",
    [
        (np.zeros([3, 12], np.float32), r"dimension 0 of dy must be 2 \(the batch"),
        (np.zeros([2, 11], np.float32), r"dimension 1 of dy must be 12 \(out_features"),
        (np.zeros([12], np.float32), r"dy must have shape"),
    ],
)
def test_bad_output_gradients(dy, message):
    for op in (ops().block_sparse_dynamic_mat_mul_grad_inputs, ops().block_sparse_dynamic_mat_mul_grad_blocks):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            op(**GOOD, dy=dy)


@pytest.mark.parametrize(
    "bias, message",
    [
        ([np.zeros([11], np.float32)], r"dimension 0 of bias must be 12 \(out_features\), got shape \[11\]"),
        ([np.zeros([1, 12], np.float32)], r"bias must have shape \[out_features\]"),
        ([np.zeros([12], np.float32)] * 2, r"at most one bias"),
    ],
)
def test_bad_biases(bias, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_dynamic_mat_mul(**GOOD, bias=bias)


def test_ids_are_checked_where_the_gate_is_zero_too():
    bad = {"block_ids": np.array([[0, 9], [3, 1]], np.int32), "block_gates": np.zeros([2, 2], np.float32)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"block_ids\[0, 1\] = 9"):
        ops().block_sparse_dynamic_mat_mul(**{**GOOD, **bad}, bias=[])


def test_huge_sizes_without_rows_cost_nothing():
    y = ops().block_sparse_dynamic_mat_mul(
        x=np.zeros([0, 1], np.float32), blocks=np.zeros([1, 1, 1], np.float32),
        block_ids=np.zeros([0, 2**31], np.int32), block_gates=np.zeros([0, 2**31], np.float32), bias=[],
        in_features=1, out_features=1,
    )  # fmt: skip
    assert y.shape == [0, 1]


def test_ids_overwritten_in_the_graph_after_their_check():
    """InplaceUpdate writes to a buffer that the op may be reading; no read may follow it out of the blocks."""
    case = random_case(64, 64, (8, 8), 3)
    case.blocks = np.nan_to_num(case.blocks)

    @tf.function
    def function(x, ids):
        first = dynamic_block_matmul(x, case.blocks, ids, case.block_gates, **case.sizes)
        updated = tf.raw_ops.InplaceUpdate(x=ids, i=tf.range(3), v=tf.fill(ids.shape, 2**30))
        return first, dynamic_block_matmul(x, case.blocks, updated, case.block_gates, **case.sizes)

    try:
        function(case.x, tf.constant(case.block_ids))
    except tf.errors.InvalidArgumentError as error:
        assert "is not in [0, 64)" in str(error)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": np.float32(1)}, ValueError, "expects `x` of shape .* got a scalar"),
        ({"x": np.zeros([2, 8])}, TypeError, "expects `x` of dtype float32, got float64"),
        ({"blocks": np.zeros([6, 4, 4])}, TypeError, "`blocks` of dtype float32, got float64"),
        ({"blocks": np.zeros([6, 4], np.float32)}, ValueError, "`blocks` of shape"),
        ({"block_ids": np.zeros([2, 2], np.int64)}, TypeError, "`block_ids` of dtype int32, got int64"),
        ({"block_ids": np.zeros([2, 3], np.int32)}, ValueError, "`block_ids` and `block_gates` of the same shape"),
        ({"block_gates": np.zeros([2, 2])}, TypeError, "`block_gates` of dtype float32, got float64"),
        ({"x": np.zeros([3, 8], np.float32)}, ValueError, r"same leading dimensions, got shapes \(3, 8\) and \(2, 2\)"),
        ({"x": np.zeros([1, 2, 8], np.float32)}, ValueError, "same leading dimensions"),
        ({"in_features": 8.0}, ValueError, "`in_features` must be a positive int, got 8.0"),
        ({"out_features": 0}, ValueError, "`out_features` must be a positive int, got 0"),
        ({"activation": "gelu"}, ValueError, "`activation` must be one of 'linear', .* got 'gelu'"),
        ({"bias": np.zeros([12])}, TypeError, "`bias` of dtype float32, got float64"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        dynamic_block_matmul(**{**GOOD, **change})
