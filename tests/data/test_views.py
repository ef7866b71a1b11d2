import torch
from hypothesis import given
from hypothesis import strategies as st

from omnifed.data.views import apply_view, mirror, mirrorings


def test_mirrorings_by_hand() -> None:
    x = torch.tensor([[1, 2], [3, 4]])
    found = [x.flip(axes).tolist() if axes else x.tolist() for axes in mirrorings(upright=False)]
    assert found == [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[4, 3], [2, 1]]]
    assert mirrorings(upright=True) == mirrorings(upright=False)[:2]


@given(st.integers().map(str))
def test_views_of_a_case_differ_until_none_is_left(key: str) -> None:
    assert mirror(key, 0, upright=True) == mirror(key, 0, upright=False) == ()
    assert len({mirror(key, view, upright=False) for view in range(4)}) == 4
    assert mirror(key, 4, upright=False) == mirror(key, 1, upright=False)
    assert [mirror(key, view, upright=True) for view in (1, 2, 9)] == [(-1,)] * 3


@given(st.integers().map(str), st.integers(0, 9), st.booleans())
def test_image_and_label_take_the_same_view_and_twice_is_the_identity(key: str, view: int, upright: bool) -> None:
    label = torch.arange(6).reshape(2, 3)
    image = torch.stack([label, label + 10])
    seen = apply_view(image, key, view, upright=upright)
    assert torch.equal(seen[0], apply_view(label, key, view, upright=upright))
    assert torch.equal(seen[1], seen[0] + 10)
    assert torch.equal(apply_view(seen, key, view, upright=upright), image)


def test_upright_images_are_never_turned_upside_down() -> None:
    image = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert all(torch.equal(apply_view(image, str(k), 1, upright=True), image) for k in range(50))
    assert any(not torch.equal(apply_view(image, str(k), 1), image) for k in range(50))


def test_keys_choose_unlike_views() -> None:
    assert len({mirror(str(key), 1, upright=False) for key in range(60)}) == 3
