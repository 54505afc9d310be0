"""What the ops for whole sequences refuse, and with which words."""

import numpy as np
import pytest
import tensorflow as tf

from rnn_cases import CELLS, problem
from tf_blocksparse.custom_ops.library import ops

OPS = {"rnn": "rnn", "gru": "gru", "gru_reset_before": "gru", "lstm": "lstm"}
MATRICES = ("kernel", "recurrent", "candidate")
PARTS = ("blocks", "indices", "indptr")


def raw(cell):
    """Good inputs of an op, by its own names: 10 features, 9 units, blocks 4x4, batch 3, 4 steps."""
    p = problem(cell, mask="holes")
    inputs = {"x": p.swap(p.x), "bias": [p.bias], "mask": [p.swap(p.mask)]}
    inputs |= dict(zip(("h0", "c0"), p.states, strict=False))
    for name, w in zip(MATRICES, p.matrices, strict=False):
        inputs |= {f"{name}_{part}": value for part, value in zip(PARTS, w.arrays, strict=True)}
    if OPS[cell] == "gru":
        for part in PARTS:
            inputs[f"candidate_{part}"] = [v for k, v in inputs.items() if k == f"candidate_{part}"]
    return inputs


def run(cell, inputs, **attributes):
    return getattr(ops(), f"block_sparse_{OPS[cell]}")(**inputs, **attributes)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


