"""`tf-blocksparse bench`: this model on this machine, dense and in blocks."""

import pathlib

from tf_blocksparse_cli import files, output
from tf_blocksparse_cli.arguments import (
    add_batch,
    add_block_shape,
    add_dtype,
    add_json,
    add_selection,
    fraction,
    positive,
    whole,
)

DESCRIPTION = (
    "Times a pruned model as it is against its block-sparse form, in turns: the whole model and each layer. With "
    "--target a model that is not pruned is pruned at once first, to see what a target and a block shape would gain."
)


def add_arguments(parser):
    """The arguments of the command."""
    files.add_input(parser, "a pruned or stripped Keras model, .keras or .h5; or any, with --target")
    parser.add_argument("--target", type=fraction, metavar="S", help="prune it to this sparsity first, for these times")
    add_block_shape(parser, what="blocks (default: of the pruning, or those that fit the zeros; with --target 4 4)")
    add_selection(parser)
    add_dtype(parser)
    add_batch(parser)
    parser.add_argument("--steps", type=whole, default=20, metavar="T", help="time steps, where unknown (default: 20)")
    parser.add_argument("--seconds", type=positive, default=1.0, help="to measure each line of the table (default: 1)")
    parser.add_argument("--inputs", type=pathlib.Path, metavar="FILE", help=".npy or .npz of inputs (default: random)")
    add_json(parser)


def run(options):
    """Runs the command; returns the exit status."""
    files.check_input(options)
    with output.work(f"loading {options.file}") as status:
        import tf_blocksparse as bs

        model = files.load(options)
        if options.target is not None:
            status.update("pruning")
            selection = {name: getattr(options, name) for name in ("score", "include", "exclude", "ranking")}
            bs.prune_once(model, options.target, options.block_shape or (4, 4), **selection)
        status.update("measuring and converting")
        batch = tuple(options.batch) if options.batch else None
        fast = bs.convert(
            model,
            block_shape=options.block_shape,
            dtype=options.dtype,
            product_dtype=options.product_dtype,
            batch_size=batch,
            time_steps=options.steps,
        )
        inputs = files.read_arrays(options.inputs) if options.inputs else None
        result = bs.bench(model, fast, batch, options.steps, options.seconds, inputs)
    if options.json:
        output.write_json({"file": str(options.file), **result.to_dict()})
    else:
        output.write(result)
    return 0
