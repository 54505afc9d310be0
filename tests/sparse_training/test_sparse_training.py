"""The rest of a training ends with the same weights in blocks as masked."""

import keras
import numpy as np
import pytest

import tf_blocksparse as bs
from sparse_training.training_cases import (
    END_STEP,
    IN_BLOCKS,
    MODELS,
    STEPS,
    data,
    fit,
    largest_difference,
    live,
    pruned,
    schedule,
    sequential,
    slots,
    values,
    whole,
)
from tf_blocksparse.convert import leaves
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.twins import is_twin

layers, optimizers = keras.layers, keras.optimizers

ELEMENTWISE = {
    "SGD": dict(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "RMSprop": dict(centered=True, momentum=0.5),
    "Adam": dict(amsgrad=True, clipvalue=0.1),
    "AdamW": {},
    "Adadelta": dict(learning_rate=1.0),
    "Adagrad": dict(learning_rate=0.05),
    "Adamax": {},
    "Nadam": {},
    "Ftrl": dict(learning_rate=0.05, beta=0.1),
    "Lion": {},
    "ScheduleFreeAdamW": {},
}
# Slots of the optimizers that have some, by their attributes.
SLOTS = {
    "SGD": ["momentums"],
    "RMSprop": ["_velocities", "_momentums", "_average_gradients"],
    "Adam": ["_momentums", "_velocities", "_velocity_hats"],
    "Adadelta": ["_accumulated_grads", "_accumulated_delta_vars"],
    "Adagrad": ["_accumulators"],
    "Adamax": ["_m", "_u"],
    "Ftrl": ["_accumulators", "_linears"],
    "Lion": ["_momentums"],
}


def in_blocks(model):
    return sum(map(is_twin, leaves(model)))


def train_both(make, swapped_at=END_STEP):
    """A model trained masked, and one that goes on in blocks."""
    both = []
    for callbacks in ([], [bs.SparsifyTraining(**IN_BLOCKS)]):
        keras.utils.set_random_seed(2)
        model = make()
        fit(model, data(model), callbacks)
        both.append(model)
    assert in_blocks(both[0]) == 0 and in_blocks(both[1]) > 0
    assert callbacks[0].swapped_at == swapped_at
    return both


@pytest.mark.parametrize("name", MODELS)
def test_layers(name):
    masked, swapped = train_both(lambda: pruned(MODELS[name](), run_eagerly=True))
    assert not pruned_weights(swapped)
    assert largest_difference(masked, swapped) < 2e-5


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_optimizers(name):
    def make():
        return pruned(MODELS["ragged"](), getattr(optimizers, name)(**ELEMENTWISE[name]), run_eagerly=True)

    masked, swapped = train_both(make)
    assert largest_difference(masked, swapped) < 1e-4
    assert int(masked.optimizer.iterations) == int(swapped.optimizer.iterations) == STEPS
    kept = live(swapped)
    for slot in SLOTS.get(name, []):
        ours = slots(swapped, slot)
        for key, theirs in slots(masked, slot).items():
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(
                ours[key][kept[key]], theirs[kept[key]], atol=1e-4 * scale, err_msg=f"{slot} {key}"
            )


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_slots_are_carried_over(name):
    """Right after the swap each slot of a live weight is, to the bit, what it was."""
    model = pruned(MODELS["bidirectional"](), getattr(optimizers, name)(**ELEMENTWISE[name]), run_eagerly=True)
    fit(model, data(model, batches=END_STEP))
    before = {slot: slots(model, slot) for slot in SLOTS[name]}
    weights = values(model)
    bs.sparsify_training(model, **IN_BLOCKS)
    kept = live(model)
    for key, value in values(model).items():
        np.testing.assert_array_equal(value, weights[key], strict=True)
    for slot, old in before.items():
        for key, new in slots(model, slot).items():
            assert np.any(new[kept[key]])
            np.testing.assert_array_equal(new, np.where(kept[key], old[key], 0))


def test_forgotten_slots_would_be_noticed(monkeypatch):
    """Without the slots the weights end elsewhere, by far more than rounding."""
    monkeypatch.setattr("tf_blocksparse.sparse_training.optimizer_state._take", lambda *arguments: None)
    masked, swapped = train_both(lambda: pruned(MODELS["ragged"](), optimizers.Adam(0.01), run_eagerly=True))
    assert largest_difference(masked, swapped) > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    masked, swapped = train_both(lambda: pruned(MODELS["gru"](), optimizers.Adam(0.001), run_eagerly=True))
    # Masked weights are rounded for a product and those in blocks are not.
    assert largest_difference(masked, swapped) < {"mixed_bfloat16": 0.05, "mixed_float16": 0.01}[policy]
    if policy == "mixed_float16":
        assert isinstance(swapped.optimizer, optimizers.LossScaleOptimizer)
        for name in ("dynamic_scale", "step_counter"):
            assert float(getattr(masked.optimizer, name)) == float(getattr(swapped.optimizer, name))


def test_accumulation_ema_and_exclusions():
    """Gradients are half accumulated when the layers are exchanged."""

    def make():
        optimizer = optimizers.AdamW(
            0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=2
        )
        model = MODELS["dense"]()
        optimizer.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
        return pruned(model, optimizer, run_eagerly=True)

    masked, swapped = train_both(make, swapped_at=1)
    assert int(swapped.optimizer.iterations) == STEPS // 2
    kept = live(swapped)
    for slot in ("_accumulated_gradients", "_model_variables_moving_average", "_momentums"):
        ours, theirs = slots(swapped, slot), slots(masked, slot)
        for key in theirs:
            np.testing.assert_allclose(ours[key][kept[key]], theirs[key][kept[key]], atol=1e-6, err_msg=slot)
    for key, theirs in values(masked).items():  # averaged; those of dropped blocks are not zero in the masked model
        np.testing.assert_allclose(values(swapped)[key], np.where(kept[key], theirs, 0), atol=1e-5)


def test_schedule_of_the_learning_rate_goes_on():
    decay = optimizers.schedules.ExponentialDecay(0.1, decay_steps=2, decay_rate=0.5)
    masked, swapped = train_both(lambda: pruned(MODELS["dense"](), optimizers.SGD(decay), run_eagerly=True))
    assert largest_difference(masked, swapped) < 1e-5
    np.testing.assert_allclose(float(swapped.optimizer.learning_rate), 0.1 * 0.5 ** (STEPS / 2), rtol=1e-5)


def test_in_graphs_with_several_steps_a_call():
    masked, swapped = train_both(lambda: pruned(MODELS["lstm"](), steps_per_execution=2), swapped_at=4)
    assert largest_difference(masked, swapped) < 1e-5


def test_jit_is_switched_off():
    masked, swapped = train_both(lambda: pruned(MODELS["ragged"](), jit_compile=True))
    assert masked.jit_compile and not swapped.jit_compile
    assert largest_difference(masked, swapped) < 1e-5


def test_stateful_layers_go_on_from_their_states():
    def make():
        inputs = keras.Input(batch_shape=(4, 4, 12))
        return pruned(keras.Model(inputs, layers.GRU(8, stateful=True)(inputs)), run_eagerly=True)

    masked, swapped = train_both(make)
    np.testing.assert_allclose(swapped.layers[-1].states[0], masked.layers[-1].states[0], atol=1e-6)
    assert largest_difference(masked, swapped) < 1e-5


def test_kept_blocks_that_are_zero_go_on():
    """A block is live because pruning keeps it, not because it differs from zero."""
    model = pruned(MODELS["dense"](), run_eagerly=True)
    fit(model, data(model, batches=END_STEP))
    layer = model.layers[0]
    mask = layer.kernel_constraint.block_mask.numpy()
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    bs.sparsify_training(model, **IN_BLOCKS)
    np.testing.assert_array_equal(layer.kernel.bsr().block_mask, mask)
    fit(model, data(model, seed=1))
    assert np.all(np.abs(layer.kernel.bsr().blocks).max(axis=(1, 2)) > 0)


def test_different_block_shapes_in_a_layer():
    def make():
        model = sequential(layers.SimpleRNN(16))
        shapes = {"*/kernel": (4, 8), "*/recurrent_kernel": (8, 4)}
        bs.prune_blocks(model, shapes, schedule())
        model.compile(optimizers.SGD(0.1), "mse", run_eagerly=True)
        return model

    masked, swapped = train_both(make)
    assert swapped.layers[0].cell.block_shape == (4, 4)
    assert largest_difference(masked, swapped) < 1e-5


def test_a_weight_that_is_not_pruned_stays_whole():
    def make():
        model = MODELS["gru_reset_before"]()
        bs.prune_blocks(model, (4, 2), schedule(), include="*/kernel")
        model.compile(optimizers.Adam(0.01), "mse", run_eagerly=True)
        return model

    masked, swapped = train_both(make)
    assert largest_difference(masked, swapped) < 1e-4
    assert swapped.layers[0].cell.recurrent_kernel.bsr().block_mask.all()
    assert not swapped.layers[0].cell.kernel.bsr().block_mask.all()


def test_dead_blocks_stay_exactly_zero():
    model = pruned(MODELS["dense"](), optimizers.Adam(0.01), run_eagerly=True)
    fit(model, data(model, batches=END_STEP))
    masks = {key: value != 0 for key, value in values(model).items()}
    bs.sparsify_training(model, **IN_BLOCKS)
    fit(model, data(model, seed=1))
    for key, value in whole(values(model)).items():
        assert not np.any(value[~masks[key]]) or key[1] == "bias"


def test_regularizers_and_constraints_that_last():
    def make(**settings):
        model = sequential(layers.Dense(12, **settings), layers.Dense(4), inputs=(14,))
        bs.prune_blocks(model, (4, 2), schedule(), regularizer=bs.BlockGroupLasso(1e-3))
        model.compile(optimizers.SGD(0.1), "mse", run_eagerly=True)
        return model

    settings = dict(kernel_regularizer=keras.regularizers.L2(0.05), kernel_constraint=keras.constraints.NonNeg())
    masked, swapped = train_both(lambda: make(**settings))
    assert largest_difference(masked, swapped) < 1e-5
    assert swapped.layers[0].kernel.bsr().blocks.min() >= 0

    over = bs.BlockGroupLasso(0.05, (4, 2))  # acts while its schedule runs, so not any more
    masked, swapped = train_both(lambda: make(kernel_regularizer=over))
    assert in_blocks(swapped) == 2
    assert largest_difference(masked, swapped) < 1e-5

    for lasting in (dict(kernel_constraint="max_norm"), dict(kernel_regularizer=bs.LHalf(1e-3, follow_schedule=False))):
        masked, swapped = train_both(lambda: make(**lasting))  # noqa: B023
        assert in_blocks(swapped) == 1
        assert "needs the whole matrix" in str(bs.report(swapped))
        assert largest_difference(masked, swapped) < 1e-5