BAD_INPUTS = [
    ({"x": zeros(3, 10)}, r"x must have shape \[batch, time, in\].*got shape \[3,10\]"),
    ({"x": zeros(3, 4, 3)}, r"the matrix kernel: indices\[\d+\] = \d is not in \[0, 1\)"),
    ({"x": zeros(3, 4, 0)}, r"the matrix kernel: in_features must be from 1 to 2147483647, got 0"),
    ({"h0": zeros(9)}, r"h0 must have shape \[batch, units\].*got shape \[9\]"),
    ({"h0": zeros(2, 9)}, r"h0 must have shape \[batch, units\], here \[3, 9\], got shape \[2,9\]"),
    ({"h0": zeros(3, 0)}, r"h0|c0|out_features must be from 1|in_features must be from 1"),
    ({"h0": zeros(3, 2**31 // 3)[:0]}, r"h0 must have shape .*here \[3, "),
    ({"mask": [np.ones([4, 3], bool)]}, r"mask must have shape \[batch, time\], here \[3, 4\], got shape \[4,3\]"),
    ({"mask": [np.ones([3, 4, 1], bool)]}, r"mask must have shape"),
    ({"mask": [np.ones([3, 4], bool)] * 2}, r"at most one mask, got 2"),
    ({"bias": [zeros(5)]}, r"bias must have shape .*got shape \[5\]"),
    ({"kernel_blocks": zeros(2, 16)}, r"the matrix kernel: blocks must have shape"),
    ({"recurrent_blocks": zeros(1, 4, 4)}, r"the matrix recurrent: dimension 0 of indices must be 1"),
    ({"recurrent_indptr": zeros(2, dtype=np.int32)}, r"the matrix recurrent: indptr must have \d+ elements"),
    ({"kernel_indptr": zeros(0, dtype=np.int32)}, r"the matrix kernel: indptr must have \d+ elements .* got 0"),
]


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_good_inputs(cell, save):
    outputs = run(cell, raw(cell), save=save)
    assert all(np.isfinite(y).all() for y in outputs)
    assert [y.shape.rank for y in outputs[2:] if y.shape.rank != 2] == [3 if save else 1] * (3 if cell == "lstm" else 2)


@pytest.mark.parametrize("change, message", BAD_INPUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_bad_inputs(cell, change, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(cell, {**raw(cell), **change})


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("index", [-1, 3, 2**31 - 1])
def test_indices_out_of_range(matrix, index):
    inputs = raw("gru_reset_before")
    key = f"{matrix}_indices"
    indices = (inputs[key][0] if matrix == "candidate" else inputs[key]).copy()
    indices[0] = index
    inputs[key] = [indices] if matrix == "candidate" else indices
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"the matrix {matrix}: indices\[0\] = {index} is not in"):
        run("gru_reset_before", inputs)


@pytest.mark.parametrize("cell", CELLS)
def test_patterns_that_are_none(cell):
    for change in ({"recurrent_indptr": lambda v: v[::-1]}, {"recurrent_indptr": lambda v: v + 1}):
        inputs = raw(cell)
        inputs |= {name: function(inputs[name]).astype(np.int32) for name, function in change.items()}
        with pytest.raises(tf.errors.InvalidArgumentError, match="the matrix recurrent: indptr"):
            run(cell, inputs)


def test_two_candidates():
    inputs = raw("gru_reset_before")
    inputs |= {f"candidate_{part}": inputs[f"candidate_{part}"] * 2 for part in PARTS}
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most one candidate"):
        run("gru_reset_before", inputs)


def test_two_widths_of_blocks():
    narrow, wide = (problem("lstm", block_shape=shape) for shape in ((4, 4), (4, 8)))
    values = [*narrow.values[:4], *wide.values[4:]]
    wide.matrices[0] = narrow.matrices[0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have one width"):
        wide.call(CELLS["lstm"].function, values)


@pytest.mark.parametrize("cell", CELLS)
def test_shapes_that_the_graph_knows(cell):
    inputs = {k: v for k, v in raw(cell).items() if k not in ("x", "mask")}
    with tf.Graph().as_default():
        for shape in ([None, None, 30], [None, 4], [2, None, 10]):
            x = tf.compat.v1.placeholder(tf.float32, shape)
            if shape != [None, None, 30]:
                with pytest.raises(ValueError):
                    run(cell, {**inputs, "x": x, "mask": []})
        x = tf.compat.v1.placeholder(tf.float32, [None, None, 10])
        output, h, *_ = run(cell, {**inputs, "x": x, "mask": []})
        assert output.shape.as_list() == [3, None, 9] and h.shape.as_list() == [3, 9]


ARGUMENTS = [
    ({"x": zeros(4, 10)}, ValueError, r"`x` of shape \[batch, time, in_features\].*got shape \(4, 10\)"),
    ({"x": zeros(3, 4, 10, dtype=np.float64)}, TypeError, r"`x` of dtype float32, got float64.*_reference"),
    ({"h0": zeros(2, 9)}, ValueError, r"`h0` of shape \[batch, units\].*\(3, None\).*got shape \(2, 9\)"),
    ({"h0": zeros(9)}, ValueError, r"`h0` of shape \[batch, units\]"),
    ({"c0": zeros(3, 8)}, ValueError, r"`c0` of shape .*\(3, 9\).*got shape \(3, 8\)"),
    ({"kernel": zeros(10, 36)}, TypeError, r"`kernel` as a tuple \(blocks, indices, indptr\).*got ndarray.*BsrMatrix"),
    ({"recurrent_kernel": None}, TypeError, r"`recurrent_kernel` as a tuple .*got NoneType"),
    ({"kernel": (zeros(2, 4), [0], [0])}, ValueError, r"`block_sparse_lstm\(kernel=\)` expects `blocks` of shape"),
    (
        {"kernel": (zeros(2, 4, 4), [0.5], [0])},
        TypeError,
        r"\(kernel=\)` expects `indices` of dtype int32, got float32",
    ),
    ({"bias": zeros(9)}, ValueError, r"`bias` of shape \[gates \* units\].*\(36,\).*got shape \(9,\)"),
    ({"bias": zeros(2, 36)}, ValueError, r"`bias` of shape"),
    ({"mask": zeros(3, 4)}, TypeError, r"`mask` of dtype bool, got float32.*tf\.cast"),
    ({"mask": zeros(4, 3, dtype=bool)}, ValueError, r"`mask` of shape \[batch, time\].*\(3, 4\).*got shape \(4, 3\)"),
    ({"activation": "gelu"}, ValueError, r"`activation` must be one of 'linear', .*got 'gelu'"),
    ({"recurrent_activation": None}, ValueError, r"`recurrent_activation` must be one of .*got None"),
]


@pytest.mark.parametrize("change, error, message", ARGUMENTS)
@pytest.mark.parametrize("reference", [False, True])
def test_bad_arguments(change, error, message, reference):
    p = problem("lstm", mask="holes")
    x, (h0, c0), blocks, bias = p.split(p.values)
    kernel, recurrent_kernel = ((w.blocks, w.indices, w.indptr) for w in p.matrices)
    good = dict(x=x, h0=h0, c0=c0, kernel=kernel, recurrent_kernel=recurrent_kernel, bias=bias, mask=p.swap(p.mask))
    function = CELLS["lstm"].reference if reference else CELLS["lstm"].function
    assert len(function(**good)) == 3
    if reference:
        message = message.replace("block_sparse_lstm", "block_sparse_lstm_reference")
        if change.get("x", zeros(1)).dtype == np.float64:
            message = "one floating dtype"
    with pytest.raises(error, match=message):
        function(**{**good, **change})


def test_units_that_are_not_known():
    p = problem("rnn")

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def function(h0):
        return p.call(CELLS["rnn"].function, [p.values[0], h0, *p.values[2:]])

    with pytest.raises(
        ValueError, match=r"reads the number of units from `h0`.*tf.ensure_shape\(h0, \[None, units\]\)"
    ):
        function.get_concrete_function()


@pytest.mark.parametrize("cell, bias", [("gru", [27]), ("gru_reset_before", [2, 27]), ("rnn", [27])])
def test_biases_of_the_other_kind(cell, bias):
    p = problem(cell)
    with pytest.raises(ValueError, match=r"`bias` of shape \[.*units\]"):
        p.call(CELLS[cell].function, [*p.values[:-1], zeros(*bias)])
