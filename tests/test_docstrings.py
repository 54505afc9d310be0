"""The examples in docstrings run and print what they say."""

import doctest
import importlib

import keras
import numpy as np
import pytest

import tf_blocksparse as bs

MODULES = [
    "block_gates",
    "blocks",
    "bsr",
    "custom_ops.gather",
    "custom_ops.low_precision_matmul",
    "custom_ops.matmul",
    "custom_ops.portable",
    "custom_ops.rnn",
    "custom_ops.rnn_low_precision",
    "custom_ops.rnn_reference",
    "layers.block_gate",
    "layers.block_sparse_dense",
    "layers.block_sparse_embedding",
    "layers.block_sparse_lstm",
    "layers.dynamic_block_dense",
    "layers.dynamic_block_lstm",
    "layers.dynamic_block_qrnn",
    "layers.gate_values",
    "layers.qrnn",
    "layers.softmax_block_gate",
    "matrix_view",
    "output_connections",
    "pruning.constant_sparsity",
    "pruning.gradual_sparsity",
    "pruning.hard_threshold",
    "pruning.iterative_pruning",
    "pruning.once",
    "pruning.prune",
    "pruning.schedule",
    "pruning.threshold_ramp",
    "pruning.wrapper",
    "quantize",
    "regularizers",
    "storage",
    "streaming",
]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    module = importlib.import_module(f"tf_blocksparse.{module}")
    names = {"np": np, "keras": keras, "GradualSparsity": bs.GradualSparsity, "DynamicBlockDense": bs.DynamicBlockDense}
    result = doctest.testmod(module, extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0
