"""Recurrent layers by one op for the whole sequence: against their Keras twins, and against a loop over time."""

import concurrent.futures
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_layers import BATCH, FEATURES, RECURRENT, TIME, as_list, masks, sparse_twins

import tf_blocksparse as bs
from helpers import assert_close, run_python

OPS = {"BlockSparse>Rnn", "BlockSparse>Gru", "BlockSparse>Lstm"}
ARGUMENTS = {
    "return_sequences": (False, True),
    "return_state": (False, True),
    "go_backwards": (False, True),
    "zero_output_for_mask": (False, True),
    "use_bias": (True, False),
    "activation": ("tanh", "relu", "linear", "sigmoid"),
    "mask": tuple(masks()),
    "given_state": (False, True),
    "training": (False, True),
}
NEW = {
    "simple_rnn": lambda **more: bs.BlockSparseSimpleRNN(9, num_blocks={"kernel": 4}, seed=3, **more),
    "gru": lambda **more: bs.BlockSparseGRU(9, num_blocks={"kernel": 9}, seed=3, **more),
    "gru_reset_before": lambda **more: bs.BlockSparseGRU(9, reset_after=False, seed=3, **more),
    "lstm": lambda **more: bs.BlockSparseLSTM(9, num_blocks={"kernel": 9}, seed=3, **more),
}


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def states_of(case, batch=BATCH):
    return [tf.constant(normal(batch, 9, seed=i)) for i in range(2 if case == "lstm" else 1)]


def results(layer, x, states, weights, **call):
    """Outputs of a layer, and gradients with respect to `x`, the states and `weights`, by Keras's names of them."""
    sources = [x, *(states or ())]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = as_list(layer(x, initial_state=states, **call))
        loss = sum(tf.reduce_sum(y * tf.cos(tf.range(y.shape[-1], dtype=y.dtype))) for y in outputs)
    gradients = tape.gradient(loss, [*sources, *weights], unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return outputs, gradients[: len(sources)], gradients[len(sources) :]


def live_blocks(sparse, name, dense):
    """The stored blocks' part of a gradient with respect to the Keras twin's weights, a dict by their names."""
    if name == "bias":
        return dense["bias"]
    whole = np.asarray(dense["kernel" if name == "kernel" else "recurrent_kernel"])
    if "candidate_kernel" in sparse.cell.matrices() and name != "kernel":
        units = sparse.units
        whole = whole[:, 2 * units :] if name == "candidate_kernel" else whole[:, : 2 * units]
    weight = getattr(sparse.cell, name)
    return bs.BsrMatrix.from_dense(whole, weight.grid, weight.bsr().block_mask, weight.order).blocks


def check_twins(case, settings):
    settings = dict(settings)
    mask, training = masks()[settings.pop("mask")], settings.pop("training")
    states = states_of(case) if settings.pop("given_state") else None
    twin_class, sparse_class, sizes = RECURRENT[case]
    twin, sparse = sparse_twins(twin_class, sparse_class, {**sizes, **settings}, (BATCH, TIME, FEATURES))
    assert sparse.why_step(training) is None
    x = tf.constant(normal(BATCH, TIME, FEATURES))
    call = {"mask": mask, "training": training}
    wanted = results(twin, x, states, [v.value for v in twin.trainable_variables], **call)
    outputs = results(sparse, x, states, [v.value for v in sparse.trainable_variables], **call)
    dense = dict(zip([v.name for v in twin.trainable_variables], wanted[2], strict=True))
    weights = [live_blocks(sparse, v.name, dense) for v in sparse.trainable_variables]
    for actual, expected in zip(outputs, (*wanted[:2], weights), strict=True):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, length=20 * TIME, scale=max(1, np.abs(e).max()))


