"""Many requests from many threads on one loaded SavedModel: right results, and no memory that stays."""

import concurrent.futures
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import converted

REQUESTS, THREADS = 10_000, 8
BATCHES = (1, 2, 3, 7, 16, 33)


def resident():
    """Bytes of memory that this process holds."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads memory where Linux shows it")
@pytest.mark.parametrize("portable", [False, True])
def test_ten_thousand_requests(portable, tmp_path):
    requests = REQUESTS if not portable else REQUESTS // 10  # made of TensorFlow's own ops, which have their own tests
    model = keras.Sequential([keras.Input((256,), name="x"), layers.Dense(320, "relu"), layers.Dense(64)])
    model = converted(model, block_shape=8, density=0.2)
    bs.export(model, tmp_path / "saved", portable=portable)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    function = loaded.signatures["serving_default"]
    rng = np.random.default_rng(0)
    inputs = [tf.constant(rng.standard_normal((batch, 256)).astype("float32")) for batch in BATCHES]
    expected = [np.asarray(model(x)) for x in inputs]

    def ask(number):
        which = number % len(BATCHES)
        y = function(x=inputs[which])["output_0"].numpy()
        return bool(np.allclose(y, expected[which], rtol=1e-4, atol=1e-4))

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(ask, range(100)))
        before = resident()
        for first in range(100, requests, 900):  # in portions, as what waits in the pool takes memory, too
            assert all(pool.map(ask, range(first, min(first + 900, requests))))
    # One leaked output of each request would be 26 MB; the allocator's own fragments were 4 MB.
    assert portable or resident() - before < 12 * 2**20
