"""Times in turns: what ran is counted, and a longer function takes longer."""

import numpy as np
import tensorflow as tf

from tf_blocksparse.turns import MIN_SAMPLES, _loop, times_in_turns


def test_every_round_calls_the_function_once():
    counter = tf.Variable(0)

    def counted(x):
        with tf.control_dependencies([counter.assign_add(1)]):
            return {"y": 2.0 * x["x"]}

    loop = _loop(counted, {"x": tf.ones([3])})
    assert loop(tf.constant(7)).numpy() == 14.0  # the first element of each call
    assert counter.numpy() == 7


def test_functions_of_different_cost():
    x = np.random.default_rng(0).standard_normal((300, 300), "float32") / 20

    def products(n):
        def function(x):
            y = x
            for _ in range(n):
                y = tf.matmul(y, x)
            return y

        return function

    few, many = times_in_turns([products(1), products(40)], x, seconds=0.05)
    assert few.samples == many.samples >= MIN_SAMPLES
    assert 0 < few.minimum <= few.median and many.minimum <= many.median
    assert many.minimum > few.minimum  # 40 products against one