def drawn(case, count):
    """`count` settings in which each argument's values take turns in an order of their own."""
    rng = np.random.default_rng(list(RECURRENT).index(case))
    columns = {
        name: [values[i % len(values)] for i in rng.permutation(-(-count // len(values)) * len(values))]
        for name, values in ARGUMENTS.items()
    }
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


@pytest.mark.parametrize("case", RECURRENT)
def test_equals_the_keras_twin(case):
    settings = drawn(case, 8)
    for name, values in ARGUMENTS.items():
        assert {s[name] for s in settings} == set(values)
    for s in settings:
        check_twins(case, s)


@pytest.mark.exhaustive
@pytest.mark.parametrize("activation", ARGUMENTS["activation"])
@pytest.mark.parametrize("case", RECURRENT)
def test_equals_the_keras_twin_for_every_combination(case, activation):
    table = {**ARGUMENTS, "activation": (activation,)}
    for values in itertools.product(*table.values()):
        check_twins(case, dict(zip(table, values, strict=True)))


@pytest.mark.parametrize("recurrent_activation", ["linear", "relu", "tanh", "hard_sigmoid"])
@pytest.mark.parametrize("case", ["gru", "gru_reset_before", "lstm"])
def test_activations_of_gates(case, recurrent_activation):
    twin_class, sparse_class, sizes = RECURRENT[case]
    settings = {**sizes, "recurrent_activation": recurrent_activation, "return_sequences": True}
    twin, sparse = sparse_twins(twin_class, sparse_class, settings, (BATCH, TIME, FEATURES))
    assert (sparse.why_step() is None) == (recurrent_activation != "hard_sigmoid")
    x = 0.3 * normal(BATCH, TIME, FEATURES)
    expected = np.asarray(twin(x))
    assert_close(sparse(x), expected, length=20 * TIME, scale=max(1, np.abs(expected).max()))


SETTINGS = [
    {},
    dict(return_sequences=True, dropout=0.4),
    dict(return_sequences=True, return_state=True, go_backwards=True, zero_output_for_mask=True),
    dict(use_bias=False, activation="relu", kernel_regularizer="l2"),
]


def both_ways(case, **settings):
    """The layer by one op, and the same by a loop."""
    pair = [NEW[case](implementation=name, **settings) for name in ("sequence", "step")]
    for layer in pair:
        layer.build((BATCH, TIME, FEATURES))
    pair[1].set_weights(pair[0].get_weights())
    assert pair[0].why_step() is None and pair[1].why_step() == "implementation='step'"
    return pair


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("case", NEW)
def test_sequence_equals_step(case, settings):
    sequence, step = both_ways(case, **settings)
    x = tf.constant(normal(BATCH, TIME, FEATURES))
    for mask, training in itertools.product((None, masks()["holes"]), (False, True)):
        pair = [
            results(
                layer, x, states_of(case), [v.value for v in layer.trainable_variables], mask=mask, training=training
            )
            for layer in (sequence, step)
        ]
        for actual, expected in zip(*(itertools.chain(*r) for r in pair), strict=True):
            assert_close(actual, expected, length=20 * TIME, scale=max(1, np.abs(expected).max()))


@pytest.mark.parametrize("case", NEW)
def test_training_is_the_same(case):
    x, y = normal(8, TIME, FEATURES), normal(8, 9, seed=2)
    trained = []
    for layer in both_ways(case):
        model = keras.Sequential([keras.Input((TIME, FEATURES)), layer])
        model.compile(keras.optimizers.SGD(0.5), "mse")
        history = model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
        trained.append([np.array(history.history["loss"]), *model.get_weights()])
    for actual, expected in zip(*trained, strict=True):
        assert_close(actual, expected, length=100)


REASONS = {
    "activation": (dict(activation="gelu"), False, r"activation='gelu' is none that the op has: linear, relu"),
    "unroll": (dict(unroll=True), False, "unroll=True"),
    "recurrent_dropout": (dict(recurrent_dropout=0.5), True, r"recurrent_dropout=0.5 drops states"),
}


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("case", NEW)
def test_what_the_op_does_not_do_is_done_in_steps(case, reason):
    settings, training, message = REASONS[reason]
    layer = NEW[case](**settings)
    x = normal(BATCH, TIME, FEATURES)
    assert layer(x, training=training).shape == (BATCH, 9)
    assert operations(layer, training).isdisjoint(OPS)
    with pytest.raises(ValueError, match=f"in one op: .*{message}.*implementation='auto'"):
        NEW[case](**settings, implementation="sequence")(x, training=training)


def operations(layer, training=False):
    """Types of all operations in the graph of a call."""
    layer.build((BATCH, TIME, FEATURES))
    call = tf.function(lambda x: layer(x, training=training))
    graph = call.get_concrete_function(tf.TensorSpec([BATCH, TIME, FEATURES])).graph
    return {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("case", NEW)
def test_the_graph_is_one_op(case):
    types = operations(NEW[case]())
    assert len(types & OPS) == 1
    assert not any("While" in name or "MatMul" in name for name in types)


@pytest.mark.parametrize("case", NEW)
def test_config(case):
    for implementation in ("auto", "sequence", "step"):
        layer = NEW[case](implementation=implementation)
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert copy.implementation == implementation
        assert copy.get_config() == layer.get_config()
    with pytest.raises(ValueError, match=r"`implementation` must be one of .*'step'.*Received: implementation=2"):
        NEW[case](implementation=2)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("case", RECURRENT)
def test_stateful(case, go_backwards):
    twin_class, sparse_class, sizes = RECURRENT[case]
    settings = {**sizes, "stateful": True, "go_backwards": go_backwards, "return_sequences": True}
    twin, sparse = sparse_twins(twin_class, sparse_class, settings, (BATCH, TIME, FEATURES))
    assert sparse.why_step() is None
    calls = [tf.function(lambda x, mask, layer=layer: layer(x, mask=mask)) for layer in (twin, sparse)]
    for i in range(3):
        x, mask = tf.constant(normal(BATCH, TIME, FEATURES, seed=i)), tf.constant(masks()["holes"])
        assert_close(calls[1](x, mask), calls[0](x, mask), length=20 * TIME)
        for state, expected in zip(sparse.states, twin.states, strict=True):
            assert_close(state, expected, length=20 * TIME)
    assert np.abs(np.asarray(sparse.states[0])).max() > 0.1
    sparse.reset_state()
    twin.reset_state()
    assert_close(sparse(x), twin(x), length=20 * TIME)
    with pytest.raises(ValueError, match=rf"\[\({BATCH + 1}, 9\).*Received: \[\({BATCH}, 9\)"):
        sparse(normal(BATCH + 1, TIME, FEATURES))


@pytest.mark.parametrize("case", RECURRENT)
def test_bidirectional(case):
    twin_class, sparse_class, sizes = RECURRENT[case]
    both = layers.Bidirectional(twin_class(**sizes, return_sequences=True, return_state=True))
    both.build((BATCH, TIME, FEATURES))
    for layer in (both.forward_layer, both.backward_layer):
        layer.cell.kernel.assign(np.where(np.arange(FEATURES)[:, None] < 4, layer.cell.kernel, 0))
    converted = bs.convert(both, block_shape=(4, 2), min_sparsity=0.0)
    assert type(converted.backward_layer) is sparse_class
    x = normal(BATCH, TIME, FEATURES)
    for mask in masks().values():
        for actual, expected in zip(converted(x, mask=mask), both(x, mask=mask), strict=True):
            assert_close(actual, expected, length=20 * TIME)

    graph = tf.function(converted).get_concrete_function(tf.TensorSpec([None, None, FEATURES])).graph
    one, other = (op for op in graph.get_operations() if op.type in OPS)
    assert other not in needed_by(one) and one not in needed_by(other), "the directions would wait for each other"


def needed_by(op):
    """All operations that have to run before `op`."""
    found, rest = set(), [op]
    while rest:
        for before in (*(x.op for x in rest[-1].inputs), *rest.pop().control_inputs):
            if before not in found:
                found.add(before)
                rest.append(before)
    return found


@pytest.mark.parametrize("case", NEW)
def test_time_distributed(case):
    layer = NEW[case]()
    x = normal(BATCH, 4, TIME, FEATURES)
    y = layers.TimeDistributed(layer)(x)
    assert_close(y[:, 2], layer(x[:, 2]), length=20 * TIME)


@pytest.mark.parametrize("implementation", ["sequence", "step"])
@pytest.mark.parametrize("case", NEW)
def test_wrong_states(case, implementation):
    layer = NEW[case](implementation=implementation)
    x = normal(BATCH, TIME, FEATURES)
    good = states_of(case)
    for states in ([*good, good[0]], [s[:, :8] for s in good], [s[:2] for s in good], [s[0] for s in good]):
        with pytest.raises(ValueError, match=rf"needs {len(good)} state.*\[\({BATCH}, 9\).*Received: \["):
            layer(x, initial_state=states)


@pytest.mark.parametrize("case", NEW)
def test_states_whose_batch_the_graph_does_not_know(case):
    layer = NEW[case]()
    layer.build((None, None, FEATURES))
    signature = [tf.TensorSpec([None, None, FEATURES]), [tf.TensorSpec([None, 9])] * len(states_of(case))]
    call = tf.function(lambda x, states: layer(x, initial_state=states), input_signature=signature)
    assert call(normal(BATCH, TIME, FEATURES), states_of(case)).shape == (BATCH, 9)
    with pytest.raises(tf.errors.InvalidArgumentError, match="h0"):
        call(normal(BATCH, TIME, FEATURES), states_of(case, BATCH + 1))


@pytest.mark.parametrize("case", NEW)
def test_short_and_empty_sequences(case):
    layer = NEW[case](return_sequences=True, return_state=True)
    inputs = keras.Input((None, FEATURES))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape[0] == (None, None, 9)
    states = states_of(case)
    for call in (layer, tf.function(model), tf.function(layer)):
        for batch, time in ((BATCH, 1), (BATCH, 0), (0, TIME), (0, 0)):
            output, *new = call(normal(batch, time, FEATURES))
            assert output.shape == (batch, time, 9) and all(s.shape == (batch, 9) for s in new)
    for actual, expected in zip(layer(normal(BATCH, 0, FEATURES), initial_state=states)[1:], states, strict=True):
        np.testing.assert_array_equal(actual, expected)
    last = NEW[case]()
    np.testing.assert_array_equal(last(normal(BATCH, 0, FEATURES)), np.zeros((BATCH, 9)))


@pytest.mark.parametrize("policy, eps", [("mixed_float16", 1e-3), ("mixed_bfloat16", 8e-3), ("float64", 1e-6)])
@pytest.mark.parametrize("case", NEW)
def test_precisions(case, policy, eps):
    layer = NEW[case](dtype=policy, return_sequences=True, stateful=True)
    single = NEW[case](return_sequences=True, stateful=True)
    x = normal(BATCH, TIME, FEATURES)
    layer.build(x.shape)
    single.build(x.shape)
    single.set_weights(layer.get_weights())
    for _ in range(2):
        y = layer(x, mask=masks()["holes"])
        assert y.dtype == layer.compute_dtype
        expected = np.asarray(single(x, mask=masks()["holes"]), "float64")
        assert np.abs(tf.cast(y, "float64") - expected).max() < 10 * eps
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(x, training=True), "float32"))
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_a_mask_from_an_embedding():
    ids = np.array([[3, 1, 2, 0, 0, 0], [5, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), layers.Embedding(7, FEATURES, mask_zero=True), NEW["lstm"]()]
    )
    y = np.asarray(model(ids))
    np.testing.assert_allclose(y[0], np.asarray(model(ids[:1, :3]))[0], atol=1e-6)
    np.testing.assert_allclose(y[1], np.asarray(model(ids[1:2, :1]))[0], atol=1e-6)


LOAD = """
import sys
import keras
import numpy as np
import tensorflow as tf
import tf_blocksparse
directory = sys.argv[1]
x = np.load(directory + "/x.npy")
model = keras.models.load_model(directory + "/m.keras")
assert [layer.implementation for layer in model.layers[1:]] == ["sequence", "auto"]
served = tf.saved_model.load(directory + "/saved")
with tf.GradientTape() as tape:
    y = served.serve(x)
    loss = tf.reduce_sum(y * y)
gradients = tape.gradient(loss, served.trainable_variables)
np.savez(directory + "/results.npz", model(x), y, *gradients)
"""


def test_a_fresh_process_answers_and_differentiates_alike(tmp_path):
    inputs = keras.Input((None, FEATURES))
    x = bs.BlockSparseGRU(16, return_sequences=True, implementation="sequence")(inputs)
    model = keras.Model(inputs, bs.BlockSparseLSTM(9)(x))
    model.save(tmp_path / "m.keras")
    bs.export(model, tmp_path / "saved")
    x = normal(BATCH, TIME, FEATURES)
    np.save(tmp_path / "x.npy", x)
    run_python(LOAD, tmp_path)
    results = list(np.load(tmp_path / "results.npz").values())
    with tf.GradientTape() as tape:
        y = model(x)
        loss = tf.reduce_sum(y * y)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for actual, expected in zip(results, [y, y, *gradients], strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


STREAM = """
import sys
import numpy as np
import tensorflow as tf
library, directory = sys.argv[1:]
tf.load_op_library(library)
x = np.load(directory + "/x.npy")
step = tf.saved_model.load(directory + "/saved").signatures["step"]
states = {name: tf.zeros([1, 9]) for name in ("h", "c")}
outputs = []
for t in range(x.shape[1]):
    outputs.append(step(x=tf.constant(x[:, t : t + 1]), **states))
    states = {name: outputs[-1][name] for name in states}
np.save(directory + "/y.npy", np.concatenate([y["y"] for y in outputs], axis=1))
assert "tf_blocksparse" not in sys.modules
"""


def test_a_stream_in_a_fresh_process_with_tensorflow_alone(tmp_path):
    """One time step a call, as its own signature; the caller keeps the states."""
    layer = bs.BlockSparseLSTM(9, return_sequences=True, return_state=True, num_blocks={"recurrent_kernel": 10})
    x = normal(1, 12, FEATURES)
    whole = layer(x)[0]
    spec = tf.TensorSpec([1, 9])

    @tf.function(input_signature=[tf.TensorSpec([1, 1, FEATURES]), spec, spec])
    def step(x, h, c):
        return dict(zip(("y", "h", "c"), layer(x, initial_state=[h, c]), strict=True))

    module = tf.Module()
    module.variables_of_layer = [v.value for v in layer.variables]
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"step": step})
    np.save(tmp_path / "x.npy", x)
    run_python(STREAM, bs.ops.library_path(), tmp_path)
    assert_close(np.load(tmp_path / "y.npy"), whole, length=100)


def test_many_python_threads():
    stack = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            layers.Bidirectional(NEW["gru"](return_sequences=True)),
            NEW["lstm"](return_sequences=True),
            NEW["simple_rnn"](),
        ]
    )
    call = tf.function(stack, input_signature=[tf.TensorSpec([None, None, FEATURES])])
    inputs = [tf.constant(normal(batch, time, FEATURES, seed=batch)) for batch, time in ((1, 1), (1, 20), (9, 5))]
    expected = [call(x) for x in inputs]

    def work(i):
        return i % 3, call(inputs[i % 3])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for n, y in pool.map(work, range(1000)):
            np.testing.assert_allclose(y, expected[n], atol=1e-6)


def test_second_derivatives_need_steps():
    sequence, step = both_ways("gru")
    x = tf.constant(normal(BATCH, TIME, FEATURES))

    def second(layer):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(layer(x) ** 2)
            square = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(square, x)

    assert np.abs(second(step)).max() > 0
    with pytest.raises(NotImplementedError, match="implementation='step'"):
        second(sequence)
