import dataclasses
import json
import shlex

import keras
import numpy as np
import pytest

import tf_blocksparse as bs
from killed_runs import epochs_begun, killed_in_epoch
from models import digit_data, dynamic_lm, mnist, mobilenet, speech_network, sweep, sweep_figures, word_lm
from models.sweep_grid import command, grid, parse
from models.sweep_methods import METHODS, prune, steps_of
from models.sweep_tables import Table, read
from models.threshold_ramps import Steps
from speech_cases import tiny_preset, write_tree

CUT = {"units": 16, "batch_size": 4, "num_steps": 5, "epochs": 3, "full_rate_epochs": 3, "cut": (30, 600)}
GRID = ["--methods", "bp", "agp", "small_dense", "--sparsities", "0.75", "--block-shapes", "4", "--set", "epochs=2"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A text in which each word says what follows, and presets so small that they learn it in seconds."""
    monkeypatch.setitem(word_lm.PRESETS, "cut", dataclasses.replace(word_lm.PRESETS["cut"], **CUT))
    rng = np.random.default_rng(0)
    directory = tmp_path / "text"
    directory.mkdir()
    for split, lines in (("train", 100), ("valid", 30)):
        starts = rng.integers(0, 20, lines)
        rows = [" ".join(f"w{(s + i) % 20}" for i in range(8)) for s in starts]
        (directory / f"tiny.{split}.txt").write_text("\n".join(rows) + "\n")
    return directory


def swept(data, out, *arguments):
    sweep.main(["--data", str(data), "--out", str(out), *arguments])
    return {row["run"]: row for row in read(out / "results.csv")}


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "train_seconds"} for row in rows]


def test_rows_say_what_was_trained(data, tmp_path):
    rows = swept(data, tmp_path / "out", *GRID)
    assert list(rows) == ["dense-seed0", "bp-0.75-4x4-seed0", "agp-0.75-1x1-seed0", "small_dense-0.75-seed0"]
    dense = rows["dense-seed0"]
    model = word_lm.language_model(21, word_lm.PRESETS["cut"])
    assert int(dense["parameters"]) == int(dense["live_parameters"]) == model.count_params()
    assert (dense["comput"], dense["sparsity"], dense["units"]) == ("1.0", "0.0", "16")
    assert float(dense["train_seconds"]) > 0
    assert "--set epochs=2 " in dense["command"]
    elements = sum(np.prod(weight.shape) for weight in model.weights if weight.name != "bias")
    for run in ("bp-0.75-4x4-seed0", "agp-0.75-1x1-seed0"):
        row = rows[run]
        assert float(row["sparsity"]) == pytest.approx(0.75, abs=0.03)
        left = model.count_params() - float(row["sparsity"]) * elements
        assert int(row["live_parameters"]) == pytest.approx(left, abs=0.01 * elements)
        assert float(row["comput"]) == pytest.approx(0.25, abs=0.08)
        assert 1 < float(row["perplexity_valid"]) < 25
    small = rows["small_dense-0.75-seed0"]  # as many parameters as are left of a pruned model, and no more
    wanted = model.count_params() - 0.75 * elements
    preset = dataclasses.replace(word_lm.PRESETS["cut"], units=int(small["units"]) + 1)
    assert int(small["parameters"]) <= wanted < word_lm.language_model(21, preset).count_params()
    curves = [r for r in read(tmp_path / "out" / "curves.csv") if r["run"] == "agp-0.75-1x1-seed0"]
    kernel = [float(r["sparsity"]) for r in curves if r["weight"] == "lstm_1/kernel"]
    assert kernel == sorted(kernel) and kernel[-1] == pytest.approx(0.75, abs=1e-3)


def test_a_sweep_that_was_killed_ends_as_one_that_was_not(data, tmp_path):
    arguments = ["--methods", "dense", "bp", "--sparsities", "0.75", "--block-shapes", "4"]
    swept(data, tmp_path / "whole", *arguments)
    with killed_in_epoch(2, training=2):
        swept(data, tmp_path / "halves", *arguments)
    assert [row["run"] for row in read(tmp_path / "halves" / "results.csv")] == ["dense-seed0"]
    with epochs_begun() as epochs:
        swept(data, tmp_path / "halves", *arguments)
    assert epochs == [2]  # the rest of the second run
    for table in ("results", "curves", "layers", "connections"):
        whole, halves = (without_times(read(tmp_path / name / f"{table}.csv")) for name in ("whole", "halves"))
        assert whole == halves, table
    assert not list((tmp_path / "halves").rglob("*backup*"))
    with epochs_begun() as epochs:
        swept(data, tmp_path / "halves", *arguments)
    assert epochs == []


# What is in the loss while the schedule has not begun, while it runs, and after it.
PENALTIES = {
    "bp": (0, 0, 0), "wp": (0, 0, 0), "agp": (0, 0, 0), "block_agp": (0, 0, 0), "glp": (0, 1, 0),
    "l1_wp": (0, 1, 0), "l_half_wp": (0, 1, 0), "group_lasso": (1, 1, 1), "l1": (1, 1, 1), "l_half": (1, 1, 1),
}  # fmt: skip


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, use_bias=False, name="a"), keras.layers.Dense(16, use_bias=False, name="b")]
    return keras.Sequential([keras.Input((16,)), *layers])


@pytest.mark.parametrize("name", PENALTIES)
def test_methods_reach_the_target_and_press_when_they_should(name):
    method, steps, shape = METHODS[name], steps_of(5, 10), (4, 4) if METHODS[name].in_blocks else (1, 1)
    model, factor = network(), 0.01 if METHODS[name].penalty else None
    prune(model, name, 0.75, shape, factor, steps, dense=network())
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x, pressed, sparsity = np.random.default_rng(0).normal(size=(8, 16)), [], {}
    for number in range(1, steps.total + 1):
        if number in (2, 12, 30):
            pressed.append(bool(model.losses) and float(sum(model.losses)) > 0)
        model.train_on_batch(x, x)
        if number in (steps.end, steps.total - 1, steps.total):
            sparsity[number] = bs.report(model).sparsity
    assert pressed == list(map(bool, PENALTIES[name]))
    last = method.schedule == "last"
    wanted = {steps.end: 0 if last else 0.75, steps.total - 1: 0 if last else 0.75, steps.total: 0.75}
    assert sparsity == pytest.approx(wanted, abs=0.01)
    weights = [weight.sparsity for weight in bs.report(model).weights]
    if method.schedule == "gradual":
        assert weights == pytest.approx([0.75, 0.75], abs=0.01)  # each layer; by thresholds both together


def test_models_that_choose_their_blocks(data, tmp_path, monkeypatch):
    tiny = dict(units=16, embedding=8, block_shape=(4, 4), epochs=1, batch_size=4, num_steps=5, max_vocabulary=None)
    monkeypatch.setitem(dynamic_lm.PRESETS, "small", dataclasses.replace(dynamic_lm.PRESETS["small"], **tiny))
    arguments = ["--model", "qrnn_lm", "--methods", "dynamic", "bp", "--sparsities", "0.5", "--block-shapes", "4"]
    rows = swept(data, tmp_path / "out", *arguments)
    dynamic, pruned = rows["dynamic-0.5-4x4-seed0"], rows["bp-0.5-4x4-seed0"]
    assert dynamic["comput"] == pruned["comput"] == "0.5"
    assert float(dynamic["gates"]) > 0 and float(pruned["gates"]) == 0
    assert int(dynamic["live_parameters"]) == int(dynamic["parameters"]) > int(rows["dense-seed0"]["parameters"])
    weights = {row["weight"] for row in read(tmp_path / "out" / "layers.csv")}
    assert weights == {"qrnn_1/kernel", "qrnn_2/kernel"}  # not the embedding


def test_speech_by_its_error_rate(tmp_path, monkeypatch):
    monkeypatch.setitem(speech_network.PRESETS, "small", tiny_preset(epochs=4))
    data, out = write_tree(tmp_path / "speech"), tmp_path / "out"
    arguments = [
        "--model",
        "deep_speech",
        "--methods",
        "bp",
        "small_dense",
        "--sparsities",
        "0.5",
        "--block-shapes",
        "4",
    ]
    rows = swept(data, out, *arguments, "--set", 'valid_speakers=["101"]')
    dense, pruned, small = rows["dense-seed0"], rows["bp-0.5-4x4-seed0"], rows["small_dense-0.5-seed0"]
    assert all(0 <= float(row["cer_valid"]) <= 1.5 for row in rows.values())
    assert int(small["parameters"]) <= int(pruned["live_parameters"]) + 50 < int(dense["parameters"])
    weights = {row["weight"] for row in read(out / "layers.csv")}
    assert any("recurrent_kernel" in weight for weight in weights) and "fully_connected/kernel" in weights
    assert not any("convolution" in weight or "characters" in weight for weight in weights)
    points = {p["method"]: p for p in sweep_figures.mean_over_seeds(list(rows.values()), "cer_valid")}
    worse = float(pruned["cer_valid"]) - float(dense["cer_valid"])
    assert points["bp"]["accuracy"] == pytest.approx(-worse / float(dense["cer_valid"]))


def images_in(directory):
    """Digits whose class is where their bright pixels are."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 250)
    x = rng.integers(0, 50, (250, 28, 28))
    for image, label in zip(x, y, strict=True):
        image[2 * label + 2 : 2 * label + 5] += 200
    directory.mkdir()
    np.savez(directory / "digits.npz", x_train=x.astype("uint8"), y_train=y.astype("uint8"))
    return directory


def test_images_by_their_accuracy(tmp_path, monkeypatch):
    """Of a network of two convolutions in place of MobileNet, which trains longer."""

    def small(classes, preset, width):
        layers, channels = keras.layers, int(mobilenet.CHANNELS * width)
        return keras.Sequential(
            [
                keras.Input((preset.size, preset.size, 3), name="images"),
                layers.Conv2D(channels, 3, 2, name="conv1"),
                layers.Conv2D(2 * channels, 1, name="conv_pw_1"),
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Conv2D(classes, 1, name="conv_preds"),
                layers.Flatten(),
            ]
        )

    monkeypatch.setattr(mobilenet, "mobilenet", small)
    out, arguments = tmp_path / "out", ["--model", "mobilenet", "--methods", "block_agp", "small_dense"]
    arguments += ["--sparsities", "0.5", "--block-shapes", "4", "--set", "epochs=4"]
    rows = swept(images_in(tmp_path / "images"), out, *arguments)
    dense, pruned = rows["dense-seed0"], rows["block_agp-0.5-4x4-seed0"]
    assert dense["units"] == "16" and int(rows["small_dense-0.5-seed0"]["units"]) < 16
    assert float(pruned["sparsity"]) == pytest.approx(0.5, abs=0.05)
    assert {row["weight"] for row in read(out / "layers.csv")} == {"conv_pw_1/kernel", "conv_preds/kernel"}
    assert all(0 <= float(row["accuracy_valid"]) <= float(row["top_5_valid"]) <= 1 for row in rows.values())
    assert json.loads((out / "settings.json").read_text())["higher_is_better"] is True
    table = Table(out / "results.csv")  # with numbers that differ
    table.replace("dense-seed0", [{**dense, "accuracy_valid": 0.8}])
    table.replace("block_agp-0.5-4x4-seed0", [{**pruned, "accuracy_valid": 0.6}])
    accuracies, draw = [], sweep_figures.draw_accuracy
    monkeypatch.setattr(
        sweep_figures, "draw_accuracy", lambda p, metric: accuracies.extend(drawn(draw(p, metric).axes[0]).values())
    )
    sweep_figures.draw_all(out)
    np.testing.assert_allclose(accuracies, [[[float(pruned["sparsity"]), -25.0]]])  # not +25


def test_digits_whose_layers_choose_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_data, "VALIDATION", 50)
    preset = dataclasses.replace(mnist.PRESETS["small"], units=16, epochs=1, batch_size=16)
    monkeypatch.setitem(mnist.PRESETS, "small", preset)
    arguments = ["--model", "mnist", "--methods", "dynamic", "bp", "--sparsities", "0.75", "--block-shapes", "4"]
    rows = swept(images_in(tmp_path / "images"), tmp_path / "out", *arguments)
    dynamic, pruned = rows["dynamic-0.75-4x4-seed0"], rows["bp-0.75-4x4-seed0"]
    assert dynamic["comput"] == pruned["comput"] == "0.25"
    assert float(dynamic["gates"]) > 0 == float(pruned["gates"])
    assert all(0 <= float(row["error_valid"]) <= 1 for row in rows.values())


