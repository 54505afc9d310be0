"""`tf-blocksparse export`: a SavedModel of a converted model."""

from tf_blocksparse_cli import files, output
from tf_blocksparse_cli.arguments import add_json
from tf_blocksparse_cli.errors import CommandError

DESCRIPTION = "Writes a SavedModel that holds the stored blocks only, for tf.saved_model.load and TensorFlow Serving."


def add_arguments(parser):
    """The arguments of the command: those of `tf_blocksparse.export()`."""
    files.add_input(parser, "a converted (or plain) Keras model, .keras or .h5")
    files.add_output(parser, "the directory to write, as in served/model/1")
    parser.add_argument(
        "--portable", action="store_true", help="of standard TensorFlow ops: needs no op library, and is slower"
    )
    parser.add_argument(
        "--streaming", action="store_true", help="a second signature, `step`, whose recurrent states go in and out"
    )
    parser.add_argument(
        "--warmup", action="store_true", help="a record that TensorFlow Serving computes when it loads the model"
    )
    add_json(parser)


def run(options):
    """Runs the command; returns the exit status."""
    files.check_input(options)
    files.check_output(options)
    with output.work(f"loading {options.file}") as status:
        import tf_blocksparse as bs
        from tf_blocksparse.pruning import pruned_weights

        model = files.load(options)
        if pruned_weights(model):
            raise CommandError(
                f"{options.file} is pruned, but not converted: its zeros would be stored. Convert it first: "
                f"tf-blocksparse convert {options.file} converted.keras"
            )
        status.update("exporting")
        signatures = {"serve": model, "step": bs.streaming_model(model)} if options.streaming else None
        with files.replacing(options.out) as new:
            bs.export(model, new, options.portable, signatures, warmup=options.warmup)
        contents = bs.saved_model_contents(options.out)
    values = {
        "file": str(options.out),
        "bytes_on_disk": contents.bytes_on_disk,
        "needs_op_library": contents.needs_op_library,
        "custom_ops": list(contents.custom_ops),
        "signatures": contents.signatures,
    }
    if options.json:
        output.write_json(values)
        return 0
    needs = "`import tf_blocksparse` is needed to load it" if contents.needs_op_library else "TensorFlow alone loads it"
    names = ", ".join(contents.signatures)
    output.write(f"Wrote {options.out}, {contents.bytes_on_disk:,} bytes, with the signatures {names}. {needs}.")
    return 0
