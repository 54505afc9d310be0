"""Which products a graph is made of: the custom ops, or standard TensorFlow ops that compute the same.

Layers take their products from `active()` whenever they are called, so that the same layer can be traced either way.

```python
with standard_ops():
    portable = tf.function(layer).get_concrete_function(tf.TensorSpec([None, 512]))  # no custom op in it
```
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable

from tf_blocksparse.custom_ops.choose_blocks import choose_blocks, choose_blocks_reference, gate_scores
from tf_blocksparse.custom_ops.dynamic_low_precision_matmul import (
    dynamic_block_matmul_low_precision,
    dynamic_block_matmul_low_precision_reference,
)
from tf_blocksparse.custom_ops.dynamic_matmul import dynamic_block_matmul, dynamic_block_matmul_reference
from tf_blocksparse.custom_ops.gather import block_sparse_gather
from tf_blocksparse.custom_ops.low_precision_matmul import block_sparse_matmul_low_precision
from tf_blocksparse.custom_ops.matmul import block_sparse_matmul
from tf_blocksparse.custom_ops.portable import (
    portable_gate_scores,
    portable_gather,
    portable_matmul,
    portable_matmul_low_precision,
)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """The functions that layers compute with.

    Args:
        matmul: as `block_sparse_matmul`.
        gather: as `block_sparse_gather`.
        matmul_low_precision: as `block_sparse_matmul_low_precision`.
        dynamic_matmul: as `dynamic_block_matmul`.
        dynamic_matmul_low_precision: as `dynamic_block_matmul_low_precision`.
        gate_scores: as `gate_scores`.
        choose_blocks: as `choose_blocks`.
    """

    matmul: Callable
    gather: Callable
    matmul_low_precision: Callable
    dynamic_matmul: Callable
    dynamic_matmul_low_precision: Callable
    gate_scores: Callable
    choose_blocks: Callable


CUSTOM_OPS = Implementation(
    block_sparse_matmul,
    block_sparse_gather,
    block_sparse_matmul_low_precision,
    dynamic_block_matmul,
    dynamic_block_matmul_low_precision,
    gate_scores,
    choose_blocks,
)
STANDARD_OPS = Implementation(
    portable_matmul,
    portable_gather,
    portable_matmul_low_precision,
    dynamic_block_matmul_reference,
    dynamic_block_matmul_low_precision_reference,
    portable_gate_scores,
    choose_blocks_reference,
)
_active = contextvars.ContextVar("tf_blocksparse_implementation", default=CUSTOM_OPS)


def active():
    """The `Implementation` of what is traced, or run eagerly, here and now."""
    return _active.get()


@contextlib.contextmanager
def standard_ops():
    """Within it, in this thread, layers compute with standard TensorFlow ops alone."""
    token = _active.set(STANDARD_OPS)
    try:
        yield
    finally:
        _active.reset(token)
