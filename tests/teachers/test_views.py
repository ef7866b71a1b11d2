import torch
from hypothesis import given
from hypothesis import strategies as st

from omnifed.teachers.views import apply_symmetry, apply_view, symmetry, undo_symmetry


def test_a_quarter_turn_and_a_flip_by_hand() -> None:
    x = torch.tensor([[1, 2], [3, 4]])
    assert apply_symmetry(x, 1, False).tolist() == [[2, 4], [1, 3]]
    assert apply_symmetry(x, 0, True).tolist() == [[2, 1], [4, 3]]
    assert apply_symmetry(x, 2, True).tolist() == [[3, 4], [1, 2]]  # top to bottom


@given(st.integers(0, 3), st.booleans(), st.integers(1, 5), st.integers(1, 5))
def test_undo_is_the_inverse(turns: int, flip: bool, height: int, width: int) -> None:
    x = torch.arange(2 * height * width).reshape(2, height, width)
    assert torch.equal(undo_symmetry(apply_symmetry(x, turns, flip), turns, flip), x)


@given(st.integers().map(str))
def test_views_of_a_case_differ_until_none_is_left(key: str) -> None:
    assert symmetry(key, 0, square=True) == symmetry(key, 0, square=False) == (0, False)
    assert len({symmetry(key, view, square=True) for view in range(8)}) == 8
    assert len({symmetry(key, view, square=False) for view in range(4)}) == 4
    assert symmetry(key, 8, square=True) == symmetry(key, 1, square=True)


@given(st.integers().map(str), st.integers(0, 9))
def test_image_and_label_take_the_same_view_and_rectangles_keep_their_shape(key: str, view: int) -> None:
    label = torch.arange(6).reshape(2, 3)
    image = torch.stack([label, label + 10])
    seen = apply_view(image, key, view)
    assert seen.shape == image.shape
    assert torch.equal(seen[0], apply_view(label, key, view))
    assert torch.equal(seen[1], seen[0] + 10)


def test_keys_choose_unlike_views() -> None:
    assert len({symmetry(str(key), 1, square=True) for key in range(60)}) == 7
