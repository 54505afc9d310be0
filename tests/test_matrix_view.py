import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tf_blocksparse.matrix_view import MatrixView, einsum_view


@st.composite
def views_and_shapes(draw):
    """A view that names the axes in any order, some of them none, and a shape it fits."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    axes = draw(st.permutations(range(len(shape))))
    rows = draw(st.integers(0, len(axes)))
    in_axes, out_axes = tuple(axes[:rows]), tuple(axes[rows:])
    return MatrixView(in_axes, out_axes, draw(st.integers(0, len(out_axes)))), shape


def plain_matrix(view, w):
    """The matrix by plain counting: which element stands where."""
    rows = list(itertools.product(*(range(w.shape[a]) for a in view.in_axes)))
    columns = list(itertools.product(*(range(w.shape[a]) for a in view.out_axes)))
    matrix = np.empty((len(rows), len(columns)), w.dtype)
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        index = dict(zip(view.in_axes + view.out_axes, row + column, strict=True))
        matrix[i, j] = w[tuple(index[axis] for axis in range(w.ndim))]
    return matrix


@given(views_and_shapes())
@settings(max_examples=60, deadline=None)
def test_matrix_is_that_of_plain_counting_and_turns_back(view_and_shape):
    view, shape = view_and_shape
    w = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    matrix = view.to_matrix(w)
    assert isinstance(matrix, np.ndarray)
    assert matrix.shape == view.matrix_shape(shape)
    np.testing.assert_array_equal(matrix, plain_matrix(view, w))
    np.testing.assert_array_equal(view.to_matrix(tf.constant(w)), matrix)
    np.testing.assert_array_equal(view.from_matrix(matrix, shape), w)
    assert view.gates(shape) * np.prod([shape[a] for a in view.out_axes[view.gate_axes :]]) == matrix.shape[1]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (3, 2, 5, 4)])
def test_by_default_all_axes_but_the_last_are_the_rows(shape):
    w = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    view = MatrixView()
    np.testing.assert_array_equal(view.to_matrix(w), w.reshape(-1, shape[-1]))
    np.testing.assert_array_equal(view.from_matrix(view.to_matrix(w), shape), w)
    assert view.gates(shape) == 1


def test_works_inside_a_graph():
    view, w = MatrixView((2, 0), (1,)), np.arange(24, dtype="float32").reshape(2, 3, 4)

    @tf.function(input_signature=[tf.TensorSpec((2, 3, 4))])
    def there_and_back(w):
        matrix = view.to_matrix(w)
        return matrix, view.from_matrix(matrix, w.shape)

    matrix, back = there_and_back(w)
    np.testing.assert_array_equal(matrix, w.transpose(2, 0, 1).reshape(8, 3))
    np.testing.assert_array_equal(back, w)


@pytest.mark.parametrize("view", [MatrixView(), MatrixView((2, 0), (1, 3), 1), einsum_view("abc,bcd->abd")])
def test_config_makes_an_equal_view(view):
    config = view.get_config()
    assert MatrixView(**config) == view
    assert all(value is None or isinstance(value, (int, list)) for value in config.values())


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: MatrixView(in_axes=(0,)), r"both `in_axes` and `out_axes`.*in_axes=\(0,\), out_axes=None"),
        (lambda: MatrixView(out_axes=(0,)), r"both `in_axes` and `out_axes`.*in_axes=None, out_axes=\(0,\)"),
        (lambda: MatrixView().matrix_shape((5,)), r"two axes or more.*shape \(5,\)"),
        (lambda: MatrixView().to_matrix(np.ones(5)), r"two axes or more.*shape \(5,\)"),
        (lambda: MatrixView((0,), (1,)).matrix_shape((2, 3, 4)), r"each axis.*once.*shape \(2, 3, 4\)"),
        (lambda: MatrixView((0,), (0,)).gates((2, 3)), r"in_axes=\(0,\) and out_axes=\(0,\) must name each axis"),
        (lambda: MatrixView((0, 2), (1,)).to_matrix(np.ones((2, 3))), r"each axis.*once.*shape \(2, 3\)"),
        (lambda: MatrixView((-2,), (-1,)).to_matrix(np.ones((2, 3))), "must name each axis"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "equation,shape,matrix_shape,gates",
    [
        ("ab,bc->ac", (3, 4), (3, 4), 1),
        ("ab,cb->ac", (4, 3), (3, 4), 1),
        ("abc,cde->abde", (3, 4, 5), (3, 20), 1),
        ("abcd,cde->abe", (3, 4, 5), (12, 5), 1),
        ("abc,bcd->abd", (2, 3, 4), (3, 8), 2),
        ("abc,dcb->abd", (4, 3, 2), (3, 8), 2),
        ("abcd,bcde->abce", (2, 3, 4, 5), (4, 30), 6),
        ("a b c , c d -> a b d", (3, 4), (3, 4), 1),
        ("...x,xy->...y", (3, 4), (3, 4), 1),
        ("abc,c->ab", (3,), (3, 1), 1),
    ],
)
def test_einsum_view(equation, shape, matrix_shape, gates):
    view = einsum_view(equation)
    assert view.matrix_shape(shape) == matrix_shape
    assert view.gates(shape) == gates


@pytest.mark.parametrize(
    "equation,output_shape,x_shape",
    [
        ("ab,bc->ac", 4, (2, 3)),
        ("ab,cb->ac", 4, (2, 3)),
        ("abc,cde->abde", (None, 4, 5), (2, 3, 3)),
        ("abcd,cde->abe", (None, 5), (2, 3, 4, 2)),
        ("abc,ecd->abde", (None, 4, 5), (2, 3, 3)),
        ("abcd,dce->abe", (None, 5), (2, 3, 4, 2)),
        ("abc,bcd->abd", (3, 4), (2, 3, 5)),
        ("abc,dcb->abd", (3, 4), (2, 3, 5)),
        ("...x,xy->...y", 4, (2, 3, 5)),
    ],
)
def test_einsum_dense_multiplies_by_the_matrix_of_its_view(equation, output_shape, x_shape):
    """The input's columns are summed over in the order of the rows, and the result's are those of the matrix."""
    layer = layers.EinsumDense(equation, output_shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape).astype("float32")
    y = np.asarray(layer(x))
    view = einsum_view(equation)
    matrix, gates = view.to_matrix(np.asarray(layer.kernel)), view.gates(layer.kernel.shape)
    if gates == 1:
        np.testing.assert_allclose(y.reshape(-1, matrix.shape[1]), x.reshape(-1, matrix.shape[0]) @ matrix, rtol=1e-5)
        return
    for gate, m in enumerate(np.split(matrix, gates, axis=1)):  # axis 1 of x and y numbers the matrices
        np.testing.assert_allclose(y[:, gate], x[:, gate] @ m, rtol=1e-5, atol=1e-6)


def test_rows_and_columns_of_an_einsum_are_in_the_order_of_its_input_and_result():
    assert einsum_view("abc,ecd->abde") == MatrixView((1,), (2, 0), 0)
    assert einsum_view("abcd,dce->abe") == MatrixView((1, 0), (2,), 0)