# A table as a sweep writes it, with numbers that are easy to check.
ROWS = [
    ("dense-seed0", "dense", 0.0, "", 100.0, 1000, 1.0),
    ("dense-seed1", "dense", 0.0, "", 120.0, 1000, 1.0),
    ("bp-0.8-4x4-seed0", "bp", 0.8, "4x4", 120.0, 200, 0.25),
    ("bp-0.8-4x4-seed1", "bp", 0.8, "4x4", 122.0, 200, 0.25),
    ("bp-0.9-4x4-seed0", "bp", 0.9, "4x4", 300.0, 100, 0.125),
    ("bp-0.8-16x16-seed0", "bp", 0.8, "16x16", 132.0, 200, 0.2),
    ("wp-0.9-1x1-seed0", "wp", 0.9, "1x1", 115.5, 100, 0.1),
    ("small_dense-0.8-seed0", "small_dense", 0.8, "", 150.0, 200, 0.2),
]


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"metric": "ppl"}))
    names = ("run", "method", "target_sparsity", "block_shape", "ppl", "live_parameters", "comput")
    for row in ROWS:
        values = dict(zip(names, row, strict=True))
        values.update(factor="", gates=0.0, sparsity=0.0 if row[1] == "small_dense" else row[2])
        Table(tmp_path / "results.csv").replace(row[0], [values])
    curves, connections = Table(tmp_path / "curves.csv"), Table(tmp_path / "connections.csv")
    for run, final in (("bp-0.9-4x4-seed0", 0.9), ("wp-0.9-1x1-seed0", 0.8)):
        rows = [(s, w, final * s / 20) for w in ("a/kernel", "a/recurrent_kernel") for s in (10, 20)]
        columns = ("run", "step", "weight", "sparsity")
        curves.replace(run, [dict(zip(columns, (run, *row), strict=True)) for row in rows])
    for run, counts in (("bp-0.8-4x4-seed0", {0: 2, 3: 5, 6: 1}), ("bp-0.9-4x4-seed0", {0: 7, 3: 1})):
        rows = [{"run": run, "connections": c, "neurons": n} for c, n in counts.items()]
        connections.replace(run, rows)
    layers = Table(tmp_path / "layers.csv")
    for run, sparsities in (("bp-0.9-4x4-seed0", (0.95, 0.85)), ("wp-0.9-1x1-seed0", (0.9, 0.91))):
        rows = [{"run": run, "weight": w, "sparsity": s} for w, s in zip("ab", sparsities, strict=True)]
        layers.replace(run, rows)
    return tmp_path


