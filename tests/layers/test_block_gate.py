"""Block gates against float64 NumPy, and the rules that they keep: how many are open, which, and whence gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_blocksparse as bs
from tf_blocksparse.custom_ops.implementation import standard_ops
from tf_blocksparse.layers.gate_values import keep_largest, normalize, num_open


def oracle(h, kernel, bias, k, groups=1, grid=None):
    """Equation 1 in float64, by sorting: gates `[examples, rows, cols]`."""
    rows, cols = grid
    scores = np.maximum(h.astype("float64") @ kernel + bias, 0).reshape(len(h), rows, groups, cols // groups)
    gates = np.zeros_like(scores)
    for n in range(len(h)):
        for g in range(groups):
            values = scores[n, :, g].ravel()
            kept = np.zeros_like(values)
            order = np.argsort(-values, kind="stable")[:k]
            kept[order] = values[order]
            gates[n, :, g] = (kept / max(kept.mean(), 1e-3)).reshape(rows, cols // groups)
    return gates.reshape(len(h), rows, cols)


def built(gate, features):
    """The gate with weights that are not its initial ones."""
    gate.build((None, features))
    rng = np.random.default_rng(3)
    gate.set_weights([rng.standard_normal(w.shape) * (w.ndim > 0) for w in gate.get_weights()])
    return gate


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.75, 0.9])
def test_gates_are_those_of_equation_1(sparsity, groups):
    gate = built(bs.BlockGate((5, 12), groups=groups, sparsity=sparsity), 9)
    h = np.random.default_rng(0).standard_normal((7, 9)).astype("float32")
    k = round((1 - sparsity) * 60 / groups)
    expected = oracle(h, *(w.numpy() for w in (gate.kernel, gate.bias)), k, groups, (5, 12))
    np.testing.assert_allclose(gate(h), expected, rtol=2e-5, atol=1e-5)
    ids, values = gate.choose(h)
    assert ids.shape == values.shape == (7, groups * k)
    spread = np.zeros((7, 60))
    for n in range(7):
        assert len(set(np.asarray(ids[n]))) == groups * k, "a block came twice"
        spread[n, ids[n]] = values[n]
    np.testing.assert_allclose(spread.reshape(7, 5, 12), expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [bs.BlockGate, bs.SoftmaxBlockGate])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_choice_of_inference_is_one_op_or_many(kind, groups):
    gate = built(kind((4, 6), groups=groups, sparsity=0.7), 9)

    def ops_and_choice():
        choose = tf.function(gate.choose).get_concrete_function(tf.TensorSpec([None, 9]))
        for batch in (0, 1, 40):
            h = np.random.default_rng(batch).standard_normal((batch, 9)).astype("float32")
            yield from spread(*choose(tf.constant(h)), 24)
        yield {op.type for op in choose.graph.get_operations()}

    def spread(ids, gates, n):
        y = np.zeros((len(ids), n), "float32")
        np.put_along_axis(y, ids.numpy(), gates.numpy(), axis=1)
        return y

    *rows, op_types = ops_and_choice()
    assert "BlockSparse>ChooseBlocks" in op_types and "TopKV2" not in op_types
    with standard_ops():
        *standard_rows, op_types = ops_and_choice()
    assert not any(name.startswith("BlockSparse>") for name in op_types)
    assert len(rows) == 41
    np.testing.assert_allclose(rows, standard_rows, rtol=2e-5, atol=1e-6)


def test_the_choice_of_inference_follows_a_schedule():
    gate = bs.BlockGate((4, 5), sparsity=bs.GradualSparsity(0.8, begin_step=0, end_step=4, power=1))
    gate.build((None, 9))
    h = np.random.default_rng(0).standard_normal((3, 9)).astype("float32")
    choose = tf.function(gate.choose)
    for step, count in ((0, 20), (2, 12), (4, 4)):
        gate.step.assign(step)
        ids, gates = choose(tf.constant(h))
        assert ids.shape == gates.shape == (3, count)


def test_any_rank_of_input():
    gate = built(bs.BlockGate((2, 4), sparsity=0.5), 6)
    h = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype("float32")
    np.testing.assert_array_equal(gate(h), np.reshape(gate(h.reshape(30, 6)), (2, 3, 5, 2, 4)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_exactly_k_are_kept_and_ties_go_to_the_lower_index(data):
    n = data.draw(st.integers(1, 12))
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=n, max_size=n)), "float32")
    k = data.draw(st.integers(1, n))
    order = np.argsort(-scores, kind="stable")[:k]
    expected = np.zeros(n, "float32")
    expected[order] = scores[order]
    for count in (k, tf.constant(k)):
        np.testing.assert_array_equal(keep_largest(tf.constant(scores[None]), count)[0], expected)


def test_a_schedule_and_a_number_open_as_many():
    for blocks in (1, 2, 45, 64, 333):
        for sparsity in np.linspace(0, 0.99, 34):
            k = num_open(float(sparsity), blocks)
            assert int(num_open(tf.constant(sparsity, tf.float64), blocks)) == k
            assert k == max(1, k) and abs(k - (1 - sparsity) * blocks) <= max(0.5000001, 1 - (1 - sparsity) * blocks)


def test_gradients_reach_the_open_gates_only():
    scores = tf.constant([[3.0, 1.0, 2.0, 0.5]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        y = tf.reduce_sum(keep_largest(scores, 2) * [1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(tape.gradient(y, scores), [[1.0, 0.0, 100.0, 0.0]])


def test_gradients_are_those_of_finite_differences():
    gate = built(bs.BlockGate((3, 4), sparsity=0.6), 5)
    rng = np.random.default_rng(1)
    h, weights = rng.standard_normal((4, 5)), rng.standard_normal((4, 3, 4))
    kernel, bias = gate.kernel.numpy().astype("float64"), gate.bias.numpy().astype("float64")
    with tf.GradientTape() as tape:
        x = tf.constant(h, tf.float32)
        tape.watch(x)
        y = tf.reduce_sum(gate(x) * tf.constant(weights, tf.float32))
    dh, d_kernel = tape.gradient(y, [x, gate.kernel.value])

    def loss(h, kernel):
        return np.sum(oracle(h, kernel, bias, 5, 1, (3, 4)) * weights)

    step = 1e-6  # too small for any example to choose other blocks
    for array, gradient, at in ((h, dh, lambda a: loss(a, kernel)), (kernel, d_kernel, lambda a: loss(h, a))):
        numeric = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            up, down = array.copy(), array.copy()
            up[i] += step
            down[i] -= step
            numeric[i] = (at(up) - at(down)) / (2 * step)
        np.testing.assert_allclose(gradient, numeric, rtol=2e-3, atol=2e-3)


def test_all_gates_zero():
    gate = bs.BlockGate((2, 3), sparsity=0.5, bias_initializer=keras.initializers.Constant(-100.0))
    h = tf.ones((2, 4))
    with tf.GradientTape() as tape:
        tape.watch(h)
        gates = gate(h)
        y = tf.reduce_sum(gates)
    np.testing.assert_array_equal(gates, np.zeros((2, 2, 3)))
    for gradient in tape.gradient(y, [h, *[v.value for v in gate.trainable_variables]]):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    assert not np.any(gate.choose(h)[1])


def test_tiny_gates_have_bounded_gradients():
    scores = tf.fill((1, 8), 1e-12)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        y = tf.reduce_sum(normalize(keep_largest(scores, 2), 8) * tf.range(8, dtype=tf.float32))
    assert np.max(np.abs(tape.gradient(y, scores))) <= 7e3


def test_nan_is_not_hidden():
    gate = bs.BlockGate((2, 2), sparsity=0.5)
    gates = gate(np.array([[1.0, np.nan], [1.0, 1.0]], "float32"))
    assert np.isnan(gates[0]).any() and not np.isnan(gates[1]).any()


@pytest.mark.parametrize("gate_inputs,columns", [(None, slice(0, 6)), (2, slice(0, 2)), ((3, 5), slice(3, 5))])
def test_gates_read_their_part_of_the_input(gate_inputs, columns):
    gate = built(bs.BlockGate((3, 3), gate_inputs=gate_inputs), 6)
    h = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    other = np.random.default_rng(1).standard_normal((4, 6)).astype("float32")
    other[:, columns] = h[:, columns]
    assert gate.kernel.shape[0] == h[:, columns].shape[1]
    np.testing.assert_array_equal(gate(h), gate(other))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_computes_in_float32_under_any_policy(policy):
    h = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    expected = built(bs.BlockGate((3, 3)), 6)(h)
    keras.config.set_dtype_policy(policy)
    gate = built(bs.BlockGate((3, 3)), 6)
    assert gate(h).dtype == gate.kernel.dtype == "float32"
    np.testing.assert_array_equal(gate(h), expected)


def test_sparsity_rises_linearly_with_optimizer_steps(tmp_path):
    schedule = bs.GradualSparsity(0.75, begin_step=2, end_step=6, power=1)
    layer = bs.DynamicBlockDense(16, block_shape=4, sparsity=schedule, gate_bias_initializer="ones")
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile("sgd", "mse")
    gate, x, y = model.layers[0].block_gate, np.ones((2, 8)), np.zeros((2, 16))
    seen = []
    for _ in range(8):
        seen.append((int(gate.step), float(gate.current_sparsity()), int(gate.num_open())))
        model.train_on_batch(x, y)
    shares = [0, 0, 0, 3 / 16, 6 / 16, 9 / 16, 0.75, 0.75]
    assert seen == [(i, pytest.approx(s), round((1 - s) * 8 + 1e-9)) for i, s in enumerate(shares)]
    assert np.count_nonzero(gate(x), axis=(1, 2)).tolist() == [2, 2]
    for name in ("m.keras", "m.weights.h5"):
        (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    assert int(keras.models.load_model(tmp_path / "m.keras").layers[0].block_gate.step) == 8
    fresh = keras.models.clone_model(model)
    assert int(fresh.layers[0].block_gate.step) == 0
    fresh.load_weights(tmp_path / "m.weights.h5")
    assert int(fresh.layers[0].block_gate.step) == 8


def test_a_shared_layer_counts_each_step_once():
    layer = bs.DynamicBlockDense(8, block_shape=4, sparsity=bs.GradualSparsity(0.5, 0, 10, power=1))
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layer(layer(inputs)))
    model.compile("adam", "mse")
    model.fit(np.ones((6, 8)), np.ones((6, 8)), batch_size=2, epochs=2, verbose=0)
    assert int(layer.block_gate.step) == 6


class TestSoftmax:
    def test_training_gates_are_those_of_equation_2(self):
        gate = built(bs.SoftmaxBlockGate((3, 4), sparsity=0.75, temperature=0.7), 5)
        h = np.random.default_rng(0).standard_normal((6, 5)).astype("float32")
        logits = (h.astype("float64") @ gate.kernel.numpy() + gate.bias.numpy()).reshape(6, 3, 12) / 0.7
        parts = np.exp(logits - logits.max(-1, keepdims=True))
        expected = (parts / parts.sum(-1, keepdims=True)).sum(1) / 0.25
        np.testing.assert_allclose(np.reshape(gate(h, training=True), (6, 12)), expected, rtol=1e-4)
        np.testing.assert_allclose(np.mean(expected, 1), 1.0)

    def test_at_inference_each_softmax_opens_one(self):
        gate = built(bs.SoftmaxBlockGate((3, 4), groups=2, sparsity=0.5), 5)
        h = np.random.default_rng(0).standard_normal((6, 5)).astype("float32")
        gates = np.asarray(gate(h))
        logits = (h @ gate.kernel.numpy() + gate.bias.numpy()).reshape(6, 2, 3, 6)
        expected = np.zeros((6, 2, 6))
        for n, group, i in np.ndindex(6, 2, 3):
            expected[n, group, logits[n, group, i].argmax()] += 2.0
        np.testing.assert_allclose(gates, expected.reshape(6, 2, 3, 2).transpose(0, 2, 1, 3).reshape(6, 3, 4))
        ids, values = (np.asarray(t) for t in gate.choose(h))
        for n in range(6):
            assert len(set(ids[n])) == len(ids[n])
            np.testing.assert_allclose(gates[n].ravel()[ids[n]], values[n])
        np.testing.assert_allclose(values.sum(1), 12)

    def test_temperature_falls_with_the_steps_and_sharpens(self):
        temperature = keras.optimizers.schedules.ExponentialDecay(8.0, decay_steps=1, decay_rate=0.5)
        layer = bs.DynamicBlockDense(8, block_shape=4, gate="softmax", sparsity=0.75, temperature=temperature)
        model = keras.Sequential([keras.Input((8,)), layer])
        model.compile("sgd", "mse")
        h, peaks = np.random.default_rng(0).standard_normal((4, 8)), []
        for step in range(4):
            assert float(layer.block_gate.current_temperature()) == 8.0 / 2**step
            peaks.append(float(np.max(layer.block_gate(h, training=True))))
            model.train_on_batch(h, np.zeros((4, 8)))
        assert peaks == sorted(peaks)


@pytest.mark.parametrize(
    "make,error,message",
    [
        (lambda: bs.BlockGate((2, 2), sparsity=1.0), ValueError, "fraction"),
        (lambda: bs.BlockGate((2, 2), sparsity=90), ValueError, r"mean 0\.9"),
        (lambda: bs.BlockGate((2, 2), sparsity="much"), TypeError, "GradualSparsity"),
        (lambda: bs.BlockGate((2, 2), gate_inputs=0), ValueError, "gate_inputs"),
        (lambda: bs.BlockGate((2, 2), gate_inputs=(3, 2)), ValueError, "start < stop"),
        (lambda: bs.BlockGate((2, 2), gate_inputs=9)(np.ones((1, 4))), ValueError, "4 features"),
        (lambda: bs.SoftmaxBlockGate((2, 2), sparsity=bs.GradualSparsity(0.5, 0, 9)), TypeError, "top_k"),
        (lambda: bs.SoftmaxBlockGate((2, 2), temperature=0.0), ValueError, "temperature"),
        (lambda: bs.SoftmaxBlockGate((2, 2), temperature="low"), TypeError, "ExponentialDecay"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
