"""Layers that choose their blocks for each example, against dense products, in turns in one process.

    python benchmarks/dynamic.py
    python benchmarks/dynamic.py --shapes 1536x6144 --blocks 64x64 --sparsities 0.9 --batches 1 --threads 1

A layer is a `DynamicBlockDense` as `convert()` makes it, all that a prediction needs: a dense gate with ReLU on all
features or on the first quarter of them, the k largest gates of each example, their division by the mean, and the
product with the chosen blocks, which are stored as float32, bfloat16 or int8 (`--dtypes`). Its rivals are the better of
`tf.matmul` and NumPy with a dense float32 matrix of the same shape. Weights and inputs are random, the gate's so that
no gate is zero and every example chooses other blocks; the inputs take turns, so that the blocks of one call are seldom
those of the call before. A dense product reads all of its weights in every call.

Shown for each layer: microseconds of the layer, of its gate alone and of the product alone, as medians (minima), and
how many times faster than the best dense product the layer is, as ratio of the medians (of the minima).
"""

import argparse
import json
import os
import pathlib
import sys

from matmul import integers, pairs, use_threads, write

HEADER = (
    f"{'matrix':>10} {'block':>8} {'dtype':>8} {'batch':>5} {'gate of':>7} {'sparsity':>8} {'layer us':>18}"
    f" {'gate us':>16}"
    f" {'product us':>18} {'tf.matmul':>10} {'NumPy':>10} {'x dense':>15}"
)
INPUTS = 24


def floats(text):
    """[0.5, 0.9] of "0.5,0.9"."""
    return [float(item) for item in text.split(",")]


class Layer:
    """A `DynamicBlockDense` as `convert()` makes it, with random weights.

    Args:
        shape: `(in_features, out_features)`.
        block_shape: `(height, width)`.
        dtype: what blocks are stored as.
        sparsity: float, share of the blocks that an example does not choose.
        gate_share: float, share of the features that the gate reads.
        random: a `numpy.random.Generator`.
    """

    def __init__(self, shape, block_shape, dtype, sparsity, gate_share, random):
        import numpy as np

        import tf_blocksparse as bs

        self.block_shape, self.sparsity, self.dtype = block_shape, sparsity, dtype
        self.layer = bs.DynamicBlockDense(
            shape[1],
            use_bias=False,
            block_shape=block_shape,
            sparsity=sparsity,
            gate_inputs=round(gate_share * shape[0]),
            storage="blocks",
            storage_dtype=dtype,
        )
        self.layer.build((None, shape[0]))
        gate = self.layer.block_gate
        self.num_blocks, self.k = gate.num_blocks, gate.num_open()
        self.layer.matrix.assign(random.standard_normal(shape, np.float32))
        spread = np.float32(0.15 / gate.kernel.shape[0] ** 0.5)  # about a mean of 1: all gates stay above zero
        gate.kernel.assign(spread * random.standard_normal(gate.kernel.shape, np.float32))
        gate.bias.assign(np.ones(gate.bias.shape))

    def choose(self, x):
        """`(block_ids, block_gates)`, both `[batch, k]`."""
        return self.layer.block_gate.choose(x)

    def multiply(self, x, block_ids, block_gates):
        from tf_blocksparse.layers.dynamic_product import chosen_blocks_product

        matrix = self.layer.matrix
        return chosen_blocks_product(x, matrix.stored(), block_ids, block_gates, matrix.grid)

    def __call__(self, x):
        return self.layer(x)

    def share_read(self, x):
        """Share of the blocks that some example of a batch chooses."""
        import numpy as np

        return len(np.unique(self.choose(x)[0])) / self.num_blocks


def contestants(layers, inputs, dense):
    """The layers whole, their gates and their products, and the dense rivals."""
    from contestants import python_contestant
    from timing import graph_contestant, variables

    found = []
    for layer in layers:
        choices = [tuple(t.numpy() for t in layer.choose(x)) for x in inputs]
        chosen = [(x, *choice) for x, choice in zip(inputs, choices, strict=True)]
        fields = {"block_shape": layer.block_shape}
        found += [
            graph_contestant("layer", "ours", layer, variables(inputs), **fields),
            graph_contestant("gate", "part", lambda x, layer=layer: layer.choose(x)[1], variables(inputs), **fields),
            graph_contestant("product", "part", lambda x, layer=layer: layer.multiply(*x), variables(chosen), **fields),
        ]
    import tensorflow as tf

    w = tf.Variable(dense)
    found.append(graph_contestant("tf.matmul", "dense", lambda x: tf.matmul(x, w), variables(inputs)))
    found.append(python_contestant("NumPy", "dense", lambda x: x @ dense, inputs, own_threads=True))
    return found


