"""The ops for whole sequences and their gradients, against dense matrices in float64."""

import concurrent.futures
import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from rnn_cases import ACTIVATIONS, CELLS, MASKS, assert_close, expected, problem, total, with_gradients

BLOCK_SHAPES = [(1, 1), (3, 5), (4, 4), (16, 16), (8, 32), (16, 1), (32, 32)]
OPTIONS = {
    "mask": MASKS,
    "go_backwards": (False, True),
    "time_major": (False, True),
    "return_sequences": (True, False),
    "zero_output_for_mask": (False, True),
    "activation": tuple(ACTIVATIONS),
    "recurrent_activation": tuple(ACTIVATIONS),
    "bias": (True, False),
}
BATCHES = (1, 2, 3, 5, 8, 16, 17, 40)
TIMES = (0, 1, 2, 7)
SIZES = ((10, 9), (16, 16), (37, 21), (5, 40))  # in_features, units


def check(cell, save, **settings):
    if not CELLS[cell].recurrent_activation:
        settings.pop("recurrent_activation", None)
    p = problem(cell, **settings)
    outputs, gradients = with_gradients(lambda v: p.call(CELLS[cell].function, v, save=save), p.values)
    wanted, wanted_gradients = expected(p)
    try:
        assert_close(outputs, wanted)
        # States that grow from step to step, as with linear activations, make more of rounding on the way back.
        assert_close(gradients, wanted_gradients, 2e-4)
    except AssertionError as error:
        raise AssertionError(f"{cell} with save={save}, {settings}") from error


