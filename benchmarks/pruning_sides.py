"""tf_blocksparse and TFMOT behind the same few methods, for `pruning_vs_tfmot.py`.

A process holds one of them: TFMOT needs Keras 2, which takes the place of `tf.keras` for the whole process.
Weights are called alike on both sides: "lstm/kernel", "lstm/recurrent_kernel", "hidden/kernel", "classes/kernel".
Arrays leave in Keras's layout `[in, out]`, masks as bool `[rows, cols]`, True = kept.
"""

import os

import numpy as np

BLOCK_SHAPE = (4, 4)


def to_blocks(w):
    """`[rows, height, cols, width]` of `w` `[in, out]`, padded with zeros at the end; float64."""
    height, width = BLOCK_SHAPE
    w = np.pad(np.asarray(w, np.float64), [(0, -w.shape[0] % height), (0, -w.shape[1] % width)])
    return w.reshape(w.shape[0] // height, height, w.shape[1] // width, width)


def block_max(w):
    """Largest |w| of every block: float64 `[rows, cols]`."""
    return np.abs(to_blocks(w)).max(axis=(1, 3))


def next_call_updates(weights, frequency):
    """Moves the counters of `tf_blocksparse`'s constraints to just before the next update of the masks."""
    for weight in weights:
        # Without gradient accumulation the constraint is called once a step.
        calls = weight.constraint.calls
        calls.assign((int(calls) // frequency + 1) * frequency - 1)


class BlockSparse:
    """`tf_blocksparse`, on Keras 3."""

    file_suffix = ".keras"

    def __init__(self):
        import keras

        import tf_blocksparse as bs
        from tf_blocksparse.pruning import pruned_weights

        self.bs, self.keras, self.pruned_weights = bs, keras, pruned_weights
        self.seen = {}

    def pruned(self, build, begin, end, frequency, target, watch=False):
        """A new pruned model; `build(keras, **arguments of each layer)` makes the dense one.

        With `watch`, `ranked()` works: a constraint of the user's own comes before pruning and sees what it sees.
        """
        self.seen = {}
        model = build(self.keras, constraint=self._watcher if watch else None)
        schedule = self.bs.GradualSparsity(target, begin, end, frequency=frequency)
        return self.bs.prune_blocks(model, block_shape=BLOCK_SHAPE, schedule=schedule)

    def _watcher(self, name):
        import tensorflow as tf

        seen = self.seen

        class Watcher(self.keras.constraints.Constraint):
            def __call__(self, w):
                with tf.init_scope():
                    if name not in seen:
                        seen[name] = tf.Variable(tf.zeros(w.shape))
                w = tf.convert_to_tensor(w)
                seen[name].assign(w)
                return w

        # Under a name of its own, so that the model can be loaded again.
        return self.keras.saving.register_keras_serializable(name=f"watcher of {name}")(Watcher)()

    def callbacks(self):
        return []

    def weights(self, model):
        return {w.path: w.variable.numpy() for w in self.pruned_weights(model)}

    def masks(self, model):
        return {w.path: w.constraint.block_mask.numpy() for w in self.pruned_weights(model)}

    def ranked(self, before):
        """The weights that the last update ranked: those after the optimizer's step. `before`: those before it."""
        return {name: w.numpy() for name, w in self.seen.items()}

    def stripped(self, model):
        names = [w.path for w in self.pruned_weights(model)]
        variables = [w.variable for w in self.pruned_weights(model)]
        model = self.bs.strip_pruning(model)
        return model, dict(zip(names, [v.numpy() for v in variables], strict=True))

    def load(self, path):
        return self.keras.models.load_model(path, compile=False)

    def next_step_updates(self, model, frequency):
        next_call_updates(self.pruned_weights(model), frequency)

    def train_function(self, model):
        model.make_train_function()
        return model.train_function

    def start(self, model):
        """What a training loop of one's own has to do before it begins: nothing."""

    def bidirectional(self):
        """Prunes a bidirectional LSTM for some steps; returns "yes", or raises."""
        k = self.keras
        model = k.Sequential([k.Input((5, 8)), k.layers.Bidirectional(k.layers.LSTM(8))])
        self.bs.prune_blocks(model, BLOCK_SHAPE, self.bs.GradualSparsity(0.5, 0, 4, frequency=1))
        return self._train_bidirectional(model)

    def _train_bidirectional(self, model):
        model.compile("adam", "mse")
        model.fit(np.ones([32, 5, 8]), np.ones([32, 16]), batch_size=4, verbose=0, callbacks=self.callbacks())
        sparsities = {name: (block_max(w) == 0).mean() for name, w in self.weights(model).items()}
        if len(sparsities) != 4 or min(sparsities.values()) == 0:
            raise RuntimeError(f"not all of it is pruned: {sparsities}")
        return "yes"


class Tfmot(BlockSparse):
    """TensorFlow Model Optimization, on Keras 2, used as its guide does."""

    def __init__(self):
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        import tensorflow_model_optimization as tfmot
        import tf_keras

        self.keras, self.sparsity = tf_keras, tfmot.sparsity.keras

    def pruned(self, build, begin, end, frequency, target, watch=False):
        schedule = self.sparsity.PolynomialDecay(0.0, target, begin, end, power=3, frequency=frequency)
        return self._prune(build(self.keras), schedule)

    def _prune(self, layer_or_model, schedule):
        return self.sparsity.prune_low_magnitude(
            layer_or_model, pruning_schedule=schedule, block_size=BLOCK_SHAPE, block_pooling_type="MAX"
        )

    def callbacks(self):
        return [self.sparsity.UpdatePruningStep()]

    def _variables(self, model):
        """Name: (weight, mask) of what is pruned."""
        found = {}
        for layer in model.layers:
            for weight, mask, _ in getattr(layer, "pruning_vars", ()):
                found[f"{layer.layer.name}/{weight.name.split('/')[-1].split(':')[0]}"] = weight, mask
        return found

    def weights(self, model):
        return {name: weight.numpy() for name, (weight, _) in self._variables(model).items()}

    def masks(self, model):
        # TFMOT keeps one number for each element, all alike within a block.
        return {name: block_max(mask.numpy()) > 0 for name, (_, mask) in self._variables(model).items()}

    def ranked(self, before):
        """TFMOT updates its masks in the forward pass, so before the optimizer's step."""
        return before

    def stripped(self, model):
        variables = {name: weight for name, (weight, _) in self._variables(model).items()}
        model = self.sparsity.strip_pruning(model)
        return model, {name: variable.numpy() for name, variable in variables.items()}

    def load(self, path):
        with self.sparsity.prune_scope():
            return self.keras.models.load_model(path, compile=False)

    def next_step_updates(self, model, frequency):
        for layer in model.layers:
            if hasattr(layer, "pruning_step"):
                layer.pruning_step.assign((int(layer.pruning_step) // frequency + 1) * frequency - 1)

    def train_function(self, model):
        return model.make_train_function()

    def start(self, model):
        # Before the first step of a training loop of one's own, as the guide says.
        callback = self.sparsity.UpdatePruningStep()
        callback.set_model(model)
        callback.on_train_begin()

    def bidirectional(self):
        k = self.keras
        model = k.Sequential([k.layers.Bidirectional(k.layers.LSTM(8), input_shape=(5, 8))])
        return self._train_bidirectional(self._prune(model, self.sparsity.PolynomialDecay(0, 0.5, 0, 4, frequency=1)))


SIDES = {"tf_blocksparse": BlockSparse, "TFMOT": Tfmot}
