"""Runs one library of ops, built through the C API, in environments of their own with other versions of TensorFlow.

python tests/c_api/versions.py LIBRARY ENVIRONMENTS 2.16.2 2.21.0

Writes SavedModels, custom op and portable, with the TensorFlow of this process, and answers them in each environment,
which is made where it is not there yet (`build/tf-2.16.2` for ENVIRONMENTS `build/tf`) with tensorflow-cpu from PyPI.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def write_models(directory):
    """Both exports of models that have every op of inference, each with an input and what Keras answers."""
    import numpy as np

    import tf_blocksparse as bs
    from export_cases import bfloat16, dynamic_layers, int8, sequences_of_a_large_batch, static_shapes
    from fuzz.saved_model_cases import models

    cases = (bfloat16, dynamic_layers, int8, sequences_of_a_large_batch, static_shapes)
    cases = {**{case.__name__: case() for case in cases}, "words": models()["words"]}
    for name, (model, x) in cases.items():
        for form in ("", "_portable"):
            bs.export(model, directory / f"{name}{form}" / "saved", portable=bool(form))
            np.savez(directory / f"{name}{form}" / "example.npz", x=x, y=np.asarray(model(x)))


def environment(prefix, version):
    """The Python of an environment with that TensorFlow."""
    directory = pathlib.Path(f"{prefix}-{version}")
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"tensorflow-cpu=={version}"]
    subprocess.run(install, check=True)
    return python


def main():
    """Fails at the first version in which something is not right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("environments")
    parser.add_argument("versions", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        write_models(pathlib.Path(directory))
        for version in options.versions:
            python = environment(options.environments, version)
            serve = ROOT / "tests" / "c_api" / "serve.py"
            subprocess.run([python, serve, os.path.abspath(options.library), directory], check=True, cwd=directory)


if __name__ == "__main__":
    main()
