"""Products with chosen blocks, and the choice, on an emulated GPU: the tests of the CPU's ops. None runs on a GPU."""

import numpy as np
import pytest
import tensorflow as tf

import emulated
import test_choose_blocks
import test_dynamic_matmul
from test_dynamic_matmul import BAD_INPUTS, GOOD, check, random_case
from tf_blocksparse.custom_ops import choose_blocks, dynamic_block_matmul

pytestmark = emulated.NEEDED

IN_DEVICE_MEMORY = "ids are in the memory of the device, where they are checked by the kernels: see below"
LEFT_OUT = {
    "test_product_and_gradients": "45 cases: a part of them is below",
    "test_gradients_of_gradients": "the third ones of a product without activation are thousands of rounding errors",
    "test_reference_in_other_dtypes": "has no op",
    "test_saved_model_in_a_fresh_process": "would be loaded with the CPU's op",
    "test_bad_inputs_of_the_product": IN_DEVICE_MEMORY,
    "test_bad_inputs_of_the_gradients": IN_DEVICE_MEMORY,
    "test_ids_are_checked_where_the_gate_is_zero_too": IN_DEVICE_MEMORY,
}
SAME = emulated.tests_of(test_dynamic_matmul, LEFT_OUT)
CHOICE = {f"{n}_of_the_choice": f for n, f in emulated.tests_of(test_choose_blocks, {}).items()}
globals().update(SAME | CHOICE)


@pytest.fixture(autouse=True)
def the_ops_are_emulated():
    with emulated.in_place_of_the_ops(test_dynamic_matmul, test_choose_blocks):
        yield


def test_the_tests_of_the_cpu_are_here():
    assert len(SAME) >= 18 and len(CHOICE) > 12


@pytest.mark.parametrize("sizes", [(96, 130), (101, 131)])
@pytest.mark.parametrize("block_shape", test_dynamic_matmul.SHAPES)
def test_product_and_gradients(sizes, block_shape):
    check(random_case(*sizes, block_shape, batch=2 if block_shape[0] * block_shape[1] < 16 else 9))


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_gradients_of_gradients(activation):
    test_dynamic_matmul.test_gradients_of_gradients(activation)


# Not those whose shapes are good.
@pytest.mark.parametrize("change, message", [case for case in BAD_INPUTS if "is not" not in case[1]])
def test_bad_inputs(change, message):
    test_dynamic_matmul.test_bad_inputs_of_the_product(change, message)
    test_dynamic_matmul.test_bad_inputs_of_the_gradients(change, message)


@pytest.mark.parametrize("gate", [1.0, 0.0])
@pytest.mark.parametrize("bad", [6, -1, 2**31 - 1, -(2**31)])
def test_an_id_of_no_block_is_seen_in_the_results(bad, gate):
    """And in nothing else: neither is it read for, nor do other examples notice."""
    good, block_ids, block_gates = dict(GOOD), GOOD["block_ids"].copy(), GOOD["block_gates"].copy()
    block_ids[1, 0], block_gates[1, 0] = bad, gate
    good |= {"block_ids": block_ids, "block_gates": block_gates}
    ops = emulated.load()
    dy = np.ones([2, 12], np.float32)
    y = ops.block_sparse_dynamic_mat_mul(**good, bias=[])
    dx, dgates = ops.block_sparse_dynamic_mat_mul_grad_inputs(**good, dy=dy)
    dblocks = ops.block_sparse_dynamic_mat_mul_grad_blocks(**good, dy=dy)
    for rows in (y, dx):
        np.testing.assert_array_equal(np.isnan(rows).all(1), [False, True])
        assert np.isfinite(rows[0]).all()
    np.testing.assert_array_equal(np.isnan(dgates), [[False, False], [True, False]])
    assert np.isfinite(dblocks).all()


def test_nothing_is_copied_and_nothing_waited_for():
    case = random_case(64, 64, (16, 16), 5)
    case.blocks = np.nan_to_num(case.blocks)
    before = {name: emulated.calls(name) for name in ("cuLaunchKernel", "cuMemcpyHtoDAsync_v2")}
    ids, gates = choose_blocks(np.random.default_rng(0).standard_normal([5, 16]).astype(np.float32), 4)
    dynamic_block_matmul(case.x, case.blocks, ids, gates, **case.sizes)
    assert emulated.calls("cuLaunchKernel") > before["cuLaunchKernel"] + 2
    assert emulated.calls("cuMemcpyHtoDAsync_v2") == before["cuMemcpyHtoDAsync_v2"]


def test_a_whole_chain_in_a_graph():
    """Scores, choice, product and their gradients, as a dynamic layer has them; equal to standard ops."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal([6, 32]).astype(np.float32)
    blocks = rng.standard_normal([8, 8, 12]).astype(np.float32)
    gate = rng.standard_normal([32, 8]).astype(np.float32)

    def chain(x, blocks, gate, choose, product):
        ids, gates = choose(tf.matmul(x, gate), 3)
        return product(x, blocks, ids, gates, in_features=32, out_features=24, activation="tanh")

    def with_gradients(choose, product):
        inputs = [tf.constant(a) for a in (x, blocks, gate)]
        function = tf.function(lambda *given: chain(*given, choose, product))
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(function(*inputs) ** 2)
        return tape.gradient(loss, inputs)

    references = test_choose_blocks.choose_blocks_reference, test_dynamic_matmul.dynamic_block_matmul_reference
    for a, e in zip(with_gradients(choose_blocks, dynamic_block_matmul), with_gradients(*references), strict=True):
        assert np.abs(e).max() > 0.1
        np.testing.assert_allclose(a, e, atol=1e-4)
