"""Which numbers a block-sparse product is made of, under the dtype policy of its layer."""

import tensorflow as tf


def product_dtype(dtype):
    """The dtype of the numbers that are multiplied where a layer computes in `dtype`; sums are float32 always.

    float16 and bfloat16, of the policies `mixed_float16` and `mixed_bfloat16`, are kept where TensorFlow sees a GPU,
    whose tensor cores multiply them. A CPU's fastest product is that of float32, to which 16 bits convert exactly; so
    there the blocks are not even rounded.

    What is traced where a GPU is seen gives right results on a CPU too.

    Args:
        dtype: name of the layer's compute dtype, or a TensorFlow dtype.

    Returns:
        "float16", "bfloat16" or "float32".
    """
    name = tf.as_dtype(dtype).name
    narrow = name in ("float16", "bfloat16")
    return name if narrow and tf.config.get_visible_devices("GPU") else "float32"