def rows(shape, block_shape, batch, gate_share, settings):
    """One row for each dtype and sparsity, of samples taken in the same turns."""
    import numpy as np
    from timing import Turns, empty_twin, variables

    random = np.random.default_rng(0)
    layers = [
        Layer(shape, block_shape, dtype, sparsity, gate_share, random)
        for dtype in settings.dtypes
        for sparsity in settings.sparsities
    ]
    inputs = [random.standard_normal((batch, shape[0]), np.float32) for _ in range(INPUTS)]
    dense = random.standard_normal(shape, np.float32)
    taking_part = contestants(layers, inputs, dense)
    twin = empty_twin(variables(inputs))
    times = Turns(taking_part, twin, settings.threads).run(settings.seconds)
    *parts, tf_time, numpy_time = times
    best = min((tf_time, numpy_time), key=lambda time: time.median)
    for i, layer in enumerate(layers):
        whole, gate, product = parts[3 * i : 3 * i + 3]
        named = {"layer": whole, "gate": gate, "product": product, "tf.matmul": tf_time, "NumPy": numpy_time}
        yield {
            "shape": list(shape),
            "block_shape": list(block_shape),
            "dtype": layer.dtype,
            "batch": batch,
            "gate_share": gate_share,
            "sparsity": layer.sparsity,
            "k": layer.k,
            "num_blocks": layer.num_blocks,
            "share_read": layer.share_read(inputs[0]),
            "times": {
                name: {"median": time.median * 1e6, "minimum": time.minimum * 1e6, "samples": time.samples}
                for name, time in named.items()
            },
            "ratio": best.median / whole.median,
            "ratio_minima": min(tf_time.minimum, numpy_time.minimum) / whole.minimum,
        }


def line(row):
    """A line under `HEADER`."""

    def both(name):
        return f"{row['times'][name]['median']:.1f} ({row['times'][name]['minimum']:.1f})"

    matrix, block = ("x".join(map(str, row[name])) for name in ("shape", "block_shape"))
    ratio = f"{row['ratio']:.2f} ({row['ratio_minima']:.2f})"
    return (
        f"{matrix:>10} {block:>8} {row['dtype']:>8} {row['batch']:>5} {row['gate_share']:>7} {row['sparsity']:>8}"
        f" {both('layer'):>18} {both('gate'):>16} {both('product'):>18} {row['times']['tf.matmul']['median']:>10.1f}"
        f" {row['times']['NumPy']['median']:>10.1f} {ratio:>15}"
    )


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=pairs, default="1536x1536,1536x3072,1536x6144")
    parser.add_argument("--blocks", type=pairs, default="128x128,64x64")
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default="float32,bfloat16,int8")
    parser.add_argument("--sparsities", type=floats, default="0.5,0.75,0.9")
    parser.add_argument("--batches", type=integers, default="1,16")
    parser.add_argument("--gates", type=floats, default="0.25,1", help="shares of the features that the gate reads")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--seconds", type=float, default=4.0, help="of samples, for each matrix, block, batch and gate")
    parser.add_argument("--json", type=pathlib.Path, help="file for all numbers")
    return parser.parse_args(argv)


def main(argv=None):
    settings = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    settings.threads = use_threads(settings.threads)
    import tensorflow as tf
    from machine import machine

    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.threads)
    results = {"machine": machine(), "threads": settings.threads, "rows": []}
    print(f"{results['machine']}, {settings.threads} threads")
    print(HEADER, flush=True)
    for shape in settings.shapes:
        for block_shape in settings.blocks:
            for batch in settings.batches:
                for gate_share in settings.gates:
                    for row in rows(shape, block_shape, batch, gate_share, settings):
                        results["rows"].append(row)
                        print(line(row), flush=True)
    write(settings.json, lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))


if __name__ == "__main__":
    sys.exit(main())
