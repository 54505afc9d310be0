"""`tf-blocksparse inspect`: what is in a model file or a SavedModel."""

import pathlib

from rich.table import Table

from tf_blocksparse_cli import files, output
from tf_blocksparse_cli.arguments import add_json
from tf_blocksparse_cli.errors import CommandError

DESCRIPTION = (
    "Reports every weight matrix of a model: shape, blocks, sparsity and bytes. Of a SavedModel, whose files are read "
    "without running it, also the signatures and whether it needs the op library."
)


def add_arguments(parser):
    """The arguments of the command."""
    files.add_input(parser, "a .keras or .h5 file, or the directory of a SavedModel")
    parser.add_argument("--plot", metavar="DIR", type=pathlib.Path, help="write pictures into this directory")
    add_json(parser)


def run(options):
    """Runs the command; returns the exit status."""
    saved_model = files.is_saved_model(options.file)
    if not saved_model:
        files.check_input(options)
    with output.work(f"reading {options.file}"):
        values, texts, model = _saved_model(options) if saved_model else _keras(options)
        pictures = _plot(model, options.plot) if options.plot else []
    values["pictures"] = [str(picture) for picture in pictures]
    if options.json:
        output.write_json(values)
        return 0
    for text in texts:
        output.write(text)
    for picture in pictures:
        output.write(f"picture: {picture}")
    return 0


def _keras(options):
    """`(values for JSON, texts, what the plots take)` of a Keras file."""
    import tf_blocksparse as bs

    model = files.load(options)
    if not model.built:
        raise CommandError(f"{options.file} holds a model without weights: it was saved before it was built.")
    report, needed = bs.report(model), files.needs_package(options.file)
    size = files.bytes_on_disk(options.file)
    values = {"file": str(options.file), "kind": "keras", "bytes_on_disk": size, "needs_package": needed}
    needs = "`import tf_blocksparse` is needed to load it." if needed else "Keras alone loads it."
    return {**values, **_report(report)}, [report, f"{size:,} bytes on disk. {needs}"], model


def _saved_model(options):
    import tf_blocksparse as bs

    contents, report = bs.saved_model_contents(options.file), bs.report(options.file)
    values = {
        "file": str(options.file),
        "kind": "saved_model",
        "bytes_on_disk": contents.bytes_on_disk,
        "needs_op_library": contents.needs_op_library,
        "custom_ops": list(contents.custom_ops),
        "tensorflow_version": contents.tensorflow_version,
        "signatures": contents.signatures,
    }
    if contents.needs_op_library:
        needs = f"Needs the op library: it calls {', '.join(contents.custom_ops)}."
    else:
        needs = "TensorFlow alone runs it."
    size = f"{contents.bytes_on_disk:,} bytes on disk, by TensorFlow {contents.tensorflow_version}. {needs}"
    return {**values, **_report(report)}, [report, _signatures(contents.signatures), size], options.file


def _report(report):
    """What JSON says of weights: fields of `WeightReport`, with the density beside the sparsity."""
    values = report.to_dict()
    for weight in values["weights"]:
        weight["density"] = 1.0 - weight["sparsity"]
    return values


def _signatures(signatures):
    table = Table("signature", "", "name", "dtype", "shape", title="Signatures")
    for signature, sides in signatures.items():
        for side, tensors in sides.items():
            for name, (dtype, shape) in tensors.items():
                dims = "?" if shape is None else ", ".join("?" if n is None else str(n) for n in shape)
                table.add_row(signature, side.removesuffix("s"), output.plain(name), dtype, output.plain(f"[{dims}]"))
    return table


def _plot(model, directory):
    """Writes the pictures that the model has something for; returns their paths."""
    from tf_blocksparse import plots

    pictures = {
        "masks": plots.plot_pruning,
        "sparsity_by_layer": plots.plot_sparsity_by_layer,
        "output_connections": plots.plot_output_connections,
    }
    written = []
    for name, draw in pictures.items():
        try:
            figure = draw(model)
        except ValueError:  # a model without blocks, or without zeros
            continue
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / f"{name}.png")
        written.append(directory / f"{name}.png")
    if not written:
        raise CommandError("There is nothing to draw: no weight has blocks or zeros. Prune the model first.")
    return written
