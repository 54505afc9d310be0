"""`PruningTensorBoard`: pruning as TensorBoard shows it."""

import importlib.util

import numpy as np
import tensorflow as tf
from keras import ops

from tf_blocksparse.pruning.history import SparsityHistory, built
from tf_blocksparse.pruning.weights import pruned_weights

MASK_PIXELS = 512  # longest side of the picture of a mask


class PruningTensorBoard(SparsityHistory):
    """A `SparsityHistory` that writes what it records for TensorBoard, with pictures of the masks.

    Steps are optimizer steps, so runs that are resumed go on where they were. It writes

    - at every record: `sparsity/<weight>`, in blocks; `sparsity/all`, the share of the weights of all pruned
      matrices together that lie in dropped blocks; `threshold/<weight>`, where there is one;
    - at the end of every epoch: `output_connections/<weight>`, the histogram of the non-zero weights in each row of
      `[in, out]` ([BSR] appendix B.2); `neurons_without_output/<weight>`, rows in which none is left; and
      `block_mask/<weight>`, a picture of the mask: dark = kept.

    Args:
        log_dir: directory of the event files, as for `keras.callbacks.TensorBoard`.
        every: int of at least 1, optimizer steps between two records.

    Raises:
        ImportError: if tensorboard is not installed.
        ValueError: when training begins, if nothing in the model is pruned.

    Example:

    >>> model.fit(x, y, callbacks=[PruningTensorBoard("logs/run1")])  # tensorboard --logdir logs
    """

    def __init__(self, log_dir, every=100):
        super().__init__(every)
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "PruningTensorBoard needs TensorBoard. Install it: pip install tf-blocksparse[tensorboard]"
            )
        self.log_dir = str(log_dir)
        self._writer = None

    def on_train_begin(self, logs=None):
        if not pruned_weights(self.model):
            raise ValueError(
                f"PruningTensorBoard has nothing to show: no weight of {self.model.name!r} is pruned. Call "
                "tf_blocksparse.prune_blocks(model, ...) before fit(), or leave the callback out."
            )
        self._writer = tf.summary.create_file_writer(self.log_dir)
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        weights = built(pruned_weights(self.model))
        if not weights:
            return
        step = max(int(weight.pruning.step) for weight in weights)
        with self._writer.as_default(step=step), tf.summary.record_if(True):
            for weight in weights:
                connections = np.count_nonzero(weight.matrix(), axis=1)
                tf.summary.histogram(f"output_connections/{weight.path}", connections)
                tf.summary.scalar(f"neurons_without_output/{weight.path}", np.sum(connections == 0))
                block_mask = ops.convert_to_numpy(weight.pruning.block_mask)
                tf.summary.image(f"block_mask/{weight.path}", mask_picture(block_mask)[None, :, :, None])
        self._writer.flush()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self._writer.close()

    def _record(self, weights, step):
        super()._record(weights, step)
        dropped, size = 0, 0
        with self._writer.as_default(step=step), tf.summary.record_if(True):
            for weight in built(weights):
                block_mask = ops.convert_to_numpy(weight.pruning.block_mask)
                sizes = weight.pruning.grid.block_sizes()
                dropped, size = dropped + sizes[~block_mask].sum(), size + sizes.sum()
                tf.summary.scalar(f"sparsity/{weight.path}", self.sparsity[weight.path][-1])
                if not np.isnan(self.threshold[weight.path][-1]):
                    tf.summary.scalar(f"threshold/{weight.path}", self.threshold[weight.path][-1])
            tf.summary.scalar("sparsity/all", dropped / max(size, 1))


def mask_picture(block_mask, pixels=MASK_PIXELS):
    """Draws a `block_mask` `[rows, cols]` in grey: 0.0, black, where blocks are kept, 1.0, white, where dropped.

    A side of more than `pixels` blocks is scaled down to `pixels`, each the mean of its blocks; a small mask is
    enlarged by a whole number, the same for both sides, to at most half of that.

    Returns:
        float32 `[height, width]`.
    """
    picture = 1.0 - np.asarray(block_mask, "float32")
    factor = max(1, pixels // 2 // max(picture.shape))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    for axis in (0, 1):
        length = picture.shape[axis]
        if length > pixels:
            starts = np.arange(pixels) * length // pixels
            sums = np.add.reduceat(picture, starts, axis=axis)
            counts = np.diff(np.append(starts, length))
            picture = sums / np.expand_dims(counts, 1 - axis)
    return picture.astype("float32")