def drawn(axis):
    return {line.get_label(): line.get_xydata().tolist() for line in axis.lines if line.get_label()[0] != "_"}


def points_of(tables):
    return sweep_figures.mean_over_seeds(read(tables / "results.csv"), "ppl")


def test_figure_3_shows_relative_accuracy(tables):
    found = drawn(sweep_figures.draw_accuracy(points_of(tables), "ppl").axes[0])
    # 110 is the mean of the dense runs; 300 would be -173 %, which is drawn as -75.
    assert set(found) == {"bp 4x4", "bp 16x16", "wp"}
    np.testing.assert_allclose(found["bp 4x4"], [[0.8, -10.0], [0.9, -75.0]])
    np.testing.assert_allclose(found["bp 16x16"], [[0.8, -20.0]])
    np.testing.assert_allclose(found["wp"], [[0.9, -5.0]])


def test_scores_against_cost(tables):
    found = drawn(sweep_figures.draw_cost(points_of(tables), "ppl", "live_parameters").axes[0])
    assert found["small_dense"] == [[200.0, 150.0], [1000.0, 110.0]]  # ends at the dense model
    assert found["bp 4x4"] == [[200.0, 121.0], [100.0, 300.0]]
    found = drawn(sweep_figures.draw_cost(points_of(tables), "ppl", "comput").axes[0])
    assert found["bp 4x4"] == [[0.25, 121.0], [0.125, 300.0]]


