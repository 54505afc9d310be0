"""`tf-blocksparse convert`: a pruned model to one of block-sparse layers."""

import pathlib

from tf_blocksparse_cli import files, output
from tf_blocksparse_cli.arguments import add_batch, add_block_shape, add_dtype, add_json, fraction, whole

DESCRIPTION = (
    "Turns the layers of a pruned model into block-sparse ones where that makes them faster here: each is measured. "
    "Convert on the machine that the model will run on."
)


def add_arguments(parser):
    """The arguments of the command: those of `tf_blocksparse.convert()`."""
    files.add_input(parser, "a pruned or stripped Keras model, .keras or .h5")
    files.add_output(parser, "the .keras file to write")
    add_block_shape(parser, what="blocks to store (default: those of the pruning, or those that fit the zeros best)")
    add_dtype(parser)
    add_batch(parser)
    parser.add_argument(
        "--steps", type=whole, default=1, metavar="T", help="time steps to measure Dense layers at, where unknown"
    )
    parser.add_argument("--min-sparsity", type=fraction, metavar="S", help="measure nothing: convert from S on")
    parser.add_argument("--no-measure", action="store_true", help="measure nothing: convert what is half zero")
    parser.add_argument(
        "--calibration", type=pathlib.Path, metavar="FILE", help=".npy or .npz of inputs to compare the outputs on"
    )
    add_json(parser)


def run(options):
    """Runs the command; returns the exit status."""
    files.check_input(options)
    files.check_output(options, ".keras")
    with output.work(f"loading {options.file}") as status:
        import tf_blocksparse as bs

        model = files.load(options)
        status.update("measuring and converting")
        fast = bs.convert(
            model,
            block_shape=options.block_shape,
            dtype=options.dtype,
            product_dtype=options.product_dtype,
            batch_size=tuple(options.batch) if options.batch else None,
            time_steps=options.steps,
            min_sparsity=options.min_sparsity,
            measure=not options.no_measure,
            calibration_data=files.read_arrays(options.calibration) if options.calibration else None,
        )
        report = bs.report(fast)
        with files.replacing(options.out) as new:
            fast.save(new)
    sizes = {"bytes_before": files.bytes_on_disk(options.file), "bytes_on_disk": files.bytes_on_disk(options.out)}
    if options.json:
        output.write_json({"file": str(options.out), **sizes, **report.to_dict()})
        return 0
    output.write(report)
    output.write(f"Wrote {options.out}, {sizes['bytes_on_disk']:,} bytes ({options.file}: {sizes['bytes_before']:,}).")
    return 0
