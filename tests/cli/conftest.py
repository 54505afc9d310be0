import keras
import pytest

from cli_cases import run_json, small_model


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Directory with the small model dense, pruned, converted and exported, by the commands themselves."""
    root = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(1)
    small_model().save(root / "dense.keras")
    run_json("prune", root / "dense.keras", root / "pruned.keras", "--target", "0.75", "--block-shape", "4", "8")
    run_json("convert", root / "pruned.keras", root / "fast.keras", "--min-sparsity", "0.5")
    run_json("export", root / "fast.keras", root / "served" / "1")
    return root
