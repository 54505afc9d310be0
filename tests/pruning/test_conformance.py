"""Every property of pruning, over every layer that can be pruned."""

import functools
import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_blocksparse as bs
from helpers import assert_close, loop_blocks
from pruning.layer_cases import (
    BATCH,
    BEGIN,
    CASES,
    END,
    FACTOR,
    FREQUENCY,
    STEPS,
    TARGET,
    initial,
    trained,
)
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.weights import layer_paths
from tf_blocksparse.regularizers import WhilePruning

SCORES = {
    "max": lambda block: np.abs(block).max(),
    "mean": lambda block: np.abs(block).mean(),
    "l2": lambda block: np.sqrt((block**2).sum()),
}
UPDATES = (2, 7, 12, 14)  # the last one is at the end, whatever the frequency
PRODUCTS = [name for name, case in CASES.items() if next(iter(case.expected.values())).rows]

# Layers with a constraint for a weight that is no matrix: a layer, and what `prune_blocks()` says.
NO_MATRIX = {
    layers.DepthwiseConv1D: (lambda: layers.DepthwiseConv1D(2), (4, 3), "filter of its own"),
    layers.DepthwiseConv2D: (lambda: layers.DepthwiseConv2D(2), (4, 4, 3), "filter of its own"),
    layers.BatchNormalization: (layers.BatchNormalization, (3,), "it scales"),
    layers.GroupNormalization: (lambda: layers.GroupNormalization(1), (3,), "it scales"),
    layers.LayerNormalization: (layers.LayerNormalization, (3,), "it scales"),
    layers.PReLU: (layers.PReLU, (3,), "it scales"),
}


def dropped_at(step, num_blocks):
    """How many blocks are gone when `step` steps were trained, from [AGP], Equation 1."""
    update = max((update for update in UPDATES if update <= step), default=None)
    if update is None:
        return 0
    sparsity = TARGET * (1 - (1 - (update - BEGIN) / (END - BEGIN)) ** 3)
    return min(round(sparsity * num_blocks), num_blocks - 1)


def without_smallest(scores, block_mask, num_dropped):
    """The mask in which the blocks of lowest score are dropped until `num_dropped` are."""
    order = np.argsort(np.where(block_mask, scores, -1).ravel(), kind="stable")
    kept = block_mask.copy().ravel()
    kept[order[:num_dropped]] = False
    return kept.reshape(block_mask.shape)


def weights_of(model):
    return {weight.path: weight for weight in pruned_weights(model)}


def summary(model):
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line), line_length=120, expand_nested=True)
    return lines


def copy_of(name):
    """The trained model of a case once more, its weights and pruning read from a file."""
    model = CASES[name].pruned()
    model.load_weights(f"{trained(name).folder}/end.weights.h5")
    return model


def outputs(model, x):
    return np.asarray(model(x, training=False))


def constraints_and_regularizers(model):
    return [(w.path, type(w.constraint), type(w.regularizer)) for w in model.weights]


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_matrices_are_pruned_and_nothing_else_changes(name):
    case = CASES[name]
    model = case.fresh()
    paths, text = [w.path for w in model.weights], summary(model)
    case.apply(model)
    assert {path: weight.kind for path, weight in weights_of(model).items()} == {
        path: matrix.kind for path, matrix in case.expected.items()
    }
    assert [w.path for w in model.weights] == paths
    assert summary(model) == text
    for path, weight in weights_of(model).items():
        matrix, values = case.expected[path], np.asarray(weight.variable)
        assert weight.pruning.grid == matrix.grid(values), path
        np.testing.assert_array_equal(weight.matrix(), matrix.of(values), path)


@pytest.mark.parametrize("name", CASES)
def test_dropped_blocks_are_exactly_zero_after_every_step_and_stay_so(name):
    record = trained(name)
    assert len(record.masks) == STEPS
    for path, matrix in CASES[name].expected.items():
        last = np.ones_like(record.masks[0][path])
        for step, (masks, values) in enumerate(zip(record.masks, record.values, strict=True), start=1):
            mask = masks[path]
            for i, j, block in matrix.blocks(values[path]):
                assert mask[i, j] or not (block.any() or np.signbit(block).any()), (path, step, i, j)
            assert not (mask & ~last).any(), f"{path}: a block came back at step {step}"
            assert (~mask).sum() == dropped_at(step, mask.size), (path, step)
            last = mask