def drawn(seed, count):
    """`count` settings of which each value of each option is in about as many; the first ones of any number are."""
    rng = np.random.default_rng(seed)
    table = {**OPTIONS, "batch": BATCHES, "time": TIMES, "size": SIZES, "save": (True, False)}
    columns = {k: [v[i % len(v)] for i in rng.permutation(-(-count // len(v)) * len(v))] for k, v in table.items()}
    for i in range(count):
        settings = {k: column[i] for k, column in columns.items()}
        in_features, units = settings.pop("size")
        yield {**settings, "in_features": in_features, "units": units}


def test_drawn_settings_hold_every_value():
    for name, values in OPTIONS.items():
        assert {s[name] for seed in range(len(BLOCK_SHAPES)) for s in drawn(seed, 8)} == set(values)


@pytest.mark.parametrize("block_shape", BLOCK_SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients(cell, block_shape):
    for i, settings in enumerate(drawn(BLOCK_SHAPES.index(block_shape), 8)):
        check(cell, block_shape=block_shape, seed=i, **settings)


@pytest.mark.parametrize("mask", ["none", "right_padded", "holes"])
@pytest.mark.parametrize("cell", CELLS)
def test_all_ways_to_walk(cell, mask):
    names = ("go_backwards", "time_major", "return_sequences", "zero_output_for_mask")
    for i, walk in enumerate(itertools.product((False, True), repeat=len(names))):
        check(cell, save=i % 2 == 0, mask=mask, **dict(zip(names, walk, strict=True)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("block_shape", BLOCK_SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_of_many_settings(cell, block_shape):
    for i, settings in enumerate(drawn(100, 400)):
        check(cell, block_shape=block_shape, seed=i, **settings)


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_larger_ones_that_are_split_over_threads(cell, save):
    for batch, time in ((1, 20), (4, 12), (33, 6)):
        check(cell, save, in_features=200, units=300, block_shape=(16, 16), batch=batch, time=time, density=0.2)


@pytest.mark.parametrize("cell", CELLS)
def test_many_steps(cell):
    check(cell, True, units=33, block_shape=(8, 8), batch=5, time=100, mask="holes")


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("cell", CELLS)
def test_densities(cell, density):
    check(cell, True, density=density, units=20, mask="holes")


@pytest.mark.parametrize("batch, time", [(0, 0), (0, 3), (2, 0)])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_to_do(cell, batch, time):
    for return_sequences, mask, save in itertools.product((True, False), ("none", "holes"), (True, False)):
        check(cell, save, batch=batch, time=time, mask=mask, return_sequences=return_sequences)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_some_outputs_only(cell):
    p = problem(cell, mask="holes")
    for chosen in range(1 + len(p.states)):
        gradients = []
        for function in (CELLS[cell].function, CELLS[cell].reference):
            values = [tf.constant(v) for v in p.values]
            with tf.GradientTape() as tape:
                tape.watch(values)
                loss = total([p.call(function, values)[chosen]])
            gradients.append([np.asarray(g) for g in tape.gradient(loss, values)])
        assert_close(*gradients)


@pytest.mark.parametrize("cell", CELLS)
def test_an_example_does_not_depend_on_the_others(cell):
    clean = problem(cell, batch=6, time=5, mask="holes", density=1.0)
    clean.mask[2, 3] = True
    p = dataclasses.replace(clean, x=clean.x.copy())
    p.x[2, 3] = np.nan
    outputs, wanted = ([np.asarray(y) for y in q.call(CELLS[cell].function, q.values)] for q in (p, clean))
    others = np.arange(6) != 3
    for y, w in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(y[others], w[others])
    assert np.isnan(outputs[0][3, 2:]).all() and np.isnan(outputs[1][3]).all()
    assert np.isfinite(outputs[0][3, :2]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_masked_steps_are_not_read(cell):
    p = problem(cell, batch=6, time=5, mask="holes")
    wanted, _ = expected(p)
    p.x[~p.mask] = np.nan
    outputs = [np.asarray(y) for y in p.call(CELLS[cell].function, p.values)]
    assert_close(outputs, wanted)


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_again_bit_by_bit(cell):
    p = problem(cell, in_features=100, units=120, block_shape=(8, 8), batch=7, time=9)
    first, second = (with_gradients(lambda v: p.call(CELLS[cell].function, v, save=True), p.values) for _ in range(2))
    for a, b in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_unknown_shapes_in_a_function(cell, save):
    p = problem(cell, in_features=10, units=9, mask="holes", go_backwards=True)
    signature = [tf.TensorSpec([None] * v.ndim) for v in p.values]
    signature[1 : 1 + len(p.states)] = [tf.TensorSpec([None, 9])] * len(p.states)

    @tf.function(input_signature=[signature, tf.TensorSpec([None, None], tf.bool)])
    def function(values, mask):
        outputs = p.call(CELLS[cell].function, values, mask=mask, save=save)
        assert outputs[0].shape.as_list() == [None, None, 9]
        assert [y.shape.as_list() for y in outputs[1:]] == [[None, 9]] * len(p.states)
        return list(outputs), tf.gradients(outputs[0], values)

    for batch, time in ((3, 4), (1, 1), (2, 0), (0, 2)):
        q = problem(cell, in_features=10, units=9, mask="holes", batch=batch, time=time, go_backwards=True)
        outputs, gradients = function([tf.constant(v) for v in q.values], q.swap(q.mask))
        assert_close([np.asarray(y) for y in outputs], expected(q)[0])
        assert [g.shape for g in gradients] == [v.shape for v in q.values]


@pytest.mark.parametrize("cell", CELLS)
def test_saved_model(cell, tmp_path):
    p = problem(cell)

    class Model(tf.Module):
        def __init__(self):
            self.values = [tf.Variable(v) for v in p.values[1:]]

        @tf.function(input_signature=[tf.TensorSpec([None, None, 10])])
        def __call__(self, x):
            return p.call(CELLS[cell].function, [x, *self.values])

    model = Model()
    before = model(p.values[0])
    tf.saved_model.save(model, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    with tf.GradientTape() as tape:
        outputs = loaded(p.values[0])
        loss = total(outputs)
    for a, b in zip(outputs, before, strict=True):
        np.testing.assert_array_equal(a, b)
    gradients = [np.asarray(g) for g in tape.gradient(loss, loaded.values)]
    assert_close(gradients, expected(p)[1][1:], 1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_are_refused(cell):
    p = problem(cell)
    x = tf.constant(p.values[0])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = total(p.call(CELLS[cell].function, [x, *p.values[1:]]))
        square = tf.reduce_sum(inner.gradient(loss, x) ** 2)
    with pytest.raises(NotImplementedError, match=r"no second derivatives.*implementation='step'.*_reference"):
        outer.gradient(square, x)


def test_a_persistent_tape_around_a_function_asks_for_no_second_derivatives():
    p = problem("lstm")
    function = tf.function(lambda v: total(p.call(CELLS["lstm"].function, v, save=True)))
    values = [tf.constant(v) for v in p.values]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        loss = function(values)
    gradients = [np.asarray(tape.gradient(loss, v)) for v in values]
    assert_close(gradients, expected(p)[1], 1e-4)


def test_many_python_threads():
    """More calls at once than the pools have threads: each must come to its end, with its own result."""
    problems = [
        problem(cell, in_features=64, units=96, block_shape=(8, 8), batch=batch, time=6, seed=i)
        for i, (cell, batch) in enumerate(itertools.product(CELLS, (1, 5)))
    ]
    wanted = [expected(p) for p in problems]

    @tf.function
    def together():
        results = []
        for p in problems:
            x = tf.constant(p.values[0])
            outputs = p.call(CELLS[p.cell].function, [x, *p.values[1:]], save=True)
            results.append((list(outputs), tf.gradients(total(outputs), x)))
        return results

    def work(i):
        n = i % len(problems)
        p = problems[n]
        outputs, gradients = together()[n] if i % 3 == 0 else (p.call(CELLS[p.cell].function, p.values), [])
        return n, [np.asarray(y) for y in outputs], [np.asarray(g) for g in gradients]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for n, outputs, gradients in pool.map(work, range(1000)):
            assert_close(outputs, wanted[n][0])
            assert_close(gradients, wanted[n][1][: len(gradients)], 1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_a_pattern_that_changes_is_seen(cell):
    for seed in (*range(6), *range(6)):
        check(cell, True, seed=seed, units=20, batch=2)
