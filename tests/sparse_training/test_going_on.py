"""Saving, loading and other callbacks around the step at which layers go on in blocks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from sparse_training.training_cases import (
    BATCH,
    END_STEP,
    IN_BLOCKS,
    MODELS,
    STEPS,
    data,
    fit,
    largest_difference,
    pruned,
    schedule,
    sequential,
    values,
)
from tf_blocksparse.convert import leaves
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.twins import is_twin

layers = keras.layers


def make(name="dense"):
    keras.utils.set_random_seed(4)
    return pruned(MODELS[name](), keras.optimizers.Adam(0.01), run_eagerly=True)


def callback():
    return bs.SparsifyTraining(**IN_BLOCKS)


def part(xy, start, stop):
    return tuple(a[start * BATCH : stop * BATCH] for a in xy)


def same(a, b):
    """Whether two models and their optimizers hold the same numbers; not where they are in their random ones."""
    pairs = zip(a.variables + a.optimizer.variables, b.variables + b.optimizer.variables, strict=True)
    return all(np.array_equal(v, w) for v, w in pairs if "seed" not in v.path)


class Crash(keras.callbacks.Callback):
    """Ends the run as a crash would, after an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [END_STEP - 1, END_STEP, END_STEP + 2], ids=["before", "at", "after"])
@pytest.mark.parametrize("form", ["keras", "weights", "checkpoint"])
def test_resuming(form, steps, tmp_path):
    """Interrupted before, at and after the swap, saved in every form: to the bit the run that was not interrupted."""
    model = make()
    xy = data(model)
    fit(model, part(xy, 0, steps), [callback()])
    assert is_twin(model.layers[0]) == (steps >= END_STEP)
    path = str(tmp_path / {"keras": "model.keras", "weights": "last.weights.h5", "checkpoint": "last"}[form])
    if form == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(path)
        resumed = bs.sparsify_training(make(), like=path)
        resumed.optimizer.build(resumed.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer)
        checkpoint.restore(path).assert_existing_objects_matched()
    elif form == "keras":
        model.save(path)
        resumed = keras.models.load_model(path)
        resumed.run_eagerly = True
    else:
        model.save_weights(path)
        resumed = bs.sparsify_training(make(), like=path)
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(path)
    assert same(model, resumed)
    for one in (model, resumed):
        fit(one, part(xy, steps, STEPS), [callback()])
    assert is_twin(resumed.layers[0])
    assert same(model, resumed)


def test_masked_state_goes_on_in_blocks(tmp_path):
    """What a masked run has saved after its schedule goes on in blocks, within rounding."""
    masked = make("gru")
    xy = data(masked)
    fit(masked, part(xy, 0, END_STEP + 1))
    masked.save_weights(tmp_path / "masked.weights.h5")
    resumed = bs.sparsify_training(make("gru"), like=tmp_path / "masked.weights.h5")
    assert not any(map(is_twin, leaves(resumed)))
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(tmp_path / "masked.weights.h5")
    bs.sparsify_training(resumed, **IN_BLOCKS)
    for model in (masked, resumed):
        fit(model, part(xy, END_STEP + 1, STEPS))
    assert largest_difference(masked, resumed) < 1e-4