def test_figure_4a_shows_the_sparsest_runs(tables):
    figure = sweep_figures.draw_schedules(points_of(tables), read(tables / "curves.csv"))
    assert [axis.get_title() for axis in figure.axes] == ["a/recurrent_kernel", "a/kernel"]
    for axis in figure.axes:
        found = drawn(axis)
        assert found["bp 4x4"] == [[10.0, 0.45], [20.0, 0.9]]
        assert found["wp"] == [[10.0, 0.4], [20.0, 0.8]]


def test_figure_4b_counts_neurons(tables):
    figure = sweep_figures.draw_connections(points_of(tables), read(tables / "connections.csv"))
    steps = {patch.get_label(): patch.get_data() for patch in figure.axes[0].patches}
    assert set(steps) == {"80.0%: 2 of 8 neurons have none", "90.0%: 7 of 8 neurons have none"}
    np.testing.assert_array_equal(steps["80.0%: 2 of 8 neurons have none"].values, [2, 0, 0, 5, 0, 0, 1])


def test_figure_5_shows_every_weight(tables):
    figure = sweep_figures.draw_layers(points_of(tables), read(tables / "layers.csv"))
    found = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert found == {"bp 4x4": [0.95, 0.85], "wp": [0.9, 0.91]}


def test_all_figures_are_saved(tables, capsys):
    sweep.main(["--out", str(tables), "--figures"])
    names = {"accuracy", "comput", "parameters", "schedule", "connections", "layers"}
    assert {file.stem for file in (tables / "figures").glob("*.png")} == names
    assert len(capsys.readouterr().out.splitlines()) == len(names)


