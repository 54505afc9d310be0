"""Training that is saved and goes on is, bit for bit, training that was never saved."""

import io
import logging
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import run_python
from pruning.layer_cases import BATCH, CASES, MIDDLE, STEPS, checkpoint_of, train, trained
from tf_blocksparse.pruning import pruned_weights

SMALL = "max_norm"  # one weight, the constraint of a user beside the pruning

# tf.train.Checkpoint does not find what Keras 3.15 holds in a list, neither masks nor weights. Files of Keras do.
IN_LISTS = ["rnn_of_cells"]


def rest(name, model):
    """The data of a case after the step in the middle."""
    return [values[MIDDLE * BATCH :] for values in CASES[name].data(model)]


def assert_same_training(actual, expected):
    """All that training goes on from is equal: weights, optimizer, masks and steps."""
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(actual.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same_pruning(actual, expected)


def assert_state_in_the_middle(model, record):
    """All that training goes on from is what it was after the step `MIDDLE`."""
    for weight in pruned_weights(model):
        np.testing.assert_array_equal(weight.variable, record.values[MIDDLE - 1][weight.path])
        np.testing.assert_array_equal(weight.pruning.block_mask, record.masks[MIDDLE - 1][weight.path])
        assert int(weight.pruning.step) == MIDDLE
    for actual, expected in zip(model.optimizer.variables, record.optimizer, strict=True):
        np.testing.assert_array_equal(actual, expected)


def assert_same_pruning(actual, expected):
    assert pruned_weights(expected)
    for a, b in zip(pruned_weights(actual), pruned_weights(expected), strict=True):
        assert (a.path, int(a.pruning.step)) == (b.path, int(b.pruning.step))
        np.testing.assert_array_equal(a.pruning.block_mask, b.pruning.block_mask)


def is_fresh(model):
    """Whether all blocks are kept and no steps are counted."""
    weights = pruned_weights(model)
    return bool(weights) and all(int(w.pruning.step) == 0 and np.all(w.pruning.block_mask) for w in weights)


@pytest.mark.parametrize("name", CASES)
def test_resume_is_bit_identical(name):
    """From a model file; and the same model, once it went on, from the files of weights, which take it back."""
    record = trained(name)
    path = f"{record.folder}/middle.keras"
    model = keras.models.load_model(path)
    if CASES[name].repeats_prune:
        CASES[name].apply(model)
        model.load_weights(path)
    formats = [lambda: None, lambda: model.load_weights(f"{record.folder}/middle.weights.h5")]
    if name not in IN_LISTS:
        formats.append(lambda: checkpoint_of(model).read(f"{record.folder}/middle").assert_existing_objects_matched())
    for load in formats:
        load()
        assert_state_in_the_middle(model, record)
        train(model, *rest(name, model))
        assert_same_training(model, record.model)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ""])
@pytest.mark.parametrize("name", CASES)
def test_a_new_pruned_model_takes_all_of_the_state(name, suffix):
    if name in IN_LISTS and not suffix:
        return  # see test_a_checkpoint_of_keras_misses_what_is_in_a_list
    record = trained(name)
    model = CASES[name].pruned(compiled=True)
    if suffix:
        model.load_weights(f"{record.folder}/middle{suffix}")
    else:
        checkpoint_of(model).read(f"{record.folder}/middle").assert_existing_objects_matched()
    assert_state_in_the_middle(model, record)


@pytest.mark.parametrize("name", IN_LISTS)
def test_a_checkpoint_of_keras_misses_what_is_in_a_list(name, tmp_path):
    plain = CASES[name].fresh()
    path = tf.train.Checkpoint(model=plain).write(tmp_path / "checkpoint")
    stored = [tuple(shape) for _, shape in tf.train.list_variables(path)]
    assert not [w.path for w in plain.weights if tuple(w.shape) in stored]


