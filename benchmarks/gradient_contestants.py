"""Who takes part in the gradients of `y = x W`: those of the block-sparse op, and dense ones of TensorFlow and NumPy.

Those of the op come from a `GradientTape`, as in training. The product itself, which they do not need, is no part of
the compiled graph.
"""

import tensorflow as tf
from contestants import OURS, block_sparse_product
from timing import graph_contestant, python_contestant, variables


def _pairs(problem):
    """Inputs of a gradient, `(x, dy)`, as arrays and as variables."""
    arrays = list(zip(problem.inputs, problem.output_gradients, strict=True))
    return arrays, variables(arrays)


def _ours(problem, gradient):
    fields = {"block_shape": problem.matrix.grid.block_shape}
    return graph_contestant(OURS, "ours", gradient, _pairs(problem)[1], **fields)


def x_gradients(problem, order="column"):
    """Contestants of `dx = dy W^T`, `[batch, in]`."""
    arrays, held = _pairs(problem)
    multiply, blocks = block_sparse_product(problem.matrix, order)
    w = tf.Variable(problem.dense)

    def gradient(pair):
        x, dy = map(tf.convert_to_tensor, pair)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = multiply(x, blocks)
        return tape.gradient(y, x, output_gradients=dy)

    return [
        _ours(problem, gradient),
        graph_contestant("tf.matmul", "dense", lambda pair: tf.matmul(pair[1], w, transpose_b=True), held),
        python_contestant("NumPy", "dense", lambda pair: pair[1] @ problem.dense.T, arrays, own_threads=True),
    ]


def block_gradients(problem, order="column"):
    """Contestants of the gradient of the weights: of the blocks `[num_blocks, height, width]`, or `[in, out]`."""
    arrays, held = _pairs(problem)
    multiply, blocks = block_sparse_product(problem.matrix, order)

    def gradient(pair):
        x, dy = pair
        with tf.GradientTape() as tape:
            y = multiply(x, blocks)
        return tape.gradient(y, blocks, output_gradients=dy)

    return [
        _ours(problem, gradient),
        graph_contestant("tf.matmul", "dense", lambda pair: tf.matmul(*pair, transpose_a=True), held),
        python_contestant("NumPy", "dense", lambda pair: pair[0].T @ pair[1], arrays, own_threads=True),
    ]


GRADIENTS = {"x gradient": x_gradients, "block gradient": block_gradients}