def test_a_table_is_replaced_by_run(tmp_path):
    table = Table(tmp_path / "t.csv", ("run", "x"))
    table.replace("a", [{"run": "a", "x": 1}, {"run": "a", "x": 2}])
    table.replace("b", [{"run": "b", "x": 3}])
    again = Table(tmp_path / "t.csv", ("run", "x"))
    again.replace("a", [{"run": "a", "x": 4}])
    assert read(tmp_path / "t.csv") == [{"run": "b", "x": "3"}, {"run": "a", "x": "4"}]


def test_steps_are_those_of_table_1():
    assert steps_of(25, 2700) == Steps(begin=2700, ramp=13500, end=27000, total=67500, frequency=100)
    assert steps_of(5, 100).begin == 50  # a short run begins before its first epoch ends


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--sparsities", "90"], "fraction above 0 and below 1"),
        (["--block-shapes", "4x4x4"], "block shape such as"),
        (["--methods", "magic"], "invalid choice"),
        (["--factor", "bp=1"], "no method with a penalty"),
        (["--factor", "glp=-1"], "at least 0"),
        (["--model", "no_such_model"], "no_such_model"),
        (["--model", "text"], "sweep_task"),
        (["--methods", "dynamic"], "qrnn_lm"),
        (["--model", "deep_speech", "--methods", "dynamic"], "No speech below"),
        (["--model", "mobilenet"], "No images in"),
        (["--model", "mnist"], "No .npz file"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--set", "colour=3"], "no setting 'colour'"),
        (["--set", "units=wide"], "expected a number"),
        (["--set", "epochs=0"], "expected 1, 2"),
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
        (["--figures"], "No settings.json"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code != 0
    assert message in f"{stop.value} {capsys.readouterr().err}"


def test_another_sweep_is_not_mixed_in(data, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--set"]
    sweep.Sweep(parse([*arguments, "epochs=1"]))
    sweep.Sweep(parse([*arguments, "epochs=1", "--methods", "glp", "--seeds", "3"]))
    with pytest.raises(SystemExit, match="other settings"):
        sweep.main([*arguments, "epochs=2"])


def test_every_cell_has_a_command_that_makes_it(tmp_path):
    words = ["--methods", "glp", "wp", "l1", "--factor", "l1=0.002", "--block-shapes", "4x2", "--sparsities", "0.75"]
    options = parse([*words, "--data", "a b", "--set", "epochs=2", "cut=[30, 600]", "--seeds", "1"])
    cells = grid(options)
    assert [cell.run for cell in cells] == [
        "dense-seed1", "glp-0.75-4x2-factor0.0002-seed1", "wp-0.75-1x1-seed1", "l1-0.75-1x1-factor0.002-seed1",
    ]  # fmt: skip
    for cell in cells:
        again = parse(shlex.split(command(options, cell))[3:])
        assert cell in grid(again)
        assert (again.data, again.set) == ("a b", [("epochs", 2), ("cut", [30, 600])])