class CrashAfter(keras.callbacks.Callback):
    """Ends the process, as it were, after so many steps, or at the end of an epoch."""

    def __init__(self, steps=None, epoch=None):
        super().__init__()
        self.steps, self.epoch = steps, epoch

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.steps:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class TestBackupAndRestore:
    """`keras.callbacks.BackupAndRestore` goes on from the start of an epoch, or from a step in it."""

    @pytest.mark.parametrize("name,crash", [(SMALL, dict(steps=13)), (SMALL, dict(epoch=1)), ("gru", dict(steps=13))])
    def test_after_a_crash(self, name, crash, tmp_path):
        x, y = CASES[name].data(CASES[name].fresh(), steps=5)

        def fit(*callbacks):
            model = CASES[name].pruned()
            model.compile(keras.optimizers.Adam(0.01), "mse")
            train(model, x, y, epochs=4, callbacks=list(callbacks))
            return model

        through = fit()
        with pytest.raises(KeyboardInterrupt):
            fit(keras.callbacks.BackupAndRestore(tmp_path / "backup"), CrashAfter(**crash))
        resumed = fit(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
        assert {int(w.pruning.step) for w in pruned_weights(resumed)} == {20}
        assert_same_training(resumed, through)


def arrays_in(path):
    """`{path in the file: array}` of a `.keras` or `.weights.h5` file, read without Keras."""
    if str(path).endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            path = io.BytesIO(archive.read("model.weights.h5"))
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return arrays


@pytest.mark.parametrize("name", [SMALL, "gru"])
def test_model_checkpoints_of_any_step(name, tmp_path):
    case = CASES[name]
    model = case.pruned(compiled=True)
    x, y = case.data(model, steps=STEPS)
    record = trained(name)
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch:02d}.keras"), save_freq=3)
    train(model, x, y, callbacks=[save])
    files = sorted(tmp_path.glob("*.keras"))
    assert len(files) == STEPS // 3
    restored = case.pruned(compiled=True)
    for step, file in zip(range(3, STEPS, 3), files, strict=True):
        arrays = arrays_in(file)
        for path, matrix in case.expected.items():
            mask, values = record.masks[step - 1][path], record.values[step - 1][path]
            (stored,) = [a for key, a in arrays.items() if a.shape == values.shape and "optimizer" not in key]
            np.testing.assert_array_equal(stored, values)
            zeros = [not block.any() for i, j, block in matrix.blocks(stored) if not mask[i, j]]
            assert all(zeros) and len(zeros) == (~mask).sum()
        restored.load_weights(file)
        train(restored, x[step * BATCH :], y[step * BATCH :])
        assert_same_training(restored, model)


