"""Answers SavedModels with the library of the C API; runs where TensorFlow and NumPy are, and nothing of this package.

python serve.py LIBRARY DIRECTORY
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf


def right(path):
    """Whether a SavedModel answers its input as Keras did, within rounding."""
    given = np.load(path / "example.npz")
    function = tf.saved_model.load(str(path / "saved")).signatures["serving_default"]
    (y,) = function(x=tf.constant(given["x"])).values()
    np.testing.assert_allclose(y, given["y"], rtol=2e-5, atol=2e-5)
    assert np.ptp(given["y"]) > 1e-3
    return True


def refused(ops):
    """The message for indices that point behind the matrix."""
    x, blocks = tf.ones([1, 2]), tf.ones([1, 2, 2])
    try:
        ops.block_sparse_mat_mul(x, blocks, [7], [0, 1], [], out_features=2)
    except tf.errors.InvalidArgumentError as error:
        return str(error)
    return ""


def gradients(ops):
    """The gradient ops, of a product and of a recurrent layer, against numbers worked out by hand."""
    x, blocks = tf.constant([[1.0, 10.0]]), tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
    dx = ops.block_sparse_mat_mul_grad_x(tf.constant([[1.0, 1.0]]), x, blocks, [0], [0, 1], out_features=2)
    np.testing.assert_allclose(dx, [[3.0, 7.0]])
    one = tf.ones([1, 1, 1])
    dprojected, dh0 = ops.block_sparse_rnn_grad(
        doutput=3 * one, dh=tf.zeros([1, 1]), gates=one, recurrent_blocks=2 * one, recurrent_indices=[0],
        recurrent_indptr=[0, 1], mask=[], activation="linear",
    )  # fmt: skip
    np.testing.assert_allclose([dprojected[0, 0, 0], dh0[0, 0]], [3.0, 6.0])


def main():
    """Says what was right, or raises."""
    library, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    ops = tf.load_op_library(library)
    assert "indices[0] = 7" in refused(ops), refused(ops)
    gradients(ops)
    names = [path.name for path in sorted(directory.iterdir()) if right(path)]
    assert not any(name.startswith("tf_blocksparse") for name in sys.modules)
    print(f"TensorFlow {tf.__version__}: {', '.join(names)}")


if __name__ == "__main__":
    main()
