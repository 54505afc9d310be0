"""Recurrent layers over a sequence, block-sparse against the fastest dense ones, in turns in one process.

    python benchmarks/sequences.py
    python benchmarks/sequences.py --layers lstm1500 --blocks 16x16 --batches 1,64 --json build/bench/sequences.json

A layer is `[batch, steps, units]` -> `[batch, steps, units]`, float32, with both its matrices 90 % zero. Contestants:
the block-sparse layer with blocks of float32, bfloat16 and int8; `keras.layers.LSTM`, `GRU` or `SimpleRNN` in a
`tf.function`, and compiled by XLA; a loop of TensorFlow ops whose input is multiplied for all steps at once; PyTorch's
layer, and its dense int8 LSTM, where `torch` is installed. Ratios are to the fastest dense one in float32. A call
takes one sequence. What TensorFlow takes for any call from Python, 250 to 700 us, is measured with a function that
multiplies nothing, in the same turns, and subtracted; PyTorch's calls count whole. Contestants with threads of their
own are followed by a pause, since those spin.

The streaming step is one time step of one example whose state goes into the next: in a loop of a `tf.function`, less
what the loop costs with a twin that multiplies nothing; and the same as calls from Python.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

from matmul import integers, pairs, use_threads, write

LAYERS = "lstm1500,gru2560,rnn1760,lstm2560"
TORCH_NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
KERAS_NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
OURS = {"block-sparse": "float32", "ours bfloat16": "bfloat16", "ours int8": "int8"}
EMPTY = "a call"
STREAMED_STEPS = 200


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", default=LAYERS, help="kinds with units, as in lstm1500")
    parser.add_argument("--blocks", type=pairs, default="16x16,4x4")
    parser.add_argument("--batches", type=integers, default="1,4,16,64")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--seconds", type=float, default=20.0, help="of samples, for each layer, block and batch")
    parser.add_argument("--without", default="", help="contestants to leave out: keras, xla, loop, torch, low")
    parser.add_argument("--json", type=pathlib.Path, help="file for all numbers")
    return parser.parse_args(argv)


def sparse_layer(kind, units, block_shape, sparsity, storage_dtype="float32"):
    """A built block-sparse layer with blocks at random places."""
    import numpy as np

    import tf_blocksparse as bs
    from tf_blocksparse.blocks import BlockGrid

    grid = BlockGrid((units, GATES[kind] * units), block_shape, GATES[kind])
    kept = round(grid.num_blocks * (1 - sparsity))
    layer = getattr(bs, f"BlockSparse{KERAS_NAMES[kind]}")(
        units,
        return_sequences=True,
        return_state=True,
        block_shape=block_shape,
        num_blocks={"kernel": kept, "recurrent_kernel": kept},
        recurrent_initializer="glorot_uniform",
        storage_dtype=storage_dtype,
    )
    layer(np.zeros((1, 1, units), "float32"))
    return layer


def projected_loop(layer):
    """A dense Keras layer as a loop whose input is multiplied for all steps before it."""
    import tensorflow as tf

    cell = layer.cell
    kernel, recurrent = cell.kernel.value, cell.recurrent_kernel.value
    bias = tf.reshape(cell.bias.value, [-1, kernel.shape[1]])[0]

    def step(x, h, c):
        if kernel.shape[1] == h.shape[1]:
            return tf.tanh(x + h @ recurrent), c
        if kernel.shape[1] == 4 * h.shape[1]:
            i, f, g, o = tf.split(x + h @ recurrent, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            return tf.sigmoid(o) * tf.tanh(c), c
        (xz, xr, xh), (hz, hr, hh) = tf.split(x, 3, axis=1), tf.split(h @ recurrent, 3, axis=1)
        z = tf.sigmoid(xz + hz)
        return z * h + (1 - z) * tf.tanh(xh + tf.sigmoid(xr + hr) * hh), c

    def call(x):
        batch, steps, units = x.shape
        projected = tf.transpose(tf.reshape(tf.reshape(x, [-1, units]) @ kernel + bias, [batch, steps, -1]), [1, 0, 2])
        outputs = tf.TensorArray(tf.float32, steps)

        def body(t, h, c, outputs):
            h, c = step(projected[t], h, c)
            return t + 1, h, c, outputs.write(t, h)

        zeros = tf.zeros([batch, units])
        outputs = tf.while_loop(lambda t, *_: t < steps, body, (0, zeros, zeros, outputs))[3]
        return tf.transpose(outputs.stack(), [1, 0, 2])

    return call


def torch_contestants(kind, units, x, threads):
    """PyTorch's layer, and for an LSTM its dense int8 form; {} where torch is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    layer = getattr(torch.nn, TORCH_NAMES[kind])(units, units, batch_first=True).eval()
    given = torch.from_numpy(x)

    def caller(model):
        def call():
            with torch.inference_mode():
                return model(given)[0]

        return call

    found = {"torch": caller(layer)}
    if kind == "lstm":
        quantized = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.LSTM}, dtype=torch.qint8)
        found["torch int8"] = caller(quantized)
    return found


