"""Files that commands read and write: errors that say which and why, and no half-written results."""

import contextlib
import importlib
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
import zipfile

from tf_blocksparse_cli.errors import USAGE, CommandError, one_line

SAVED_MODEL = "saved_model.pb"


def add_input(parser, what="a Keras model, .keras or .h5"):
    """Adds the arguments that name a model to read."""
    parser.add_argument("file", metavar="IN", type=pathlib.Path, help=what)
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module (or .py file) first: the one that registers the model's custom layers",
    )
    parser.add_argument("--unsafe", action="store_true", help="load Lambda layers, which run code from the file")


def add_output(parser, what):
    """Adds the arguments that name what to write."""
    parser.add_argument("out", metavar="OUT", type=pathlib.Path, help=what)
    parser.add_argument("--force", action="store_true", help="replace what is there")


def is_saved_model(path):
    """Whether `path` is a directory with a SavedModel in it."""
    return (path / SAVED_MODEL).is_file()


def check_input(options):
    """Refuses, before TensorFlow is started, a file that is no Keras model by its name or kind."""
    path = options.file
    if is_saved_model(path):
        raise CommandError(
            f"{path} is a SavedModel, which has no layers left to change. Give the .keras file that it was exported "
            "from. (`tf-blocksparse inspect` takes SavedModels.)"
        )
    if not path.exists():
        raise CommandError(f"{path} does not exist. Expected a .keras file, which model.save() writes.")
    if path.is_dir():
        raise CommandError(f"{path} is a directory without {SAVED_MODEL}. Expected a .keras file or a SavedModel.")
    if path.name.endswith(".weights.h5"):
        raise CommandError(f"{path} has weights only. Expected a whole model: model.save('model.keras').")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise CommandError(f"{path} is no .keras file: it is no zip archive. Was it written to the end?")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise CommandError(f"{path} ends in {path.suffix or 'nothing'!r}. Expected .keras or .h5, or a SavedModel.")


def load(options):
    """The `keras.Model` of the file that the options name, which `check_input()` took, not compiled."""
    _import(options.imports)
    import keras

    try:
        return keras.models.load_model(options.file, compile=False, safe_mode=not options.unsafe)
    except Exception as error:  # whatever the code of custom layers raises
        raise CommandError(f"{options.file} cannot be loaded: {_why(error, options)}") from error


def _why(error, options):
    text = str(error)
    if "safe_mode" in text or "unsafe" in text.lower():
        return "it has Lambda layers, which run code from the file. If you trust it: --unsafe."
    unknown = re.search(r"Could not locate [^.]*|Unknown layer[^.]*", text)
    if unknown:
        hint = "Name the module that defines it: --import MODULE" + (" (another one)." if options.imports else ".")
        return f"{one_line(unknown[0], 200)}. {hint}"
    return one_line(text.rsplit("Exception encountered:", 1)[-1])  # before it Keras writes the whole config


def _import(modules):
    """Imports modules by name, as seen from the working directory, or .py files."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there must not take the place of a library
    for name in modules:
        try:
            if name.endswith(".py"):
                spec = importlib.util.spec_from_file_location(pathlib.Path(name).stem, name)
                module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            else:
                importlib.import_module(name)
        except Exception as error:  # it is the user's code
            raise CommandError(f"--import {name}: {type(error).__name__}: {one_line(error)}", USAGE) from error


def needs_package(path):
    """Whether the config of a .keras or .h5 file names classes that this package registers."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json").decode()
    else:
        import h5py

        with h5py.File(path) as file:
            config = str(file.attrs["model_config"])
    return "tf_blocksparse>" in config


def check_output(options, suffix=None):
    """Refuses an output of another kind than `suffix` (None: a directory), or one that is there already."""
    out = options.out
    if suffix and out.suffix != suffix:
        raise CommandError(f"OUT must end in {suffix}. Received: {out}.", USAGE)
    if not out.parent.is_dir() and suffix:
        raise CommandError(f"The directory {out.parent} of OUT does not exist. Make it first.")
    if options.file.exists() and out.exists() and out.samefile(options.file):
        raise CommandError(f"IN and OUT are the same: {out}. Give OUT another name.", USAGE)
    if not out.exists() or (not suffix and out.is_dir() and not any(out.iterdir())):
        return
    if not options.force:
        raise CommandError(f"{out} is there already. Give another name, or --force to replace it.")
    if suffix and out.is_dir() or not suffix and not is_saved_model(out):
        raise CommandError(f"{out} is no {suffix or 'SavedModel'}, so it is not replaced. Give another name.")


@contextlib.contextmanager
def replacing(out):
    """Yields a path to write, beside `out`, that takes its place when the block has ended without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as directory:
        # Of the same parent's name: in served/tagger/1 that is what a warmup record calls the model.
        new = pathlib.Path(directory) / out.absolute().parent.name / out.name
        new.parent.mkdir(exist_ok=True)
        yield new
        if out.is_dir():
            out.rename(pathlib.Path(directory) / "old")
        os.replace(new, out)


def read_arrays(path):
    """The array of an .npy file, or those of an .npz file as a dict by name."""
    import numpy as np

    try:
        found = np.load(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {one_line(error)}. Expected what numpy.save() writes.") from error
    return dict(found) if hasattr(found, "files") else found


def bytes_on_disk(path):
    """Bytes of a file, or of all files below a directory."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
