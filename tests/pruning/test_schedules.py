import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.pruning import BlockPruningConstraint
from tf_blocksparse.pruning.constant_sparsity import ConstantSparsity
from tf_blocksparse.pruning.gradual_sparsity import GradualSparsity
from tf_blocksparse.pruning.hard_threshold import HardThreshold
from tf_blocksparse.pruning.iterative_pruning import IterativePruning
from tf_blocksparse.pruning.schedule import (
    BlockPruningSchedule,
    SparsitySchedule,
    deserialize_schedule,
    is_update_step,
    serialize_schedule,
    updated_mask,
)
from tf_blocksparse.pruning.tfmot import tfmot
from tf_blocksparse.pruning.threshold_ramp import ThresholdRamp

RAGGED = [((13, 10), (4, 4), 1), ((7, 36), (3, 4), 4)]
SCHEDULES = [
    ConstantSparsity(0.7, 2),
    GradualSparsity(0.9, 1, 30, frequency=4, initial_sparsity=0.1, power=2),
    HardThreshold(0.25, 3),
    IterativePruning([0.1, 0.5, 0.7], 2, 3),
    ThresholdRamp(1, 2, 9, 0.5, 0.25, frequency=4),
    ThresholdRamp(1, 2, 9, 0.5, 0.25, frequency=4, target_sparsity=0.6),
]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def run(constraint, weights):
    """Feeds one matrix a step to a constraint, in a graph as training does; yields step, its output and its mask."""
    apply = tf.function(lambda w: constraint(w))
    for step, w in enumerate(weights, start=1):
        out = np.asarray(apply(tf.constant(w)))
        yield step, out, np.asarray(constraint.block_mask)


def updates(schedule, steps=60):
    return [t for t in range(1, steps) if is_update_step(schedule, t)]


def blocks_of(shape, block, gates):
    """Slices of every block in a matrix, row by row: plain loops."""
    width = shape[1] // gates
    rows = [slice(r, min(r + block[0], shape[0])) for r in range(0, shape[0], block[0])]
    lefts = [(g * width + c, (g + 1) * width) for g in range(gates) for c in range(0, width, block[1])]
    return [[(r, slice(c, min(c + block[1], end))) for c, end in lefts] for r in rows]


def oracle_scores(w, block, gates):
    return np.array([[np.abs(w[b]).max() for b in row] for row in blocks_of(w.shape, block, gates)], "float64")


def oracle_output(w, kept, block, gates):
    out = w.copy()
    for row, row_kept in zip(blocks_of(w.shape, block, gates), kept, strict=True):
        for b, stays in zip(row, row_kept, strict=True):
            out[b] = out[b] if stays else 0
    return out


def oracle_drop(scores, kept, sparsity):
    """Drops the lowest scores until the share is gone: one block after the other."""
    kept = kept.copy()
    order = sorted(np.ndindex(*scores.shape), key=lambda i: (kept[i], scores[i], i))
    for i in order[: min(round(sparsity * scores.size), scores.size - 1)]:
        kept[i] = False
    return kept


def paper_threshold(t, begin, ramp, end, theta, phi, freq):
    """[BSR] 3.1, in float64."""
    if t < begin:
        return 0.0
    t = min(t, end)
    if t < ramp:
        return theta * (t - begin + 1) / freq
    return (theta * (ramp - begin + 1) + phi * (t - ramp + 1)) / freq


def check_against_oracle(schedule, steps, rule, shape, block, gates):
    """Masks and outputs of a constraint over 15 steps are those of `rule(step, scores, kept)` at the `steps`."""
    rng = np.random.default_rng(0)
    weights = (np.round(2 * rng.standard_normal((15, *shape))) / 8).astype("float32")  # few values, so many ties
    constraint = BlockPruningConstraint(schedule, block, gates)
    kept = True
    for step, out, mask in run(constraint, weights):
        w = weights[step - 1]
        kept = kept & np.ones_like(mask)
        if step in steps:
            kept = rule(step, oracle_scores(w, block, gates), kept)
        np.testing.assert_array_equal(mask, kept)
        np.testing.assert_array_equal(out, oracle_output(w, kept, block, gates))
    assert 0.1 < kept.mean() < 0.9