@pytest.mark.parametrize("name", ["bidirectional", "functional"])
def test_a_loaded_model_goes_on(name, tmp_path):
    model = make(name)
    xy = data(model)
    fit(model, xy, [callback()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True
    for one in (model, loaded):
        fit(one, xy, [callback()])
    assert same(model, loaded)
    loaded.save_weights(tmp_path / "later.weights.h5")  # says its form, too
    again = bs.sparsify_training(make(name), like=tmp_path / "later.weights.h5")
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "later.weights.h5")
    assert same(again, loaded)


@pytest.mark.parametrize("first", ["backup", "sparsify"])
@pytest.mark.parametrize("crash", [1, 2])
def test_backup_and_restore(first, crash, tmp_path):
    """Epochs of two steps: the layers are exchanged in the second."""

    def run(model, *callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        both = [backup, callback()] if first == "backup" else [callback(), backup]
        fit(model, part(data(model), 0, 2), [*both, *callbacks], epochs=4)
        return model

    with pytest.raises(KeyboardInterrupt):
        run(make(), Crash(crash))
    resumed = run(make())
    whole = make()
    fit(whole, part(data(whole), 0, 2), [callback()], epochs=4)
    assert is_twin(resumed.layers[0])
    assert same(resumed, whole)
    assert "load_weights" not in vars(resumed)


def test_other_callbacks_and_validation(tmp_path):
    model = make()
    best = tmp_path / "best-{epoch}.keras"
    rates = []
    callbacks = [
        keras.callbacks.ModelCheckpoint(best),
        callback(),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates.append(rate) or rate / 2),
        bs.SparsityHistory(every=1),
    ]
    optimizer, layer = model.optimizer, model.layers[0]
    xy = data(model)
    history = fit(model, part(xy, 0, 2), callbacks, epochs=4, validation_data=part(xy, 2, 4))
    assert model.optimizer is optimizer and model.layers[0] is layer and is_twin(layer)
    assert len(history.history["val_loss"]) == 4
    np.testing.assert_allclose(rates, [0.01 / 2**i for i in range(4)], rtol=1e-6)
    for epoch, in_blocks in ((1, False), (2, True), (4, True)):
        assert is_twin(keras.models.load_model(tmp_path / f"best-{epoch}.keras").layers[0]) == in_blocks
    recorded = callbacks[-1]
    assert all(len(found) == len(recorded.steps) for found in recorded.sparsity.values())


def test_early_stopping_restores_weights_of_before():
    """The best epoch was before the swap; of its weights those of live blocks come back."""
    model = make()
    xy = data(model)

    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = epoch
            if epoch == 0:
                self.kept = values(self.model)

    worse = Worse()
    stop = keras.callbacks.EarlyStopping("score", mode="min", patience=3, restore_best_weights=True)
    fit(model, part(xy, 0, 2), [worse, callback(), stop], epochs=6)
    assert is_twin(model.layers[0])
    for key, restored in values(model).items():
        mask = np.ones_like(restored, bool)
        if key[1] == "kernel":
            matrix = leaves(model)[key[0]].kernel.bsr()
            mask = np.asarray(matrix.grid.expand(matrix.block_mask))
        np.testing.assert_array_equal(restored, np.where(mask, worse.kept[key], 0))
    with pytest.raises(ValueError, match="weight"):
        model.set_weights(model.get_weights()[1:])
    model.set_weights([np.zeros_like(w) if w.dtype == "float32" else w for w in model.get_weights()])
    assert not np.any(model.layers[0].kernel.bsr().blocks)


def test_what_comes_after_training(tmp_path):
    model = make("functional")
    xy = data(model)
    fit(model, xy, [callback()])
    outputs = model.predict(xy[0], verbose=0)
    assert "block-sparse" in str(bs.report(model))
    assert bs.strip_pruning(model) is model
    converted = bs.convert(model)
    assert converted is not model and all(
        is_twin(x) == is_twin(y) for x, y in zip(leaves(model), leaves(converted), strict=True)
    )
    np.testing.assert_array_equal(converted.predict(xy[0], verbose=0), outputs)
    small = bs.convert(model, dtype="bfloat16")
    assert small.layers[-1].storage_dtype == "bfloat16"
    np.testing.assert_allclose(small.predict(xy[0], verbose=0), outputs, atol=0.05)
    bs.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve([tf.constant(x) for x in xy[0]]), outputs, atol=1e-6)


def test_wrapped_layers():
    """`PruneBlocks` has nothing left to do."""
    model = sequential(bs.PruneBlocks(layers.Dense(8), (4, 2), schedule()), layers.Dense(6), inputs=(14,))
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, data(model), [callback()])
    assert isinstance(model.layers[0], bs.BlockSparseDense)
    again = keras.Sequential.from_config(model.get_config())
    again.set_weights(model.get_weights())
    x = data(model)[0]
    np.testing.assert_array_equal(again(x), model(x))


def test_frozen_layers_wait():
    model = make()
    model.layers[0].trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, data(model), [callback()])
    assert [is_twin(layer) for layer in model.layers] == [False, True]
    assert "has not ended" in str(bs.report(model))
    assert len(pruned_weights(model)) == 1