def test_every_saved_step_is_sparse(tmp_path):
    record, (path, matrix) = trained(SMALL), *CASES[SMALL].expected.items()
    model = CASES[SMALL].pruned(compiled=True)

    class SaveAlways(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.save_weights(tmp_path / f"{batch:02d}.weights.h5")

    train(model, *CASES[SMALL].data(model), callbacks=[SaveAlways()])
    for step, file in enumerate(sorted(tmp_path.iterdir())):
        kernel = next(a for key, a in arrays_in(file).items() if key.startswith("layers/dense/vars") and a.ndim == 2)
        mask = record.masks[step][path]
        assert all(mask[i, j] or not block.any() for i, j, block in matrix.blocks(kernel))
    assert step == STEPS - 1


class TestFormatsThatHoldNoMasks:
    @pytest.mark.filterwarnings("ignore")
    def test_legacy_h5_warns_when_it_saves_and_other_formats_do_not(self, tmp_path, recwarn):
        model = CASES["lstm"].pruned()
        model.save(tmp_path / "model.keras")
        model.save_weights(tmp_path / "model.weights.h5")
        keras.models.load_model(tmp_path / "model.keras")
        assert not [w for w in recwarn if "hold neither the masks" in str(w.message)]
        with pytest.warns(UserWarning, match="hold neither the masks nor the step"):
            model.save(tmp_path / "model.h5")

    def test_legacy_h5_warns_when_it_trains_on(self, tmp_path, caplog):
        record = trained(SMALL)
        record.model.save(tmp_path / "model.h5")
        model = keras.models.load_model(tmp_path / "model.h5", compile=False)  # Keras does not find "mse" in it
        model.compile("adam", "mse")
        for a, b in zip(model.get_weights(), record.model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert "holds no masks" not in caplog.text
        with caplog.at_level(logging.WARNING, "tf_blocksparse"):
            train(model, *rest(SMALL, model))
        assert "dense/kernel" in caplog.text and "holds no masks" in caplog.text

    @pytest.mark.parametrize("name", [SMALL, "bidirectional", "multi_head_attention"])
    def test_pruned_weights_load_into_a_plain_model(self, name):
        record = trained(name)
        plain, pruned = CASES[name].fresh(), CASES[name].pruned()
        plain.load_weights(f"{record.folder}/middle.weights.h5")
        values = {path: record.values[MIDDLE - 1][path] for path in CASES[name].expected}
        stored = [np.asarray(w) for w in plain.weights]
        for path, value in values.items():
            assert any(np.array_equal(value, w) for w in stored), path
        pruned.load_weights(f"{record.folder}/middle.weights.h5")
        x, _ = CASES[name].data(plain, steps=1)
        np.testing.assert_array_equal(plain(x), pruned(x))

    @pytest.mark.parametrize("name", [SMALL, "bidirectional", "multi_head_attention"])
    def test_plain_weights_load_into_a_pruned_model(self, name, tmp_path):
        plain = CASES[name].fresh()
        plain.set_weights([np.random.default_rng(3).standard_normal(w.shape) for w in plain.weights])
        plain.save_weights(tmp_path / "plain.weights.h5")
        pruned = CASES[name].pruned()
        pruned.load_weights(tmp_path / "plain.weights.h5")
        for a, b in zip(pruned.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert is_fresh(pruned)


def test_a_pruned_model_needs_the_package_and_a_stripped_one_does_not(tmp_path):
    record = trained(SMALL)
    model = keras.models.load_model(f"{record.folder}/middle.keras")
    model.save(tmp_path / "pruned.keras")
    bs.strip_pruning(model).save(tmp_path / "stripped.keras")
    x, _ = CASES[SMALL].data(model, steps=1)
    np.save(tmp_path / "x.npy", x)
    run_python(
        "import sys, keras, numpy as np\n"
        "folder = sys.argv[1]\n"
        "try:\n"
        "    keras.models.load_model(folder + '/pruned.keras')\n"
        "except TypeError as error:\n"
        "    assert 'BlockPruningConstraint' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('it loaded')\n"
        "model = keras.models.load_model(folder + '/stripped.keras')\n"
        "np.save(folder + '/y.npy', model(np.load(folder + '/x.npy')))\n"
        "assert 'tf_blocksparse' not in sys.modules",
        tmp_path,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))


@pytest.mark.parametrize("name", [SMALL, "gru", "multi_head_attention"])
def test_a_clone_starts_afresh(name):
    record = trained(name)
    clone = keras.models.clone_model(record.model)
    originals = {id(w.pruning) for w in pruned_weights(record.model)}
    assert not originals & {id(w.pruning) for w in pruned_weights(clone)}
    clone.compile("sgd", "mse")
    train(clone, *CASES[name].data(clone, steps=1))
    assert [w.path for w in pruned_weights(clone)] == [w.path for w in pruned_weights(record.model)]
    assert {int(w.pruning.step) for w in pruned_weights(clone)} == {1}
    assert all(np.all(w.pruning.block_mask) for w in pruned_weights(clone))


@pytest.mark.parametrize("name", [SMALL, "gru", "multi_head_attention"])
def test_pickle_goes_on_where_it_was(name):
    record = trained(name)
    model = pickle.loads(pickle.dumps(keras.models.load_model(f"{record.folder}/middle.keras")))
    assert {int(w.pruning.step) for w in pruned_weights(model)} == {MIDDLE}
    train(model, *rest(name, model))
    assert_same_training(model, record.model)


class TestGlobalRanking:
    """A loaded model has its masks, but which weights are ranked together has to be said again."""

    def fresh(self):
        model = keras.Sequential([keras.Input((7,)), layers.Dense(9, name="first"), layers.Dense(6, name="second")])
        bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.7, 2, 14, frequency=5), ranking="global")
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    def data(self, steps=slice(None)):
        rng = np.random.default_rng(0)
        rows = [rng.standard_normal((STEPS * BATCH, n)).astype("float32") for n in (7, 6)]
        return [values.reshape(STEPS, BATCH, -1)[steps].reshape(-1, values.shape[1]) for values in rows]

    def through(self, path):
        keras.utils.set_random_seed(4)
        model = self.fresh()
        train(model, *self.data(slice(0, MIDDLE)))
        (model.save if path.suffix == ".keras" else model.save_weights)(path)
        train(model, *self.data(slice(MIDDLE, None)))
        masks = [np.asarray(w.pruning.block_mask) for w in pruned_weights(model)]
        assert sum((~mask).sum() for mask in masks) == round(0.7 * sum(mask.size for mask in masks))
        return model

    def test_a_loaded_model_is_linked_and_goes_on(self, tmp_path):
        through = self.through(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        with pytest.raises(ValueError, match="link_ranking"):
            train(model, *self.data(slice(MIDDLE, None)))
        model = keras.models.load_model(tmp_path / "model.keras")
        assert bs.link_ranking(model) is model
        train(model, *self.data(slice(MIDDLE, None)))
        assert_same_training(model, through)

    def test_linking_after_the_error_is_enough(self, tmp_path):
        through = self.through(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        with pytest.raises(ValueError, match="link_ranking"):
            train(model, *self.data(slice(MIDDLE, None)))
        model = bs.link_ranking(model)
        model.load_weights(tmp_path / "model.keras")
        train(model, *self.data(slice(MIDDLE, None)))
        assert_same_training(model, through)

    def test_weights_load_into_a_pruned_model_that_is_linked(self, tmp_path):
        through = self.through(tmp_path / "model.weights.h5")
        model = self.fresh()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(tmp_path / "model.weights.h5")
        train(model, *self.data(slice(MIDDLE, None)))
        assert_same_training(model, through)
