"""A short run of the fuzzer of the ops, and a check that it would see what it is for."""

import numpy as np
import pytest

from fuzz.fuzz_ops import fuzz
from fuzz.op_cases import OPS
from tf_blocksparse.custom_ops.library import ops


def test_every_outcome_is_right_or_refused():
    outcomes = fuzz(2000, 1, ops())
    assert sum(outcomes.values()) == 2000
    for op in OPS:
        for outcome in ("right", "refused"):
            assert outcomes[op, outcome] > 30, outcomes


class Lax:
    """The ops, one of which takes or gives something else."""

    def __init__(self, spoil):
        self.spoil = spoil

    def __getattr__(self, name):
        op = getattr(ops(), name)
        return lambda *tensors, **attrs: self.spoil(op, tensors, attrs)


def _wrong_numbers(op, tensors, attrs):
    return op(*tensors, **attrs) * 1.01


def _no_refusals(op, tensors, attrs):
    try:
        return op(*tensors, **attrs)
    except Exception:
        one = np.ones((1, 1), "float32")
        return ops().block_sparse_mat_mul(one, one[None], [0], [0, 1], [], out_features=1)


def _no_words(op, tensors, attrs):
    try:
        return op(*tensors, **attrs)
    except Exception:
        raise ValueError("bad") from None


@pytest.mark.parametrize(
    "spoil, message",
    [(_wrong_numbers, "(?s)got .*expected"), (_no_refusals, "not sound, but computed"), (_no_words, "names no value")],
)
def test_the_fuzzer_sees_what_is_wrong(spoil, message):
    with pytest.raises(AssertionError, match=message):
        fuzz(300, 1, Lax(spoil))
