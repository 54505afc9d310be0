"""Pruning on several devices and in several processes: each strategy in processes of its own.

TensorFlow takes one strategy of a kind a process, and wants the number of devices before anything else.
"""

import json
import os
import re
import socket
import subprocess
import sys

import h5py
import numpy as np
import pytest

from helpers import ROOT, run_python
from pruning.test_leak import OPTIMIZERS

MIRRORED = r"""
import sys
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_blocksparse as bs
from keras import layers
from tf_blocksparse.pruning import pruned_weights

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
x = rng.standard_normal((96, 5, 8)).astype("float32")
y = rng.standard_normal((96, 3)).astype("float32")

def build():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((5, 8)), layers.LSTM(12), layers.Reshape((3, 4)), layers.Conv1D(5, 2),
        layers.EinsumDense("abc,cd->abd", (2, 7)), layers.Flatten(), layers.Dense(3)])

def prune(model, **settings):
    schedule = bs.GradualSparsity(0.7, 2, 20, frequency=3)
    return bs.prune_blocks(model, (4, 3), schedule, regularizer=bs.BlockGroupLasso(1e-3), **settings)

def fit(model):
    model.fit(x, y, batch_size=4, verbose=0, shuffle=False)

def loop(model):
    optimizer = model.optimizer
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    def replica_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(keras.losses.mean_squared_error(y, model(x, training=True))) / 4
            loss += sum(model.losses) / strategy.num_replicas_in_sync
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    @tf.function
    def step(x, y):
        strategy.run(replica_step, (x, y))
    data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, y)).batch(4))
    for batch in data:
        step(*batch)

def check(model, name, reference=None):
    for weight in pruned_weights(model):
        pruning = weight.pruning
        copies = [[np.asarray(c) for c in strategy.experimental_local_results(v.value)]
                  for v in (weight.variable, pruning.block_mask, pruning.calls)]
        for first, second in copies:
            np.testing.assert_array_equal(first, second, err_msg=f"{name} {weight.path}")
        (w, _), (mask, _), (calls, _) = copies
        assert calls == 24, (name, calls)
        dropped = ~np.asarray(pruning.view.from_matrix(pruning.grid.expand(mask), w.shape))
        assert not w[dropped].any(), f"{name} {weight.path}: {abs(w[dropped]).max()}"
        if pruning.ranking == "layer":
            assert (~mask).sum() == round(0.7 * mask.size), name
    if reference is not None:
        for a, b in zip(pruned_weights(model), pruned_weights(reference), strict=True):
            np.testing.assert_array_equal(a.pruning.block_mask, b.pruning.block_mask, err_msg=name)
            np.testing.assert_allclose(a.variable, b.variable, atol=2e-5, err_msg=name)
    print(name, flush=True)

def run(name, optimizer, train=fit, outside=False, policy="float32", settings={}, compile_settings={}, alone=True,
        callbacks=None):
    keras.config.set_dtype_policy(policy)
    reference = None
    if alone:
        reference = prune(build(), **settings)
        reference.compile(optimizer(), "mse")
        fit(reference)
    with strategy.scope():
        model = build()
        if not outside:
            prune(model, **settings)
    if outside:
        prune(model, **settings)
    with strategy.scope():
        model.compile(optimizer(), "mse", **compile_settings)
    if callbacks:
        model.fit(x, y, batch_size=4, verbose=0, shuffle=False, callbacks=callbacks())
    else:
        train(model)
    check(model, name, reference)
    return model

optimizers = keras.optimizers
model = run("fit", lambda: optimizers.SGD(0.05, momentum=0.9))
run("attached outside of the scope", lambda: optimizers.SGD(0.05, momentum=0.9), outside=True)
run("loop", lambda: optimizers.SGD(0.05, momentum=0.9), train=loop)
run("global ranking", lambda: optimizers.SGD(0.05, momentum=0.9), settings={"ranking": "global"})
run("adamw", lambda: optimizers.AdamW(0.01, clipnorm=1.0), alone=False)
run("mixed_float16", lambda: optimizers.SGD(0.05), policy="mixed_float16", alone=False)
run("mixed_bfloat16", lambda: optimizers.Adam(0.01), policy="mixed_bfloat16", alone=False)
run("eagerly", lambda: optimizers.SGD(0.05), compile_settings={"run_eagerly": True}, alone=False)
run("averaged weights", lambda: optimizers.Adam(0.01, use_ema=True), alone=False,
    callbacks=lambda: [bs.KeepBlocksZero()])

class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = [layers.LSTM(6), layers.Dense(3)]
    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x

with strategy.scope():
    keras.utils.set_random_seed(1)
    unbuilt = prune(Unbuilt())
    unbuilt.compile(optimizers.SGD(0.05), "mse")
fit(unbuilt)
assert len(pruned_weights(unbuilt)) == 3
check(unbuilt, "not built before")

# A model that was saved under the strategy goes on under it, and without it, as if it had not been saved.
path = sys.argv[1] + "/model.keras"
model.save(path)
fit(model)
with strategy.scope():
    loaded = keras.models.load_model(path)
fit(loaded)
for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
assert [int(w.pruning.step) for w in pruned_weights(loaded)] == [48] * 5
single = keras.models.load_model(path)
fit(single)
for a, b in zip(model.get_weights(), single.get_weights(), strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)
print("saved", flush=True)
"""


