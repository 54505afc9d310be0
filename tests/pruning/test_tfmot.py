from helpers import run_python


def test_importing_the_package_leaves_tf_keras_at_keras_3():
    out = run_python(
        "import os, tensorflow as tf\n"
        "import tf_blocksparse\n"
        "import keras\n"
        "print(tf.keras.__version__ == keras.__version__, os.environ.get('TF_USE_LEGACY_KERAS'))"
    )
    assert out.split() == ["True", "None"]


def test_a_wish_for_legacy_keras_is_left_alone():
    out = run_python(
        "import os, tf_blocksparse\nprint(os.environ.get('TF_USE_LEGACY_KERAS'))",
        TF_USE_LEGACY_KERAS="0",
    )
    assert out.split() == ["0"]