@pytest.mark.parametrize("name", CASES)
def test_the_target_is_reached_and_steps_are_counted(name):
    for path, weight in weights_of(trained(name).model).items():
        mask = np.asarray(weight.pruning.block_mask)
        assert (~mask).sum() == min(round(TARGET * mask.size), mask.size - 1), path
        assert int(weight.pruning.step) == STEPS, path


@pytest.mark.parametrize(
    "name,score",
    [(name, "max") for name in CASES]
    + [
        (name, score)
        for name in ("max_norm", "lstm", "einsum_batched", "conv_2d_transpose")
        for score in ("mean", "l2")
    ],
)
def test_masks_are_those_of_a_plain_count(name, score):
    case, rng = CASES[name], np.random.default_rng(0)
    for path, weight in weights_of(case.pruned(score=score)).items():
        matrix, variable = case.expected[path], weight.variable
        mask = np.ones(weight.pruning.grid.mask_shape, bool)
        for step in range(1, STEPS + 1):
            variable.assign(rng.standard_normal(variable.shape))
            w = ops.convert_to_numpy(variable if weight.pruning.inner is None else weight.pruning.inner(variable))
            variable.assign(variable.constraint(variable))
            scores, masked = np.zeros(mask.shape), matrix.of(w)
            for i, j, block in matrix.blocks(w):
                scores[i, j] = SCORES[score](block)
            if step in UPDATES:
                mask = without_smallest(scores, mask, dropped_at(step, mask.size))
            np.testing.assert_array_equal(weight.pruning.block_mask, mask, f"{path}, step {step}")
            for i, j, rows, cols in loop_blocks(matrix.grid(w)):
                masked[rows, cols] *= mask[i, j]
            np.testing.assert_array_equal(variable, matrix.weight(masked, w.shape), f"{path}, step {step}")


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_block_joins_its_rows_of_the_input_to_its_columns_of_the_output(name):
    case, rng = CASES[name], np.random.default_rng(1)
    model = case.pruned()
    weight, matrix = next(iter(weights_of(model).values())), next(iter(case.expected.values()))
    x, _ = case.data(model, steps=1)
    grid = weight.pruning.grid
    width = grid.gate_width
    blocks = list(loop_blocks(grid))
    for i, j, rows, cols in (blocks[0], blocks[len(blocks) // 2], blocks[-1]):
        weight.pruning.block_mask.assign(np.outer(np.arange(grid.rows) == i, np.arange(grid.cols) == j))
        weight.variable.assign(rng.standard_normal(weight.variable.shape))
        weight.variable.assign(weight.pruning.masked(weight.variable))
        block = matrix.of(np.asarray(weight.variable))[rows, cols]
        assert block.all()
        y = np.asarray(model.layers[0](x))
        for gate in range(grid.gates):
            columns = matrix.columns(y, gate) if matrix.columns else y[..., gate * width : (gate + 1) * width]
            expected = np.zeros((columns.size // width, width))
            if gate == cols.start // width:
                rows_of_x = matrix.rows(model.layers[0], x, gate).reshape(-1, grid.shape[0])
                expected[:, cols.start - gate * width : cols.stop - gate * width] = rows_of_x[:, rows] @ block
            assert_close(columns.reshape(-1, width), expected, length=4)
            assert not columns.reshape(-1, width)[:, ~expected.any(0)].any()


@pytest.mark.parametrize("name", CASES)
def test_group_lasso_is_that_of_a_plain_loop_while_the_schedule_runs(name):
    case, rng = CASES[name], np.random.default_rng(2)
    model = case.pruned()
    before, expected = 0.0, 0.0
    for path, weight in weights_of(model).items():
        weight.variable.assign(rng.standard_normal(weight.variable.shape))
        w = np.asarray(weight.variable)
        inner = weight.regularizer.inner
        before += 0.0 if inner is None else float(inner(w))
        expected += FACTOR * sum(np.sqrt((block**2).sum()) for _, _, block in case.expected[path].blocks(w))
    for calls, active in {BEGIN - 1: 0, BEGIN: 1, END - 1: 1, END: 0}.items():
        for weight in weights_of(model).values():
            weight.pruning.calls.assign(calls)
        assert float(sum(model.losses)) == pytest.approx(before + active * expected, rel=1e-5, abs=1e-9), calls


@pytest.mark.parametrize("name", CASES)
def test_strip_leaves_a_plain_keras_model(name):
    model = copy_of(name)
    x, _ = CASES[name].data(model, steps=1)
    expected = outputs(model, x)
    assert bs.strip_pruning(model) is model
    np.testing.assert_array_equal(outputs(model, x), expected)
    assert not pruned_weights(model)
    assert "tf_blocksparse" not in model.to_json()
    of_types = [entry[1:] for entry in constraints_and_regularizers(model)]
    assert of_types == [entry[1:] for entry in constraints_and_regularizers(initial(name))]
    for place in layer_paths(model):
        held = [v for k, v in vars(place.layer).items() if k.endswith(("_constraint", "_regularizer"))]
        assert not [v for v in held if isinstance(v, WhilePruning) or type(v).__module__.startswith("tf_blocksparse")]


def test_strip_puts_back_what_the_weight_had():
    model = bs.strip_pruning(copy_of("max_norm"))
    dense = model.layers[0]
    assert isinstance(dense.kernel_constraint, keras.constraints.MaxNorm)
    assert isinstance(dense.kernel_regularizer, keras.regularizers.L2)
    assert "MaxNorm" in model.to_json()


@pytest.mark.parametrize("name", CASES)
def test_report_lists_what_is_pruned(name):
    record = trained(name)
    found = {w.path: w for w in bs.report(record.model).weights if w.state == "pruned"}
    assert found.keys() == CASES[name].expected.keys()
    for path, weight in found.items():
        assert weight.sparsity == pytest.approx(1 - record.masks[-1][path].mean()), path
        assert weight.block_shape == (4, 2)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_graph])
def test_convert_keeps_the_outputs_beside_a_dense_that_it_converts(name):
    inner = copy_of(name)
    x = keras.Input(inner.input_shape[1:], dtype=inner.inputs[0].dtype)
    beside = layers.Dense(8, name="beside")
    model = keras.Model(x, beside(layers.Flatten()(inner(x))))
    beside.kernel.assign(np.where(np.arange(8) < 6, 0, beside.kernel))
    data, _ = CASES[name].data(inner, steps=1)
    converted = bs.convert(model, block_shape=(4, 2), measure=False)
    assert type(converted.get_layer("beside")).__name__ == "BlockSparseDense"
    assert_close(outputs(converted, data), outputs(model, data), length=200)


@functools.cache
def layers_with_a_constraint():
    """Public layers of Keras that take a constraint for another weight than a bias."""
    found = set()
    for cls in vars(layers).values():
        if inspect.isclass(cls):
            inits = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
            names = {name for init in inits for name in inspect.signature(init).parameters}
            if any(name.endswith("_constraint") and name != "bias_constraint" for name in names):
                found.add(cls)
    return found


def test_the_table_is_complete():
    tested = {type(place.layer) for name in CASES for place in layer_paths(initial(name))}
    missing = layers_with_a_constraint() - tested - NO_MATRIX.keys()
    assert not missing, f"{missing} have weights with a constraint: add a case, or say in NO_MATRIX why not"
    assert len(layers_with_a_constraint()) > 25
    stems = {"kernel", "recurrent", "embeddings", "pointwise"}
    for cls in NO_MATRIX:
        names = inspect.signature(cls.__init__).parameters
        assert not stems & {name.removesuffix("_constraint") for name in names if name.endswith("_constraint")}


@pytest.mark.parametrize("cls", NO_MATRIX, ids=lambda cls: cls.__name__)
def test_what_is_no_matrix_is_refused_with_the_reason(cls):
    build, shape, reason = NO_MATRIX[cls]
    layer = build()
    model = keras.Sequential([keras.Input(shape), layer])
    for target in (layer, model):
        with pytest.raises(ValueError, match=f"nothing to prune.*{reason}"):
            bs.prune_blocks(target, 4, bs.GradualSparsity(TARGET, BEGIN, END, FREQUENCY))
    weights = [weight for weight in layer.weights if weight.trainable]
    assert weights and all(weight.constraint is None for weight in weights)
    assert ops.shape(model(np.ones((BATCH, *shape), "float32")))[0] == BATCH