def test_mirrored_replicas_prune_alike_and_as_one_device_does(tmp_path):
    out = run_python(MIRRORED, tmp_path, timeout=900)
    expected = ["fit", "attached outside of the scope", "loop", "global ranking", "adamw", "mixed_float16"]
    expected += ["mixed_bfloat16", "eagerly", "averaged weights", "not built before", "saved"]
    assert [line for line in out.splitlines() if line in expected] == expected


LEAK = r"""
import sys
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path[:0] = sys.argv[2:]
import tf_blocksparse as bs
from keras import layers
from test_leak import OPTIMIZERS, STEPS, leaks
from tf_blocksparse.pruning import pruned_weights

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
policies = ["float32", "mixed_float16", "mixed_bfloat16"]
rng = np.random.default_rng(0)
x, y = rng.standard_normal((4 * STEPS, 9)), rng.standard_normal((4 * STEPS, 6))

class Watch(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.last = {}
    def on_train_batch_end(self, batch, logs=None):
        assert leaks(self.model, self.last) == 0.0

for i, name in enumerate(OPTIMIZERS):
    if name == "adam, averages":  # Keras itself cannot overwrite weights by averages within a step of a strategy
        continue
    for policy in policies if sys.argv[1] == "all" else [policies[i % 3]]:
        keras.config.set_dtype_policy(policy)
        with strategy.scope():
            model = keras.Sequential([keras.Input((9,)), layers.Dense(14, "relu"), layers.Dense(6)])
            bs.prune_blocks(model, (4, 3), bs.GradualSparsity(0.6, 1, STEPS - 2, frequency=4))
            model.compile(OPTIMIZERS[name](), "mse")
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[Watch()])
        for weight in pruned_weights(model):
            for v in (weight.variable, weight.pruning.block_mask, weight.pruning.calls):
                first, second = strategy.experimental_local_results(v.value)
                np.testing.assert_array_equal(first, second)
            assert int(first) == STEPS, (name, policy, int(first))
        print("passed", name, policy, flush=True)
"""


@pytest.mark.parametrize("cells", ["some", pytest.param("all", marks=pytest.mark.exhaustive)])
def test_nothing_leaks_on_mirrored_replicas(cells):
    out = run_python(LEAK, cells, ROOT / "tests", ROOT / "tests" / "pruning", timeout=1200)
    assert out.count("passed") == (len(OPTIMIZERS) - 1) * (3 if cells == "all" else 1)


def run_workers(folder, count):
    """Runs the loop of the documentation in `count` processes; returns the datasets of each one's weights file."""
    source = (ROOT / "docs" / "scaling.md").read_text()
    script = folder / "worker.py"
    script.write_text(re.search(r"```python multi-worker\n(.*?)```", source, re.S)[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    workers = [
        subprocess.Popen(
            [sys.executable, script, folder],
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]
    try:
        for worker in workers:
            out, _ = worker.communicate(timeout=300)
            assert worker.returncode == 0, out
    finally:
        for worker in workers:
            worker.kill()
    return [datasets(folder / f"worker_{i}.weights.h5") for i in range(count)]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def test_two_worker_processes_prune_alike_and_as_one_process_does(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    first, second = run_workers(tmp_path / "two", 2)
    (alone,) = run_workers(tmp_path / "one", 1)
    masks = [name for name in first if name.endswith("block_mask")]
    assert len(masks) == 3
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
        np.testing.assert_allclose(values, alone[name], atol=1e-4, err_msg=name)
    for name in masks:
        assert (~first[name]).sum() == round(0.7 * first[name].size)
        np.testing.assert_array_equal(first[name], alone[name])