def contestants(kind, units, block_shape, x, settings, threads):
    """{name: function without arguments}, one that multiplies nothing among them, and our layers by name."""
    import keras
    import tensorflow as tf

    dtypes = {"block-sparse": "float32"} if "low" in settings.without else OURS
    layers = {name: sparse_layer(kind, units, block_shape, settings.sparsity, dtype) for name, dtype in dtypes.items()}
    dense = getattr(keras.layers, KERAS_NAMES[kind])(units, return_sequences=True, recurrent_initializer="zeros")
    dense.build(x.shape)
    tensor = tf.constant(x)

    def caller(function):
        return lambda: function(tensor)[0, 0, 0].numpy()

    found = {name: caller(tf.function(lambda x, layer=layer: layer(x)[0])) for name, layer in layers.items()}
    found[EMPTY] = caller(tf.function(lambda x: x[:, -1:]))
    if "keras" not in settings.without:
        found["keras"] = caller(tf.function(dense))
    if "xla" not in settings.without:
        found["keras XLA"] = caller(tf.function(dense, jit_compile=True))
    if "loop" not in settings.without:
        found["loop"] = caller(tf.function(projected_loop(dense)))
    if "torch" not in settings.without:
        found.update(torch_contestants(kind, units, x, threads))
    return found, layers


def take_turns(calls, seconds):
    """{name: list of seconds}: each call in turn; the fastest ones four times a round."""
    fast = (*OURS, EMPTY)
    for call in calls.values():
        call()
    samples = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples["block-sparse"]) < 12:
        for name, call in calls.items():
            time.sleep(0.06)
            for n in range(5 if name in fast else 1):
                start = time.perf_counter()
                call()
                if name not in fast or n > 0:  # the first one finds its weights in no cache
                    samples[name].append(time.perf_counter() - start)
    return samples


def streaming(layer, units):
    """Microseconds of a step in a graph and as a call, and of a call that does nothing."""
    import tensorflow as tf

    states = 2 if KERAS_NAMES["lstm"] in type(layer).__name__ else 1
    zeros = [tf.zeros([1, units])] * states
    x = tf.random.normal([1, 1, units])

    def loop(step):
        @tf.function
        def function(*states):
            body = lambda t, *s: (t + 1, *step(s))  # noqa: E731
            return tf.while_loop(lambda t, *_: t < STREAMED_STEPS, body, (0, *states), parallel_iterations=1)[1]

        return function

    step = tf.function(lambda *s: layer(x, initial_state=list(s))[1:])
    functions = {
        "step": loop(lambda s: layer(x, initial_state=list(s))[1:]),
        "twin": loop(lambda s: [tf.identity(v) for v in s]),
        "call": step,
        "empty call": tf.function(lambda *s: [tf.identity(v) for v in s]),
    }
    times = {name: [] for name in functions}
    for _ in range(30):
        for name, function in functions.items():
            function(*zeros)
            start = time.perf_counter()
            function(*zeros)
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(t) * 1e6 for name, t in times.items()}
    return {
        "graph_step": (median["step"] - median["twin"]) / STREAMED_STEPS,
        "call": median["call"],
        "empty_call": median["empty call"],
    }


def row_of(name, block_shape, batch, samples):
    """Milliseconds, and ratios of medians and of minima to the fastest dense float32 contestant, by kind of blocks."""
    medians, minima = (without_call({k: f(v) * 1e3 for k, v in samples.items()}) for f in (statistics.median, min))
    rivals = [k for k in medians if k not in (*OURS, EMPTY, "torch int8")]
    best = min(rivals, key=medians.get)
    return {
        "layer": name,
        "block_shape": block_shape,
        "batch": batch,
        "milliseconds": medians,
        "minima": minima,
        "best_dense": best,
        "ratio": {k: medians[best] / medians[k] for k in samples if k in OURS},
        "ratio_minima": {k: min(minima[k] for k in rivals) / minima[k] for k in samples if k in OURS},
    }


def without_call(times):
    """Times of TensorFlow's contestants less that of a call; that one as it is.

    What takes no longer than a call cannot be told so: a tenth of a call is the least.
    """
    call = times[EMPTY]
    return {k: t if k == EMPTY or k.startswith("torch") else max(t - call, call / 10) for k, t in times.items()}


def line(row):
    block = "x".join(map(str, row["block_shape"]))
    ours = ", ".join(
        f"{OURS[k]} {row['milliseconds'][k]:.2f} ms ({row['minima'][k]:.2f})"
        f" x {ratio:.1f} ({row['ratio_minima'][k]:.1f})"
        for k, ratio in row["ratio"].items()
    )
    rest = ", ".join(f"{k} {v:.1f}" for k, v in row["milliseconds"].items() if k not in OURS)
    return f"{row['layer']:>9} {block:>7} batch {row['batch']:>3}: {ours} of {row['best_dense']}; ms: {rest}"


def streaming_line(step):
    block = "x".join(map(str, step["block_shape"]))
    return (
        f"{step['layer']:>9} {block:>7} streaming step, {step['dtype']}: {step['graph_step']:.1f} us in a graph; "
        f"{step['call']:.0f} us a call, of which {step['empty_call']:.0f} us are any call's"
    )


def main(argv=None):
    settings = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    threads = use_threads(settings.threads)
    import numpy as np
    import product_run
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    given = f"{settings.steps} steps, {settings.sparsity:.0%} zero"
    print(f"{product_run.machine()}, {threads} threads, {given}; medians (minima)")
    results = {"machine": product_run.machine(), "threads": threads, "rows": [], "streaming": []}
    for name in settings.layers.split(","):
        kind, units = name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
        for block_shape in settings.blocks:
            for batch in settings.batches:
                x = np.random.default_rng(0).normal(size=(batch, settings.steps, units)).astype("float32")
                calls, ours = contestants(kind, units, block_shape, x, settings, threads)
                row = row_of(name, block_shape, batch, take_turns(calls, settings.seconds))
                results["rows"].append(row)
                print(line(row), flush=True)
                for dtype, layer in ours.items() if batch == 1 else ():
                    step = {"layer": name, "block_shape": block_shape, "dtype": OURS[dtype], **streaming(layer, units)}
                    results["streaming"].append(step)
                    print(streaming_line(step), flush=True)
    write(settings.json, lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
