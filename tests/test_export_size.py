"""What sparse models take on disk: the whole directory or file against the bytes of the dense weights."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse.blocks import BlockGrid

IN, OUT = 1760, 3 * 1760  # the papers' largest GRU
# Of 4x4 blocks the indices are a sixteenth of the elements' bytes; of 16x16 a 256th. Low precision: a half, a quarter.
LIMITS = {
    (4, "float32"): 0.11,
    (16, "float32"): 0.102,
    (4, "bfloat16"): 0.059,
    (16, "bfloat16"): 0.053,
    (4, "int8"): 0.034,
    (16, "int8"): 0.028,
}


@pytest.fixture(scope="module", params=LIMITS, ids=str)
def case(request):
    block_shape, dtype = request.param
    model = keras.Sequential([keras.Input((IN,), name="x"), layers.Dense(OUT, use_bias=False)])
    grid = BlockGrid((IN, OUT), block_shape)
    kept = np.random.default_rng(0).permutation(grid.num_blocks) < round(0.1 * grid.num_blocks)
    w = np.random.default_rng(0).standard_normal((IN, OUT), "float32")
    model.layers[0].kernel.assign(w * np.asarray(grid.expand(kept.reshape(grid.mask_shape))))
    return bs.convert(model, block_shape=block_shape, dtype=dtype, measure=False), LIMITS[request.param]


@pytest.mark.parametrize("portable", [False, True])
def test_a_saved_model(portable, case, tmp_path):
    model, limit = case
    bs.export(model, tmp_path / "saved", portable=portable)
    size = sum(file.stat().st_size for file in (tmp_path / "saved").rglob("*") if file.is_file())
    assert 0.9 * limit < size / (4 * IN * OUT) <= limit


def test_a_keras_file(case, tmp_path):
    model, limit = case
    model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size / (4 * IN * OUT) <= limit
