"""`PruneBlocks`, for those who write their layers by hand."""

import keras

from tf_blocksparse.pruning.prune import prune_blocks
from tf_blocksparse.pruning.schedule import deserialize_schedule, serialize_schedule
from tf_blocksparse.pruning.weights import pruned_weights


@keras.saving.register_keras_serializable("tf_blocksparse")
class PruneBlocks(keras.layers.Wrapper):
    """Wraps a layer so that its weights are pruned in blocks while it trains.

    The same as calling `prune_blocks(layer, ...)`, which needs no wrapper and leaves names and summaries as they
    are; use whichever reads better. Wrap a `Bidirectional` or `TimeDistributed` layer from outside:
    `PruneBlocks(Bidirectional(LSTM(...)), ...)`.

    Args:
        layer: the layer to prune, or a wrapper of it.
        block_shape: `(height, width)` or an int.
        schedule: a schedule of this package or a TFMOT `PruningSchedule`.
        score: `"max"`, `"mean"` or `"l2"`.
        regularizer: a Keras regularizer or None, as for `prune_blocks()`.

    Call arguments and shapes are those of the wrapped layer.

    Example:

    >>> schedule = GradualSparsity(0.9, begin_step=0, end_step=200)
    >>> model = keras.Sequential([keras.Input((64,)), PruneBlocks(keras.layers.Dense(64), 4, schedule)])
    """

    def __init__(self, layer, block_shape=(4, 4), schedule=None, score="max", regularizer=None, **kwargs):
        super().__init__(layer, **kwargs)
        self.block_shape = block_shape
        self.schedule = schedule
        self.score = score
        self.regularizer = keras.regularizers.get(regularizer)
        self.supports_masking = layer.supports_masking
        if not pruned_weights(layer):  # a layer that was loaded brings its constraint along
            prune_blocks(layer, block_shape, schedule, score, regularizer=regularizer)

    def call(self, inputs, **kwargs):
        return self.layer(inputs, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        return {
            **super().get_config(),
            "block_shape": self.block_shape,
            "schedule": serialize_schedule(self.schedule),
            "score": self.score,
            "regularizer": keras.saving.serialize_keras_object(self.regularizer),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["schedule"] = deserialize_schedule(config["schedule"])
        config["regularizer"] = keras.saving.deserialize_keras_object(config["regularizer"])
        return super().from_config(config, custom_objects)
