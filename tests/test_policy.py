"""Rules of the project that a machine can check."""

import re

from helpers import ROOT

PACKAGE = sorted((ROOT / "tf_blocksparse").rglob("*.py"))


def test_no_private_imports():
    private = re.compile(r"^\s*(from|import) (keras\.src|tensorflow\.python|tf_keras)", re.M)
    guilty = [str(p.relative_to(ROOT)) for p in PACKAGE if private.search(p.read_text())]
    assert not guilty, f"{guilty} import private modules, which change without notice: use the public API"


def test_no_prints_in_the_package():
    guilty = [str(p.relative_to(ROOT)) for p in PACKAGE if re.search(r"^\s*print\(", p.read_text(), re.M)]
    assert not guilty, f"{guilty} print: return a value, log, or raise"


def test_only_one_module_imports_tfmot():
    guilty = [
        str(p.relative_to(ROOT))
        for p in PACKAGE
        if re.search(r"^\s*(from|import) tensorflow_model_optimization", p.read_text(), re.M) and p.name != "tfmot.py"
    ]
    assert not guilty, f"{guilty} import TFMOT unguarded, which turns tf.keras into Keras 2: import pruning/tfmot.py"