class TestThresholdRamp:
    # Blocks of one element: the weight pruning of Narang et al., 2017, that [BSR] extends.
    @pytest.mark.parametrize(
        "shape,block,gates,theta", [(*RAGGED[0], 0.05), (*RAGGED[1], 0.05), ((6, 9), (1, 1), 1, 0.002)]
    )
    def test_mask_for_mask_like_the_papers_algorithm(self, shape, block, gates, theta):
        hyper = dict(begin=10, ramp=60, end=150, theta=theta, phi=1.5 * theta, freq=7)
        schedule = ThresholdRamp(10, 60, 150, theta, 1.5 * theta, frequency=7)
        constraint = BlockPruningConstraint(schedule, block, gates)
        rng = np.random.default_rng(0)
        weights = rng.standard_normal((200, *shape)).astype("float32")
        kept = None
        for step, out, mask in run(constraint, weights):
            scores = oracle_scores(weights[step - 1], block, gates)
            kept = np.ones_like(mask) if kept is None else kept
            if 10 <= step < 150 and (step - 10) % 7 == 0:
                kept = kept & (scores >= paper_threshold(step, **hyper))
            np.testing.assert_array_equal(mask, kept)
            np.testing.assert_array_equal(out, oracle_output(weights[step - 1], kept, block, gates))
        assert 0.1 < 1 - kept.mean() < 1.0

    def test_threshold_is_the_papers(self):
        schedule = ThresholdRamp(100, 500, 1000, 2e-3, 3e-3, frequency=50)
        for t in (0, 99, 100, 300, 499, 500, 501, 999, 1000, 5000):
            expected = paper_threshold(t, 100, 500, 1000, 2e-3, 3e-3, 50)
            np.testing.assert_allclose(float(schedule.threshold(t)), expected, rtol=1e-5)

    def test_heuristics_of_table_1_and_equations_1_and_2(self):
        layer = keras.layers.Dense(50)
        layer.build((None, 40))
        # The paper's run: 25 epochs, pruning begins after the first epoch, at 2700 iterations (appendix B.1).
        ramp = ThresholdRamp.for_model(layer, 0.9, (4, 4), epochs=25, steps_per_epoch=2700)
        assert (ramp.begin_step, ramp.ramp_step, ramp.end_step) == (2700, 13500, 27000)
        assert ramp.frequency == 100
        q = np.quantile(np.abs(np.asarray(layer.kernel)), 0.9)
        theta_w = 2 * q * 100 / (2 * (13500 - 2700) + 3 * (27000 - 13500))
        np.testing.assert_allclose(ramp.start_slope, theta_w * 16**0.25, rtol=1e-6)
        np.testing.assert_allclose(ramp.ramp_slope, 1.5 * ramp.start_slope)
        one = ThresholdRamp.for_model(layer, 0.9, (1, 1), epochs=25, steps_per_epoch=2700)
        # Equation 1 is made so that the threshold ends at q.
        np.testing.assert_allclose(float(one.threshold(one.end_step)), q, rtol=1e-3)

    def test_kinds_and_overrides(self):
        model = keras.Sequential([keras.Input((5, 8)), keras.layers.LSTM(12), keras.layers.Dense(9)])
        model.layers[0].cell.recurrent_kernel.assign(0.01 * np.ones((12, 48)))
        settings = dict(epochs=10, steps_per_epoch=100, target_sparsity=0.5, block_shape=1)
        recurrent = ThresholdRamp.for_model(model, kind="recurrent", **settings)
        linear = ThresholdRamp.for_model(model, kind="linear", **settings)
        np.testing.assert_allclose(float(recurrent.threshold(400)), 0.01, rtol=0.02)
        assert linear.start_slope > 5 * recurrent.start_slope
        given = ThresholdRamp.for_model(model, begin_step=3, end_step=90, ramp_step=40, ramp_slope=7.0, **settings)
        assert (given.begin_step, given.ramp_step, given.end_step) == (3, 40, 90)
        assert given.ramp_slope == 7.0

    @pytest.mark.parametrize(
        "arguments,message",
        [
            (dict(begin_step=20, ramp_step=10, end_step=40), "begin_step <= ramp_step"),
            (dict(begin_step=20, ramp_step=30, end_step=10), "end_step.*after"),
            (dict(begin_step=0, ramp_step=0, end_step=None), "`end_step`.*whole number"),
            (dict(begin_step=0, ramp_step=5, end_step=10, start_slope=0), "must rise"),
            (dict(begin_step=0, ramp_step=5, end_step=10, ramp_slope=-1), "must rise"),
            (dict(begin_step=0, ramp_step=5, end_step=10, target_sparsity=1.0), "fraction"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ThresholdRamp(**{"start_slope": 0.1, "ramp_slope": 0.1, **arguments})

    def test_without_a_target_a_matrix_can_lose_all_blocks(self):
        constraint = BlockPruningConstraint(ThresholdRamp(0, 1, 3, 9.0, 9.0, frequency=1), 2)
        *_, (_, _, mask) = run(constraint, np.ones((3, 4, 4), "float32"))
        assert not mask.any()

    @pytest.mark.parametrize("shape,block,gates", RAGGED)
    @pytest.mark.parametrize("slope", [0.02, 0.2, 5.0])  # the threshold stays too low, is about right, is too high
    def test_with_a_target(self, shape, block, gates, slope):
        schedule = ThresholdRamp(2, 5, 12, slope, 1.5 * slope, frequency=4, target_sparsity=0.6)
        assert updates(schedule) == [2, 6, 10, 12]

        def rule(step, scores, kept):
            at_target = oracle_drop(scores, kept, 0.6)
            above = kept & (scores >= paper_threshold(step, 2, 5, 12, slope, 1.5 * slope, 4))
            return at_target if step == 12 else at_target | above

        check_against_oracle(schedule, [2, 6, 10, 12], rule, shape, block, gates)

    def test_for_model_passes_the_target_on(self):
        layer = keras.layers.Dense(50)
        layer.build((None, 40))
        settings = dict(target_sparsity=0.9, block_shape=4, epochs=10, steps_per_epoch=100)
        assert ThresholdRamp.for_model(layer, **settings).target_sparsity is None
        ramp = ThresholdRamp.for_model(layer, hit_target=True, **settings)
        assert ramp.target_sparsity == 0.9
        assert ramp.start_slope == ThresholdRamp.for_model(layer, **settings).start_slope

    def test_short_runs_need_their_own_steps(self):
        layer = keras.layers.Dense(5)
        layer.build((None, 4))
        with pytest.raises(ValueError, match="meant for 5 epochs or more"):
            ThresholdRamp.for_model(layer, 0.9, 4, epochs=3, steps_per_epoch=10)
        with pytest.raises(ValueError, match="No built, prunable weight"):
            ThresholdRamp.for_model(keras.layers.Dense(5), 0.9, 4, epochs=10, steps_per_epoch=10)


class TestGradualSparsity:
    @pytest.mark.parametrize("shape,block,gates", RAGGED)
    @pytest.mark.parametrize("frequency,steps", [(3, [2, 5, 8, 11, 12]), (100, [2, 12])])
    def test_block_for_block_like_the_papers_algorithm(self, shape, block, gates, frequency, steps):
        def rule(step, scores, kept):
            return oracle_drop(scores, kept, 0.8 + (0.1 - 0.8) * ((12 - step) / 10) ** 3)

        schedule = GradualSparsity(0.8, 2, 12, frequency, initial_sparsity=0.1)
        assert updates(schedule) == steps
        check_against_oracle(schedule, steps, rule, shape, block, gates)

    def test_ties_drop_exactly_as_many(self):
        constraint = BlockPruningConstraint(GradualSparsity(0.7, 0, 4, 1), 1)
        *_, (_, _, mask) = run(constraint, np.ones((4, 5, 9), "float32"))
        assert (~mask).sum() == round(0.7 * 45)

    def test_drops_the_lowest_scores(self):
        w = np.arange(1, 17, dtype="float32").reshape(4, 4)
        constraint = BlockPruningConstraint(GradualSparsity(0.5, 0, 1), 2)
        *_, (_, out, _) = run(constraint, [w])
        np.testing.assert_array_equal(out[:2], 0)
        np.testing.assert_array_equal(out[2:], w[2:])

    def test_curve_is_cubic(self):
        schedule = GradualSparsity(0.9, 100, 500, initial_sparsity=0.1)
        for t in (0, 100, 200, 333, 500, 900):
            left = 1 - np.clip((t - 100) / 400, 0, 1)
            np.testing.assert_allclose(float(schedule.sparsity(t)), 0.9 + (0.1 - 0.9) * left**3)

    def test_prunes_at_the_first_step_when_it_begins_at_0(self):
        schedule = GradualSparsity(0.9, 0, 100, frequency=40, initial_sparsity=0.5)
        assert [t for t in range(1, 110) if schedule.should_prune(t)] == [1, 40, 80, 100]

    @pytest.mark.parametrize("bad", [1.0, 90, -0.1, float("nan")])
    def test_sparsities_are_fractions(self, bad):
        with pytest.raises(ValueError, match="fraction"):
            GradualSparsity(bad, 0, 10)

    def test_percent_gets_a_hint(self):
        with pytest.raises(ValueError, match=r"Did you mean 0\.9\?"):
            GradualSparsity(90, 0, 10)

    @pytest.mark.parametrize(
        "arguments,message",
        [
            (dict(begin_step=10, end_step=5), "must be after `begin_step`"),
            (dict(begin_step=-1, end_step=5), "whole number of steps"),
            (dict(begin_step=0.5, end_step=5), "whole number of steps"),
            (dict(begin_step=0, end_step=5, frequency=0), "`frequency`.*at least 1"),
            (dict(begin_step=0, end_step=None), "`end_step`.*whole number"),
            (dict(begin_step=0, end_step=5, power=0), "power"),
            (dict(begin_step=0, end_step=5, initial_sparsity=0.95), "do not come back"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GradualSparsity(0.9, **arguments)


class TestConstantSparsity:
    @pytest.mark.parametrize("shape,block,gates", RAGGED)
    @pytest.mark.parametrize("begin,step", [(0, 1), (4, 4)])
    def test_drops_once(self, shape, block, gates, begin, step):
        schedule = ConstantSparsity(0.7, begin)
        assert updates(schedule) == [step]
        assert (schedule.begin_step, schedule.end_step) == (begin, step)
        check_against_oracle(schedule, [step], lambda _, *state: oracle_drop(*state, 0.7), shape, block, gates)

    def test_sparsity(self):
        schedule = ConstantSparsity(0.7, 4)
        assert [float(schedule.sparsity(t)) for t in (0, 3, 4, 5)] == [0.0, 0.0, 0.7, 0.7]

    @pytest.mark.parametrize(
        "arguments,message",
        [((70,), r"Did you mean 0\.7\?"), ((0.7, -1), "whole number"), ((0.7, None), "whole number")],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ConstantSparsity(*arguments)


class TestHardThreshold:
    @pytest.mark.parametrize("shape,block,gates", RAGGED)
    @pytest.mark.parametrize("begin,step", [(0, 1), (3, 3)])
    def test_drops_once(self, shape, block, gates, begin, step):
        schedule = HardThreshold(0.625, begin)
        assert updates(schedule) == [step]
        assert (schedule.begin_step, schedule.end_step) == (begin, step)
        rule = lambda _, scores, kept: kept & (scores >= 0.625)  # noqa: E731  a score that equals it stays
        check_against_oracle(schedule, [step], rule, shape, block, gates)

    @pytest.mark.parametrize("score", ["max", "mean", "l2"])
    def test_for_model_finds_the_quantile_of_all_blocks(self, score):
        model = keras.Sequential([keras.Input((5, 7)), keras.layers.GRU(6), keras.layers.Dense(9)])
        cell, dense = model.layers[0].cell, model.layers[1]
        scores = [
            BlockGrid(w.shape, (4, 3), gates).scores(w, score)
            for w, gates in ((cell.kernel, 3), (cell.recurrent_kernel, 3), (dense.kernel, 1))
        ]
        assert sum(s.shape[0] * s.shape[1] for s in scores) == 30
        for target in (0.0, 0.33, 0.9, 0.999):
            schedule = HardThreshold.for_model(model, target, (4, 3), begin_step=2, score=score)
            kept = [np.asarray(schedule.keep(s, np.ones(s.shape, bool), step=2)) for s in scores]
            assert sum((~k).sum() for k in kept) == min(round(target * 30), 29)
            assert schedule.begin_step == 2

    def test_for_model_looks_at_one_kind(self):
        model = keras.Sequential([keras.Input((5, 8)), keras.layers.LSTM(12), keras.layers.Dense(9)])
        model.layers[0].cell.recurrent_kernel.assign(0.01 * np.ones((12, 48)))
        recurrent = HardThreshold.for_model(model, 0.5, 4, kind="recurrent")
        np.testing.assert_allclose(recurrent.threshold, 0.01, rtol=1e-6)
        assert HardThreshold.for_model(model, 0.5, 4, kind="linear").threshold > 0.1
        with pytest.raises(ValueError, match="No built, prunable weight of kind embedding"):
            HardThreshold.for_model(model, 0.5, 4, kind="embedding")
        with pytest.raises(ValueError, match="fraction"):
            HardThreshold.for_model(model, 1.0, 4)

    @pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
    def test_bad_thresholds(self, bad):
        with pytest.raises(ValueError, match="at least 0"):
            HardThreshold(bad)


class TestIterativePruning:
    @pytest.mark.parametrize("shape,block,gates", RAGGED)
    @pytest.mark.parametrize("begin,retrain,steps", [(0, 5, [1, 5, 10]), (2, 4, [2, 6, 10])])
    def test_prunes_in_rounds(self, shape, block, gates, begin, retrain, steps):
        sparsities = [0.2, 0.5, 0.75]
        schedule = IterativePruning(sparsities, begin, retrain)
        assert updates(schedule) == steps
        assert schedule.end_step == 10

        def rule(step, scores, kept):
            return oracle_drop(scores, kept, sparsities[steps.index(step)])

        check_against_oracle(schedule, steps, rule, shape, block, gates)

    @pytest.mark.parametrize("begin,retrain,steps", [(0, 9, [1]), (4, 9, [4])])
    def test_one_round(self, begin, retrain, steps):
        schedule = IterativePruning([0.5], begin, retrain)
        assert updates(schedule) == steps == [schedule.end_step]

    def test_sparsity(self):
        schedule = IterativePruning([0.2, 0.5, 0.7], 10, 100)
        steps = (0, 9, 10, 109, 110, 209, 210, 9999)
        assert [float(schedule.sparsity(t)) for t in steps] == [0.0, 0.0, 0.2, 0.2, 0.5, 0.5, 0.7, 0.7]

    def test_to_target_drops_the_same_share_of_what_is_left(self):
        schedule = IterativePruning.to_target(0.9, rounds=4, begin_step=5, retrain_steps=50)
        density = 1 - np.array([0.0, *schedule.sparsities])
        np.testing.assert_allclose(density[1:] / density[:-1], 0.1**0.25)
        assert schedule.sparsities[-1] == 0.9
        assert (schedule.begin_step, schedule.end_step) == (5, 155)

    @pytest.mark.parametrize(
        "arguments,message",
        [
            (([], 0, 5), "must list the sparsity"),
            ((0.9, 0, 5), "must list the sparsity"),
            (([0.5, 0.5], 0, 5), "must increase"),
            (([0.5, 0.2], 0, 5), "must increase"),
            (([0.5, 1.0], 0, 5), r"`sparsities\[1\]` is a fraction"),
            (([0.5, 90], 0, 5), r"Did you mean 0\.9\?"),
            (([0.5], 0, 0), "`retrain_steps`.*at least 1"),
            (([0.5], -1, 5), "`begin_step`.*at least 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            IterativePruning(*arguments)

    def test_to_target_needs_a_round(self):
        with pytest.raises(ValueError, match="`rounds`.*at least 1"):
            IterativePruning.to_target(0.9, 0, 0, 10)


@st.composite
def targeted_schedules(draw):
    """A schedule that has a target, and the target."""
    target = draw(st.floats(0.0, 0.999))
    begin, length, frequency = draw(st.integers(0, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from([ConstantSparsity, GradualSparsity, IterativePruning, ThresholdRamp]))
    if kind is ConstantSparsity:
        return ConstantSparsity(target, begin), target
    if kind is GradualSparsity:
        return GradualSparsity(target, begin, begin + length, frequency), target
    if kind is IterativePruning:
        rounds = draw(st.integers(1, 3)) if target > 1e-6 else 1
        return IterativePruning.to_target(target, rounds, begin, min(frequency, 3)), target
    slope = draw(st.sampled_from([0.01, 1.0, 10.0]))
    ramp = draw(st.integers(begin, begin + length))
    return ThresholdRamp(begin, ramp, begin + length, slope, slope, frequency, target_sparsity=target), target


@settings(max_examples=60, deadline=None)
@given(
    schedule_and_target=targeted_schedules(),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    block_shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    levels=st.integers(1, 5),  # 1: all blocks tie
    seed=st.integers(0, 999),
)
def test_targets_are_reached_to_one_block(schedule_and_target, shape, block_shape, levels, seed):
    schedule, target = schedule_and_target
    grid, rng = BlockGrid(shape, block_shape), np.random.default_rng(seed)
    mask = np.ones(grid.mask_shape, bool)
    dropped = min(round(target * grid.num_blocks), grid.num_blocks - 1)
    for step in range(1, schedule.end_step + 4):
        if is_update_step(schedule, step):
            scores = grid.scores(rng.integers(0, levels, shape).astype("float32"))
            new = np.asarray(updated_mask(schedule, scores, mask, step))
            assert not (new & ~mask).any(), "a block came back"
            mask = new
        assert step >= schedule.begin_step or mask.all()
        assert (~mask).sum() <= dropped
        assert step < schedule.end_step or (~mask).sum() == dropped


class TestLastBlock:
    @pytest.mark.parametrize(
        "schedule",
        [
            ConstantSparsity(0.99),
            GradualSparsity(0.99, 0, 3),
            IterativePruning([0.5, 0.99], 0, 2),
            ThresholdRamp(0, 1, 3, 9.0, 9.0, target_sparsity=0.99),
            tfmot.sparsity.keras.ConstantSparsity(0.99, 1, frequency=1),
        ],
        ids=lambda s: type(s).__name__,
    )
    @pytest.mark.parametrize("num_blocks", [1, 3])
    def test_stays(self, schedule, num_blocks):
        scores, mask = np.arange(num_blocks, dtype="float32")[None], np.ones((1, num_blocks), bool)
        for step in range(1, 5):
            if is_update_step(schedule, step):
                mask = np.asarray(updated_mask(schedule, scores, mask, step))
        np.testing.assert_array_equal(mask, [[False] * (num_blocks - 1) + [True]])


class TestInEpochs:
    def test_each_schedule(self):
        made = {
            ConstantSparsity.in_epochs(0.7, begin_epoch=1, steps_per_epoch=20): ConstantSparsity(0.7, 20),
            GradualSparsity.in_epochs(0.9, begin_epoch=0, end_epoch=2.5, frequency=7, steps_per_epoch=10): (
                GradualSparsity(0.9, 0, 25, frequency=7)
            ),
            HardThreshold.in_epochs(threshold=0.1, begin_epoch=0.26, steps_per_epoch=10): HardThreshold(0.1, 3),
            IterativePruning.in_epochs([0.5, 0.9], begin_epoch=1, retrain_epochs=1.5, steps_per_epoch=10): (
                IterativePruning([0.5, 0.9], 10, 15)
            ),
            ThresholdRamp.in_epochs(
                begin_epoch=1, ramp_epoch=5, end_epoch=10, start_slope=0.1, ramp_slope=0.2, steps_per_epoch=100
            ): ThresholdRamp(100, 500, 1000, 0.1, 0.2),
        }
        for schedule, expected in made.items():
            assert type(schedule) is type(expected)
            assert schedule.get_config() == expected.get_config()

    def test_steps_may_be_mixed_in(self):
        schedule = GradualSparsity.in_epochs(0.9, begin_step=7, end_epoch=3, steps_per_epoch=10)
        assert (schedule.begin_step, schedule.end_step) == (7, 30)

    @pytest.mark.parametrize(
        "arguments,error,message",
        [
            (dict(begin_epoch=0, end_epoch=1, steps_per_epoch=0), ValueError, "`steps_per_epoch`.*at least 1"),
            (dict(begin_epoch=0, end_epoch=1, steps_per_epoch=9.5), ValueError, "`steps_per_epoch`.*whole number"),
            (dict(begin_epoch=-1, end_epoch=1, steps_per_epoch=9), ValueError, "`begin_epoch`.*at least 0"),
            (dict(begin_epoch=float("nan"), end_epoch=1, steps_per_epoch=9), ValueError, "`begin_epoch`.*number"),
            (dict(begin_epoch=None, end_epoch=1, steps_per_epoch=9), ValueError, "`begin_epoch`.*number"),
            (dict(begin_epoch=1, end_epoch=1, steps_per_epoch=9), ValueError, "`end_step` must be after"),
            (dict(begin_epoch=0, stop_epoch=1, steps_per_epoch=9), TypeError, "end_epoch.*Received: stop_epoch"),
            (dict(begin_epoch=0, end_epoch=1, ramp=1, steps_per_epoch=9), TypeError, "Received: ramp"),
            (dict(begin_epoch=0, begin_step=0, end_epoch=1, steps_per_epoch=9), TypeError, "`begin_step`, not both"),
        ],
    )
    def test_bad_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            GradualSparsity.in_epochs(0.9, **arguments)

    def test_steps_without_a_name_are_ambiguous(self):
        with pytest.raises(TypeError, match="`begin_epoch=` or `begin_step=`"):
            GradualSparsity.in_epochs(0.9, 1, 2, steps_per_epoch=10)


class TestTfmotsSchedules:
    def test_reach_their_target_whatever_the_frequency(self):
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.6, 5, 32, frequency=10)
        assert updates(schedule) == [5, 15, 25, 32]
        mask = np.ones((5, 5), bool)
        for step in updates(schedule):
            mask = np.asarray(updated_mask(schedule, np.ones((5, 5), "float32"), mask, step))
        assert (~mask).sum() == 15

    def test_may_have_no_end(self):
        assert updates(tfmot.sparsity.keras.ConstantSparsity(0.5, 3, frequency=20)) == [3, 23, 43]
        assert updates(tfmot.sparsity.keras.ConstantSparsity(0.5, 3, 30, frequency=20)) == [3, 23, 30]

    def test_of_the_users_own(self):
        class Every7(tfmot.sparsity.keras.PruningSchedule):
            def __call__(self, step):
                return tf.equal(step % 7, 0), tf.constant(0.5)

            def get_config(self):
                return {}

        assert updates(Every7(), 20) == [7, 14]

    def test_is_update_step_in_a_graph(self):
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.6, 5, 32, frequency=10)
        graph = tf.function(lambda step: is_update_step(schedule, step))
        assert [t for t in range(40) if graph(tf.constant(t, "int64"))] == [5, 15, 25, 32]

    def test_work_in_a_constraint(self):
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.6, 0, 30, frequency=10)
        constraint = BlockPruningConstraint(schedule, 2)
        w = np.random.default_rng(0).standard_normal((30, 10, 10)).astype("float32")
        *_, (_, _, mask) = run(constraint, w)
        assert (~mask).sum() == 15
        copy = BlockPruningConstraint.from_config(constraint.get_config())
        assert copy.schedule.get_config() == schedule.get_config()

    def test_are_not_mixed_up_with_ours_of_the_same_name(self):
        for schedule in (ConstantSparsity(0.5, 3), tfmot.sparsity.keras.ConstantSparsity(0.5, 3)):
            copy = deserialize_schedule(serialize_schedule(schedule))
            assert type(copy) is type(schedule)
            assert copy.get_config() == schedule.get_config()


@each_schedule
def test_schedules_are_tfmots_and_serialise(schedule):
    assert isinstance(schedule, tfmot.sparsity.keras.PruningSchedule)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()
    for name in inspect.signature(type(schedule)).parameters:
        assert schedule.get_config()[name] == getattr(schedule, name)


@each_schedule
def test_every_schedule_says_when_it_runs(schedule):
    steps = updates(schedule)
    assert steps[0] == schedule.begin_step
    assert steps[-1] <= schedule.end_step
    assert (steps[-1] == schedule.end_step) == schedule.updates_at_end
    assert [bool(schedule(t)[0]) for t in range(1, 60)] == [t in steps for t in range(1, 60)]


@each_schedule
def test_schedules_compile(schedule):
    @tf.function(jit_compile=True)
    def compiled(scores, mask, step):
        return is_update_step(schedule, step), updated_mask(schedule, scores, mask, step)

    rng = np.random.default_rng(0)
    for step in (1, 3, schedule.end_step):
        scores, mask = rng.integers(0, 4, (4, 6)) / 4, rng.random((4, 6)) < 0.9
        state = (tf.constant(scores, "float32"), tf.constant(mask), tf.constant(step, "int64"))
        update, new = compiled(*state)
        assert bool(update) == bool(is_update_step(schedule, step))
        np.testing.assert_array_equal(new, updated_mask(schedule, *state))


def test_the_tests_know_all_schedules():
    classes = [*BlockPruningSchedule.__subclasses__(), *SparsitySchedule.__subclasses__()]
    ours = {cls for cls in classes if cls.__module__.startswith("tf_blocksparse")} - {SparsitySchedule}
    assert {type(schedule) for schedule in SCHEDULES} == ours, "add the new schedule to SCHEDULES"


def test_no_schedule_is_an_error():
    with pytest.raises(TypeError, match="GradualSparsity"):
        BlockPruningConstraint(0.5, 4)


def test_one_constraint_cannot_serve_two_weights():
    constraint = BlockPruningConstraint(GradualSparsity(0.5, 0, 4), 2)
    constraint(keras.Variable(np.ones((4, 4), "float32")))
    with pytest.raises(ValueError, match="instead of sharing"):
        constraint(keras.Variable(np.ones((4, 6), "float32")))
