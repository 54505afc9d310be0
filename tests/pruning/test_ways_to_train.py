"""Every layer of the table in every way to train: compiled, eager, mixed precision, several steps at once, mirrored.

`make test` runs one way for each layer, in turn; `make test-all` runs all.
"""

import keras
import numpy as np
import pytest
from keras import ops

from helpers import ROOT, run_python
from pruning.layer_cases import CASES, TARGET, train
from tf_blocksparse import GradualSparsity
from tf_blocksparse.pruning import pruned_weights

STEPS = 6
WAYS = {
    "xla": dict(jit_compile=True),
    "eagerly": dict(run_eagerly=True),
    "mixed_float16": {},
    "mixed_bfloat16": {},
    "several steps at once": dict(steps_per_execution=3),
}


def cells():
    for i, case in enumerate(CASES):
        for j, way in enumerate(WAYS):
            yield pytest.param(case, way, marks=() if i % len(WAYS) == j else pytest.mark.exhaustive)


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def check(model):
    """Dropped blocks are exactly 0.0, and as many are dropped as the target asks for."""
    for weight in pruned_weights(model):
        mask = ops.convert_to_numpy(weight.pruning.block_mask)
        kept = weight.pruning.view.from_matrix(weight.pruning.grid.expand(mask), weight.variable.shape)
        dropped = ops.convert_to_numpy(weight.variable)[~ops.convert_to_numpy(kept)]
        assert not dropped.any() and not np.signbit(dropped).any(), weight.path
        assert (~mask).sum() == min(round(TARGET * mask.size), mask.size - 1), weight.path
        # In float16 Keras leaves out a step whose gradients overflow.
        assert int(weight.pruning.step) == int(model.optimizer.iterations) >= STEPS - 1


@pytest.mark.parametrize("name,way", cells())
def test_blocks_are_zero_and_the_target_is_met(name, way, policy):
    case = CASES[name]
    if way.startswith("mixed"):
        policy(way)
    model = case.pruned(schedule=GradualSparsity(TARGET, 1, 5, frequency=3))
    model.compile(keras.optimizers.Adam(0.01), "mse", **WAYS[way])
    model.optimizer.build(model.trainable_variables)
    train(model, *case.data(model, steps=STEPS))
    check(model)


MIRRORED = r"""
import sys
import keras, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path[:0] = sys.argv[1:]
import numpy as np
from pruning.test_ways_to_train import CASES, STEPS, TARGET, GradualSparsity, check, pruned_weights, train

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name, case in CASES.items():
    with strategy.scope():
        model = case.pruned(compiled=True, schedule=GradualSparsity(TARGET, 1, 5, frequency=3))
    train(model, *case.data(model, steps=STEPS))
    check(model)
    for weight in pruned_weights(model):
        for v in (weight.variable, weight.pruning.block_mask):
            first, second = strategy.experimental_local_results(v.value)
            np.testing.assert_array_equal(first, second, err_msg=name)
    print("passed", name, flush=True)
"""


@pytest.mark.exhaustive
def test_mirrored_replicas_agree():
    out = run_python(MIRRORED, ROOT / "tests", timeout=1200)
    assert out.count("passed") == len(CASES)
