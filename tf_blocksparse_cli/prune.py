"""`tf-blocksparse prune`: zeroes blocks of a trained model at once, to try what that gives."""

from tf_blocksparse_cli import files, output
from tf_blocksparse_cli.arguments import add_block_shape, add_json, add_selection, fraction

DESCRIPTION = (
    "Zeroes the blocks of lowest magnitude of a trained model, at once and without training. The accuracy that this "
    "costs is not made up for: use it to try sizes and times, or fine-tune what it writes."
)
_WARNING = (
    "This was done without training, so the model has lost accuracy. Fine-tune it: load it with `import "
    "tf_blocksparse`, compile and fit; the blocks stay zero. Or train with tf_blocksparse.prune_blocks(), which loses "
    "less."
)
_WARNING_STRIPPED = (
    "This was done without training, so the model has lost accuracy, and nothing holds the zeros if it is trained on. "
    "Leave out --strip to fine-tune it."
)


def add_arguments(parser):
    """The arguments of the command."""
    files.add_input(parser)
    files.add_output(parser, "the .keras file to write")
    parser.add_argument(
        "--target", type=fraction, required=True, metavar="S", help="sparsity: the fraction of blocks that become zero"
    )
    add_block_shape(parser, default=(4, 4))
    add_selection(parser)
    parser.add_argument(
        "--strip", action="store_true", help="write a plain Keras model: nothing holds the zeros in training"
    )
    add_json(parser)


def run(options):
    """Runs the command; returns the exit status."""
    files.check_input(options)
    files.check_output(options, ".keras")
    with output.work(f"loading {options.file}") as status:
        import tf_blocksparse as bs

        model = files.load(options)
        status.update("pruning")
        selection = {name: getattr(options, name) for name in ("score", "include", "exclude", "ranking")}
        bs.prune_once(model, options.target, options.block_shape, **selection)
        if options.strip:
            model = bs.strip_pruning(model)
        report = bs.report(model)
        with files.replacing(options.out) as new:
            model.save(new)
    warning = _WARNING_STRIPPED if options.strip else _WARNING
    if options.json:
        output.write_json({"file": str(options.out), "warning": warning, **report.to_dict()})
        return 0
    output.write(report)
    output.write(f"Wrote {options.out}, {files.bytes_on_disk(options.out):,} bytes.\n{warning}")
    return 0
