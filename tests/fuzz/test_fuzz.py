"""Short runs of the fuzzers of ops and of SavedModel files, and checks that they would see what they are for."""

import signal
import sys

import numpy as np
import pytest

from fuzz import fuzz_saved_models
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


def test_spoilt_saved_models_end_in_errors_or_outputs():
    outcomes, deaths = fuzz_saved_models.fuzz(40, 3)
    assert not deaths
    assert sum(outcomes.values()) == 40
    assert 1 <= outcomes["answered"] <= 30
    assert outcomes["InvalidArgumentError"] + outcomes["ValueError"] >= 5


def test_a_process_that_dies_is_seen_and_told(monkeypatch):
    dies = "import os, sys; print('begin 0 words: spoilt', flush=True) if '0' == sys.argv[1] else None; os.abort()"
    ends = "print('begin 1 words: spoilt'); print('end 1 answered')"

    def command(root, first, last, seed):
        return [sys.executable, "-c", dies if first == 0 else ends, str(first)]

    monkeypatch.setattr(fuzz_saved_models, "_command", command)
    monkeypatch.setattr(fuzz_saved_models, "_write_models", lambda root: None)
    monkeypatch.setattr(fuzz_saved_models, "_innermost_frames", lambda *of: ["#0 blocksparse::Kernel()"])
    outcomes, deaths = fuzz_saved_models.fuzz(2, 0)
    assert outcomes == {"answered": 1}
    assert deaths == [("begin 0 words: spoilt", signal.SIGABRT, ["#0 blocksparse::Kernel()"])]
