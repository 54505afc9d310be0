import keras
import numpy as np
import pytest

from tf_blocksparse import GradualSparsity, ThresholdRamp
from tf_blocksparse.pruning import BlockPruningConstraint
from tf_blocksparse.pruning.tfmot import tfmot


def run(constraint, weights):
    """Feeds one matrix a step to a constraint; yields step, its output and its mask."""
    for step, w in enumerate(weights, start=1):
        out = np.asarray(constraint(keras.Variable(w)))
        yield step, out, np.asarray(constraint.block_mask)


def paper_threshold(t, begin, ramp, end, theta, phi, freq):
    """[BSR] 3.1, in float64."""
    if t < begin:
        return 0.0
    t = min(t, end)
    if t < ramp:
        return theta * (t - begin + 1) / freq
    return (theta * (ramp - begin + 1) + phi * (t - ramp + 1)) / freq


class TestThresholdRamp:
    @pytest.mark.parametrize("shape,block,gates", [((13, 10), (4, 4), 1), ((7, 36), (3, 4), 4)])
    def test_mask_for_mask_like_the_papers_algorithm(self, shape, block, gates):
        hyper = dict(begin=10, ramp=60, end=150, theta=0.05, phi=0.075, freq=7)
        schedule = ThresholdRamp(10, 60, 150, 0.05, 0.075, frequency=7)
        constraint = BlockPruningConstraint(schedule, block, gates)
        rng = np.random.default_rng(0)
        weights = rng.standard_normal((200, *shape)).astype("float32")
        kept = None
        for step, out, mask in run(constraint, weights):
            scores = np.asarray(constraint.grid.scores(weights[step - 1])).astype("float64")
            kept = np.ones_like(mask) if kept is None else kept
            if 10 <= step < 150 and (step - 10) % 7 == 0:
                kept = kept & (scores >= paper_threshold(step, **hyper))
            np.testing.assert_array_equal(mask, kept)
            expected = np.where(np.asarray(constraint.grid.expand(kept)), weights[step - 1], 0)
            np.testing.assert_array_equal(out, expected)
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
            (dict(begin_step=0, ramp_step=5, end_step=10, start_slope=0), "must rise"),
            (dict(begin_step=0, ramp_step=5, end_step=10, ramp_slope=-1), "must rise"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ThresholdRamp(**{"start_slope": 0.1, "ramp_slope": 0.1, **arguments})

    def test_short_runs_need_their_own_steps(self):
        layer = keras.layers.Dense(5)
        layer.build((None, 4))
        with pytest.raises(ValueError, match="meant for 5 epochs or more"):
            ThresholdRamp.for_model(layer, 0.9, 4, epochs=3, steps_per_epoch=10)
        with pytest.raises(ValueError, match="No built, prunable weight"):
            ThresholdRamp.for_model(keras.layers.Dense(5), 0.9, 4, epochs=10, steps_per_epoch=10)


class TestGradualSparsity:
    @pytest.mark.parametrize("frequency", [1, 3, 7, 100])
    @pytest.mark.parametrize("begin,end", [(0, 20), (5, 23), (0, 1)])
    @pytest.mark.parametrize("target", [0.0, 0.35, 0.7, 0.9, 0.99])
    def test_target_is_reached_to_one_block(self, frequency, begin, end, target):
        schedule = GradualSparsity(target, begin, end, frequency)
        constraint = BlockPruningConstraint(schedule, (4, 2))
        w = np.random.default_rng(0).standard_normal((end, 13, 9)).astype("float32")
        last = np.ones((4, 5), bool)
        for _, out, mask in run(constraint, w):
            assert not (mask & ~last).any(), "a block came back"
            np.testing.assert_array_equal(out[~np.asarray(constraint.grid.expand(mask))], 0)
            last = mask
        assert (~last).sum() == round(target * 20)

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
            (dict(begin_step=0, end_step=5, frequency=0), "at least 1 step"),
            (dict(begin_step=0, end_step=5, power=0), "power"),
            (dict(begin_step=0, end_step=5, initial_sparsity=0.95), "do not come back"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GradualSparsity(0.9, **arguments)


@pytest.mark.parametrize(
    "schedule",
    [
        ThresholdRamp(1, 2, 3, 0.5, 0.25, frequency=4),
        GradualSparsity(0.9, 1, 30, frequency=4, initial_sparsity=0.1, power=2),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedules_are_tfmots_and_serialise(schedule):
    assert isinstance(schedule, tfmot.sparsity.keras.PruningSchedule)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()


def test_tfmots_own_schedules_work():
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.6, 0, 30, frequency=10)
    constraint = BlockPruningConstraint(schedule, 2)
    w = np.random.default_rng(0).standard_normal((30, 10, 10)).astype("float32")
    *_, (_, _, mask) = run(constraint, w)
    assert (~mask).sum() == 15
    copy = BlockPruningConstraint.from_config(constraint.get_config())
    assert copy.schedule.get_config() == schedule.get_config()


def test_no_schedule_is_an_error():
    with pytest.raises(TypeError, match="GradualSparsity"):
        BlockPruningConstraint(0.5, 4)


def test_one_constraint_cannot_serve_two_weights():
    constraint = BlockPruningConstraint(GradualSparsity(0.5, 0, 4), 2)
    constraint(keras.Variable(np.ones((4, 4), "float32")))
    with pytest.raises(ValueError, match="instead of sharing"):
        constraint(keras.Variable(np.ones((4, 6), "float32")))
