"""What sparse training refuses, leaves masked or is told to do all the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from helpers import ROOT, run_python
from sparse_training.training_cases import (
    END_STEP,
    IN_BLOCKS,
    MODELS,
    data,
    fit,
    live,
    pruned,
    sequential,
    slots,
    values,
)
from tf_blocksparse.convert import leaves
from tf_blocksparse.pruning.tfmot import tfmot
from tf_blocksparse.sparse_training import optimizer_state
from tf_blocksparse.twins import is_twin

layers, optimizers = keras.layers, keras.optimizers


def ended(make, optimizer=None):
    """A model whose schedules have ended."""
    model = pruned(make(), optimizer, run_eagerly=True)
    fit(model, data(model, batches=END_STEP))
    return model


def note(model, path):
    return next(w.note for w in bs.report(model).weights if w.path.endswith(path))


def test_arguments_and_models():
    model = MODELS["dense"]()
    with pytest.raises(ValueError, match="Nothing is pruned"):
        bs.sparsify_training(model)
    with pytest.raises(TypeError, match="keras.Model"):
        bs.sparsify_training(layers.Dense(3))
    pruned(model, run_eagerly=True)
    with pytest.raises(ValueError, match="ends at step 3, but only 0 steps"):
        bs.sparsify_training(model)
    for settings, message in (
        (dict(batch_size=0), "batch_size"),
        (dict(time_steps=0), "time_steps"),
        (dict(min_sparsity=1.0), "min_sparsity"),
    ):
        with pytest.raises(ValueError, match=message):
            bs.sparsify_training(model, **settings)
        with pytest.raises(ValueError, match=message):
            bs.SparsifyTraining(**settings)
    with pytest.raises(ValueError, match="does not exist"):
        bs.sparsify_training(model, like="nowhere.keras")

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclass of keras.Model"):
        bs.sparsify_training(Own())


def test_callback_refuses_when_training_begins():
    model = MODELS["dense"]()
    model.compile("sgd", "mse", run_eagerly=True)
    xy = data(model)
    with pytest.raises(ValueError, match="Nothing is pruned"):
        fit(model, xy, [bs.SparsifyTraining()])
    bs.prune_blocks(model, (4, 2), _endless())
    with pytest.raises(ValueError, match="never ends"):
        fit(model, xy, [bs.SparsifyTraining()])
    model = pruned(MODELS["dense"](), optimizers.SGD(0.1, global_clipnorm=1.0))
    with pytest.raises(ValueError, match="global_clipnorm clips by a norm"):
        fit(model, xy, [bs.SparsifyTraining()])


def _endless():
    return tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=1, end_step=-1)


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.Lamb(), optimizers.Adafactor(), optimizers.Adam(clipnorm=1.0), optimizers.SGD(global_clipnorm=0.1)],
    ids=["Lamb", "Adafactor", "clipnorm", "global_clipnorm"],
)
def test_optimizers_that_look_at_whole_matrices(optimizer):
    model = ended(MODELS["ragged"], optimizer)
    with pytest.raises(ValueError, match="exact=False"):
        bs.sparsify_training(model, **IN_BLOCKS)
    assert not is_twin(model.layers[0])
    before = slots(model, "_momentums") if isinstance(optimizer, optimizers.Lamb) else None
    bs.sparsify_training(model, exact=False, **IN_BLOCKS)
    if before:
        kept = live(model)
        for key, slot in slots(model, "_momentums").items():
            np.testing.assert_array_equal(slot, np.where(kept[key], before[key], 0))
    old = values(model)
    history = fit(model, data(model, seed=3))
    assert np.isfinite(history.history["loss"]).all()
    assert any(np.any(old[key] != new) for key, new in values(model).items())


def test_adafactor_goes_on_from_the_same_estimate():
    """Its means over rows and columns become those of each block: of the same product, also at ragged edges."""
    model = ended(MODELS["ragged"], optimizers.Adafactor(relative_step=False))
    i = next(k for k, v in enumerate(model.optimizer._trainable_variables) if v is model.layers[0].kernel)
    r, c = (getattr(model.optimizer, name)[i].numpy() for name in ("_r", "_c"))
    estimate = np.outer(r / r.mean(), c)
    bs.sparsify_training(model, exact=False, **IN_BLOCKS)
    matrix = model.layers[0].kernel.bsr()
    r, c = (getattr(model.optimizer, name)[i].numpy() for name in ("_r", "_c"))
    blocks = (r / r.mean(axis=-1, keepdims=True))[:, :, None] * c[:, None, :]
    ours = type(matrix)(matrix.grid, blocks, matrix.indices, matrix.indptr, matrix.order).to_dense()
    kept = np.asarray(matrix.grid.expand(matrix.block_mask))
    np.testing.assert_allclose(ours, np.where(kept, estimate, 0), rtol=1e-5)


def test_muon_is_refused():
    model = ended(MODELS["dense"], optimizers.Muon())
    for exact in (True, False):
        with pytest.raises(ValueError, match="Muon turns whole matrices"):
            bs.sparsify_training(model, exact=exact)


def test_slots_of_unknown_shape_are_refused():
    class Rows(optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.rows = [self.add_variable(v.shape[:1], name="rows") for v in variables]

    model = ended(MODELS["dense"], Rows(0.1))
    with pytest.raises(ValueError, match="'rows' of shape"):
        bs.sparsify_training(model, exact=False, **IN_BLOCKS)
    assert not is_twin(model.layers[0])


def test_every_optimizer_of_keras_is_sorted():
    """A new one has to be looked at."""
    known = {*optimizer_state.ELEMENTWISE, optimizers.Lamb, optimizers.Adafactor, optimizers.Muon}
    known |= {optimizers.LossScaleOptimizer, optimizers.MultiOptimizer, optimizers.Optimizer}
    found = {v for v in vars(optimizers).values() if isinstance(v, type) and issubclass(v, optimizers.Optimizer)}
    assert found == known


def test_layers_that_train_differently_in_blocks():
    model = ended(MODELS["embedding"], optimizers.Adam())
    bs.sparsify_training(model, **IN_BLOCKS)
    assert list(map(is_twin, leaves(model))) == [False, True]
    assert "repeated id" in note(model, "embeddings")
    model = ended(MODELS["embedding"], optimizers.Adam())
    bs.sparsify_training(model, exact=False, **IN_BLOCKS)
    assert all(map(is_twin, leaves(model)))

    model = ended(lambda: sequential(layers.LSTM(8, recurrent_dropout=0.2)))
    bs.sparsify_training(model, **IN_BLOCKS)
    assert not is_twin(model.layers[0])
    assert "recurrent_dropout" in note(model, "recurrent_kernel")


def test_layers_that_others_hold():
    @keras.saving.register_keras_serializable("test_refusals")
    class Scaled(layers.Layer):
        def __init__(self, inner, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner

        def call(self, x):
            return x * keras.ops.sum(keras.ops.abs(self.inner.kernel))

    def make():
        dense = layers.Dense(8)
        return sequential(dense, Scaled(dense), layers.Dense(6), inputs=(14,))

    model = ended(make)
    bs.sparsify_training(model, **IN_BLOCKS)
    assert list(map(is_twin, model.layers)) == [False, False, True]
    assert "part of another layer" in note(model, "kernel")
    fit(model, data(model))


def test_layers_that_gain_nothing_stay(caplog):
    """Half of the tiny blocks of a tiny matrix: dense is faster, whatever the machine."""

    def make():
        model = sequential(layers.Dense(64), layers.Dense(64), inputs=(64,))
        bs.prune_blocks(model, 1, bs.ConstantSparsity(0.1, begin_step=1))
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    model = make()
    callback = bs.SparsifyTraining(batch_size=256)
    fit(model, data(model), [callback], epochs=2)
    assert not any(map(is_twin, model.layers))
    assert "trains masked" in note(model, "kernel") and "slower at batch 256" in note(model, "kernel")
    assert caplog.text.count("no layer gains") == 1  # and it is measured once
    model = make()
    fit(model, data(model))
    bs.sparsify_training(model, measure=False)
    assert not any(map(is_twin, model.layers))


def test_large_sparse_layers_gain():
    model = sequential(layers.Dense(1024), inputs=(1024,))
    bs.prune_blocks(model, 16, bs.ConstantSparsity(0.95, begin_step=1))
    model.compile("sgd", "mse")
    fit(model, data(model, batches=1))
    bs.sparsify_training(model, batch_size=(16, 64))
    assert is_twin(model.layers[0])
    assert "faster at batch 64" in note(model, "kernel")


def test_a_loop_of_your_own():
    model = ended(MODELS["dense"])
    optimizer = optimizers.Adam(0.01)
    model = keras.Model(model.inputs, model.outputs)  # not compiled
    optimizer.build(model.trainable_variables)
    assert bs.sparsify_training(model, optimizer, **IN_BLOCKS) is model
    x, y = data(model)
    losses = []
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(model(x, training=True) - y))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


MIRRORED = r"""
import sys
sys.path.insert(0, sys.argv[1])
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_blocksparse as bs
from sparse_training.training_cases import IN_BLOCKS, MODELS, data, fit, largest_difference, pruned
from tf_blocksparse.twins import is_twin

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
models = []
for callbacks in ([], [bs.SparsifyTraining(**IN_BLOCKS)]):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = pruned(MODELS["gru"](), keras.optimizers.SGD(0.1, momentum=0.9))
    fit(model, data(model), callbacks)
    models.append(model)
assert all(map(is_twin, model.layers))
kernel = model.layers[0].cell.kernel.blocks.value
replicas = [v.numpy() for v in kernel.values]
assert len(replicas) == 2 and np.array_equal(*replicas)
print(largest_difference(*models))
"""


def test_several_devices():
    assert float(run_python(MIRRORED, str(ROOT / "tests")).split()[-1]) < 1e-5
