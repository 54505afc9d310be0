"""Nothing leaks into dropped blocks: every optimizer x precision x compilation x accumulation of gradients.

`make test` runs all cells of two optimizers, and for each other one two cells, so that all precisions, both
compilations and both accumulations meet each other; `make test-all` runs all cells, which takes ten minutes.
`test_distribution.py` has the cells with a distribution strategy.
"""

import inspect
import itertools

import keras
import numpy as np
import pytest
from keras import layers, optimizers

import tf_blocksparse as bs
from tf_blocksparse.pruning import pruned_weights

STEPS = 7
OPTIMIZERS = {
    "sgd": lambda **k: optimizers.SGD(0.05, **k),
    "momentum": lambda **k: optimizers.SGD(0.05, momentum=0.9, **k),
    "nesterov": lambda **k: optimizers.SGD(0.05, momentum=0.9, nesterov=True, **k),
    "adam": lambda **k: optimizers.Adam(0.01, **k),
    "amsgrad": lambda **k: optimizers.Adam(0.01, amsgrad=True, **k),
    "adam, weight decay": lambda **k: optimizers.Adam(0.01, weight_decay=0.1, **k),
    "adam, clipnorm": lambda **k: optimizers.Adam(0.01, clipnorm=0.1, **k),
    "adam, clipvalue": lambda **k: optimizers.Adam(0.01, clipvalue=0.01, **k),
    "adam, global_clipnorm": lambda **k: optimizers.Adam(0.01, global_clipnorm=0.1, **k),
    "adam, averages": lambda **k: optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=4, **k),
    "adamw": lambda **k: optimizers.AdamW(0.01, weight_decay=0.1, **k),
    "adamax": lambda **k: optimizers.Adamax(0.01, **k),
    "nadam": lambda **k: optimizers.Nadam(0.01, **k),
    "rmsprop": lambda **k: optimizers.RMSprop(0.01, momentum=0.5, **k),
    "adagrad": lambda **k: optimizers.Adagrad(0.05, **k),
    "adadelta": lambda **k: optimizers.Adadelta(1.0, **k),
    "adafactor": lambda **k: optimizers.Adafactor(0.05, **k),
    "lion": lambda **k: optimizers.Lion(0.01, weight_decay=0.1, **k),
    "lamb": lambda **k: optimizers.Lamb(0.01, **k),
    "muon": lambda **k: optimizers.Muon(0.01, **k),
    "schedule free": lambda **k: optimizers.ScheduleFreeAdamW(0.01, **k),
    "ftrl": lambda **k: optimizers.Ftrl(0.05, **k),
}


def test_the_table_has_all_optimizers_of_keras():
    tested = {type(make()) for make in OPTIMIZERS.values()}
    # float16 runs are in a LossScaleOptimizer; a MultiOptimizer has a test of its own.
    wrappers = {optimizers.Optimizer, optimizers.LossScaleOptimizer, optimizers.MultiOptimizer}
    known = {v for v in vars(optimizers).values() if inspect.isclass(v) and issubclass(v, optimizers.Optimizer)}
    assert known - tested - wrappers == set()


def leaks(model, last):
    """Largest |w| in dropped blocks; fails for blocks that come back and for -0.0. Updates the masks in `last`."""
    worst = 0.0
    for weight in pruned_weights(model):
        mask = np.asarray(weight.pruning.block_mask)
        dropped = np.asarray(weight.variable)[~np.asarray(weight.pruning.grid.expand(mask))]
        assert not np.signbit(dropped).any()
        assert not (mask & ~last.get(weight.path, mask)).any(), f"{weight.path}: a block came back"
        last[weight.path] = mask
        worst = max(worst, float(np.abs(dropped).max(initial=0.0)))
    return worst


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


WAYS = list(itertools.product(["float32", "mixed_float16", "mixed_bfloat16"], ["graph", "xla"], [1, 2]))


def cells():
    """All of optimizer x precision x compilation x accumulation; most are marked `exhaustive`."""
    for i, name in enumerate(OPTIMIZERS):
        for j, way in enumerate(WAYS):
            always = name in ("momentum", "adam") or (j - 5 * i) % len(WAYS) in (0, 7)
            yield pytest.param(name, *way, marks=() if always else pytest.mark.exhaustive)


@pytest.mark.parametrize("name,policy,compilation,accumulated", cells(), indirect=["policy"])
def test_nothing_leaks(name, policy, compilation, accumulated):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((9,)), layers.Dense(14, "relu"), layers.Dense(6)])
    schedule = bs.GradualSparsity(0.6, 1, STEPS - 2, frequency=4)
    bs.prune_blocks(model, (4, 3), schedule, gradient_accumulation_steps=accumulated)
    settings = {} if accumulated == 1 else {"gradient_accumulation_steps": accumulated}
    model.compile(OPTIMIZERS[name](**settings), "mse", jit_compile=compilation == "xla")
    rng = np.random.default_rng(0)
    last = {}
    for _ in range(STEPS * accumulated):
        model.train_on_batch(rng.standard_normal((4, 9)), rng.standard_normal((4, 6)))
        assert leaks(model, last) == 0.0
    for weight in pruned_weights(model):
        mask = np.asarray(weight.pruning.block_mask)
        assert int(weight.pruning.step) == STEPS == int(model.optimizer.iterations)
        assert (~mask).sum() == round(0.6 * mask.size)
        assert np.isfinite(weight.variable).all()


def test_nothing_leaks_with_several_optimizers():
    model = keras.Sequential([keras.Input((9,)), layers.Dense(14, name="first"), layers.Dense(6, name="second")])
    bs.prune_blocks(model, (4, 3), bs.GradualSparsity(0.6, 1, STEPS - 2, frequency=4))
    by_name = optimizers.OptimizerMap(optimizers.Adam(0.01), {".*first.*": optimizers.SGD(0.05, momentum=0.9)})
    model.compile(optimizers.MultiOptimizer(by_name), "mse")
    last = {}
    for _ in range(STEPS):
        model.train_on_batch(np.ones((4, 9)), np.ones((4, 6)))
        assert leaks(model, last) == 0.0
    assert [int(weight.pruning.step) for weight in pruned_weights(model)] == [STEPS] * 2


def test_averaged_weights_are_masked_when_fit_ends(caplog):
    def trained(callbacks):
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((9,)), layers.Dense(14), layers.Dense(6)])
        model.compile(OPTIMIZERS["adam"](use_ema=True, ema_momentum=0.9), "mse")
        bs.prune_blocks(model, (4, 3), bs.GradualSparsity(0.6, 0, 8))
        model.fit(np.ones((20, 9)), np.ones((20, 6)), batch_size=2, verbose=0, callbacks=callbacks)
        return model

    without, mended = trained([]), trained([bs.KeepBlocksZero()])
    assert "use_ema=True" in caplog.text and "KeepBlocksZero" in caplog.text
    assert leaks(mended, {}) == 0.0
    assert max(np.abs(w.variable[:].numpy()).max() for w in pruned_weights(without)) > 0
    bs.strip_pruning(without)
    for a, b in zip(without.get_weights(), mended.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "optimizer,message",
    [
        (optimizers.Ftrl(), "Prune with another optimizer"),
        (optimizers.Adam(gradient_accumulation_steps=4), "Pass gradient_accumulation_steps=4 to prune_blocks"),
    ],
)
def test_what_an_optimizer_does_is_said(optimizer, message, caplog):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.compile(optimizer, "mse")
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 0, 4))
    assert message in caplog.text
