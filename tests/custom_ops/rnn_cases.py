"""Recurrent layers for the tests of the ops for whole sequences: random ones, and what dense matrices give."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bsr_cases import random_bsr
from tf_blocksparse import custom_ops as bs

ACTIVATIONS = {"linear": tf.identity, "relu": tf.nn.relu, "tanh": tf.tanh, "sigmoid": tf.sigmoid}
MASKS = ("none", "right_padded", "holes", "first_steps", "all")


@dataclasses.dataclass(frozen=True)
class Cell:
    function: Callable
    reference: Callable
    gates: tuple  # of the matrices: kernel, recurrent kernel and perhaps candidate kernel
    states: int
    bias_rows: tuple = ()
    recurrent_activation: bool = True


CELLS = {
    "rnn": Cell(bs.block_sparse_rnn, bs.block_sparse_rnn_reference, (1, 1), 1, recurrent_activation=False),
    "gru": Cell(bs.block_sparse_gru, bs.block_sparse_gru_reference, (3, 3), 1, bias_rows=(2,)),
    "gru_reset_before": Cell(bs.block_sparse_gru, bs.block_sparse_gru_reference, (3, 2, 1), 1),
    "lstm": Cell(bs.block_sparse_lstm, bs.block_sparse_lstm_reference, (4, 4), 2),
}


@dataclasses.dataclass
class Problem:
    """Inputs of a recurrent layer, time first, and what it is told to do with them."""

    cell: str
    matrices: list
    x: np.ndarray  # [time, batch, in_features]
    states: list
    bias: np.ndarray | None
    mask: np.ndarray | None
    options: dict

    @property
    def values(self):
        """What gradients are taken of: x, the states, the blocks of all matrices, and the bias if there is one."""
        bias = [] if self.bias is None else [self.bias]
        return [self.swap(self.x), *self.states, *(w.blocks for w in self.matrices), *bias]

    def swap(self, x):
        """From time first to the order of axes that the options say, or back."""
        return x if self.options["time_major"] else np.swapaxes(x, 0, 1)

    def split(self, values):
        """`values` as x, the list of states, the list of blocks or dense matrices, and the bias or None."""
        x, *rest = values
        states, rest = rest[: len(self.states)], rest[len(self.states) :]
        matrices, bias = rest[: len(self.matrices)], rest[len(self.matrices) :]
        return x, states, matrices, bias[0] if bias else None

    def call(self, function, values, **more):
        """`function`, an op or its reference, of `values`."""
        x, states, blocks, bias = self.split(values)
        matrices = [(b, w.indices, w.indptr) for b, w in zip(blocks, self.matrices, strict=True)]
        if self.mask is not None:
            more = {"mask": self.swap(self.mask)} | more
        return function(x, *states, *matrices, bias=bias, **self.options, **more)


def problem(
    cell, in_features=10, units=9, block_shape=(4, 4), batch=3, time=4, mask="none", bias=True, density=0.5, seed=0,
    **options,
):  # fmt: skip
    """A random `Problem`; options are those of the op."""
    rng = np.random.default_rng(seed)
    kind = CELLS[cell]
    # Gates without bounds multiply the state by more and more from step to step, unless they are small.
    gain = np.float32(0.3 if options.get("recurrent_activation") in ("linear", "relu") else 1)

    def normal(shape):
        return gain * rng.standard_normal(shape).astype(np.float32)

    heights = [in_features, units, units]
    matrices = []
    for i, (gates, height) in enumerate(zip(kind.gates, heights, strict=False)):
        w = random_bsr(height, gates * units, block_shape, density, gates, seed=seed + i, order="column")
        w.blocks *= gain / np.float32(np.sqrt(max(1, height * density)))
        matrices.append(w)
    defaults = {"activation": "tanh", "time_major": False, "go_backwards": False, "return_sequences": True}
    defaults |= {"zero_output_for_mask": False}
    if kind.recurrent_activation:
        defaults["recurrent_activation"] = "sigmoid"
    return Problem(
        cell,
        matrices,
        normal([time, batch, in_features]),
        [normal([batch, units]) for _ in range(kind.states)],
        normal([*kind.bias_rows, kind.gates[0] * units]) if bias else None,
        make_mask(mask, time, batch, rng),
        defaults | options,
    )


def make_mask(kind, time, batch, rng):
    """A mask `[time, batch]`, or None."""
    steps = np.arange(time)[:, None]
    border = rng.integers(0, time + 1, batch)
    return {
        "none": None,
        "right_padded": steps < border,
        "first_steps": steps >= border,
        "holes": rng.random([time, batch]) < 0.6,
        "all": np.zeros([time, batch], bool),
    }[kind]


def with_gradients(call, values, seed=5):
    """Outputs of `call(values)`, and the gradients of a sum of them with fixed weights; as float64 arrays."""
    values = [tf.convert_to_tensor(v) for v in values]
    with tf.GradientTape() as tape:
        tape.watch(values)
        outputs = list(call(values))
        loss = total(outputs, seed)
    gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [np.asarray(t, np.float64) for t in outputs], [np.asarray(t, np.float64) for t in gradients]


def total(outputs, seed=5):
    """A sum of all outputs in which each element counts differently."""
    rng = np.random.default_rng(seed)
    return tf.add_n([tf.reduce_sum(y * rng.standard_normal(y.shape).astype(y.dtype.as_numpy_dtype)) for y in outputs])


def expected(p):
    """What `with_gradients()` is to give for a `Problem`, computed in float64 with dense matrices."""
    dense = [w.dense() for w in p.matrices]
    bias = [] if p.bias is None else [p.bias.astype(np.float64)]
    values = [p.swap(p.x).astype(np.float64), *(s.astype(np.float64) for s in p.states), *dense, *bias]
    outputs, gradients = with_gradients(lambda v: _dense(p, v), values)
    x, states, matrices, bias = p.split(gradients)
    blocks = [w.stored(d) for w, d in zip(p.matrices, matrices, strict=True)]
    return outputs, [x, *states, *blocks, *([] if bias is None else [bias])]


def _dense(p, values):
    """The recurrent layer of a `Problem` step by step, of dense float64 matrices."""
    x, states, matrices, bias = p.split(values)
    options = p.options
    x = x if options["time_major"] else tf.transpose(x, [1, 0, 2])
    order = range(len(p.x))[:: -1 if options["go_backwards"] else 1]
    outputs, last = [], tf.zeros_like(states[0])
    for t in order:
        new = _step(p, x[t], states, matrices, bias)
        keep = np.ones([x.shape[1], 1], bool) if p.mask is None else p.mask[t][:, None]
        before = tf.zeros_like(last) if options["zero_output_for_mask"] else last
        last = tf.where(keep, new[0], before)
        states = [tf.where(keep, after, state) for after, state in zip(new, states, strict=True)]
        outputs.append(last)
    if not options["return_sequences"]:
        return last, *states
    sequence = tf.stack(outputs) if outputs else tf.zeros([0, *last.shape], tf.float64)
    return (sequence if options["time_major"] else tf.transpose(sequence, [1, 0, 2])), *states


def _step(p, x, states, matrices, bias):
    act, h = ACTIVATIONS[p.options["activation"]], states[0]
    zero = tf.zeros([], tf.float64)
    if p.cell == "rnn":
        return [act(x @ matrices[0] + h @ matrices[1] + (zero if bias is None else bias))]
    gate = ACTIVATIONS[p.options["recurrent_activation"]]
    if p.cell == "lstm":
        i, f, g, o = tf.split(x @ matrices[0] + h @ matrices[1] + (zero if bias is None else bias), 4, axis=1)
        c = gate(f) * states[1] + gate(i) * act(g)
        return [gate(o) * act(c), c]
    units = h.shape[1]
    if p.cell == "gru":
        b, b_h = [zero, zero] if bias is None else tf.unstack(bias)
        h_z, h_r, h_g = tf.split(h @ matrices[1] + b_h, 3, axis=1)
    else:
        b = zero if bias is None else bias
        h_z, h_r = tf.split(h @ matrices[1], 2, axis=1)
    x_z, x_r, x_g = tf.split(x @ matrices[0] + b, [units] * 3, axis=1)
    z, r = gate(x_z + h_z), gate(x_r + h_r)
    g = act(x_g + (r * h_g if p.cell == "gru" else (r * h) @ matrices[2]))
    return [z * h + (1 - z) * g]


def assert_close(actual, wanted, relative=3e-5):
    """Compares lists of arrays: errors within a share of the largest element."""
    assert len(actual) == len(wanted)
    for i, (a, w) in enumerate(zip(actual, wanted, strict=True)):
        assert a.shape == w.shape, (i, a.shape, w.shape)
        scale = max(1.0, np.abs(w).max(initial=0))
        np.testing.assert_allclose(a, w, rtol=0, atol=relative * scale, err_msg=f"result {i}")
