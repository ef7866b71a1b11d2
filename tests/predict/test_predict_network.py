"""From logits to masks: bilinear, in strips, by tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from omnifed.data.normalise import resize_image
from omnifed.data.site import Normalisation
from omnifed.export.card import ExportCard
from omnifed.models.spec import StudentSpec
from omnifed.predict import network
from omnifed.predict.network import segment, starts


class Given:
    """A network of one channel and two classes that answers with a function of the image."""

    def __init__(self, size: tuple[int, int], answer: object) -> None:
        self.card = ExportCard(
            omnifed="0",
            student=StudentSpec(),
            modality="ct",
            labels={0: "background", 1: "disc"},
            channels=1,
            image_size=size,
            normalisation=Normalisation(kind="window"),
        )
        self.sha256, self.answer, self.seen = "", answer, []

    def logits(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape == (1, 1, *self.card.image_size)
        assert batch.dtype == np.float32
        self.seen.append(batch[0])
        return self.answer(batch[0, 0])[None].astype(np.float32)


def sign(image: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(image), image])


@given(arrays(np.float32, (3, 4, 5), elements=st.sampled_from([-1.0, 0.0, 2.0])))
def test_the_label_of_the_largest_logit_and_of_equals_the_first(logits: np.ndarray) -> None:
    np.testing.assert_array_equal(network._argmax(logits), logits.argmax(0))


def test_logits_are_enlarged_not_labels() -> None:
    # Logits -3 and 1 on two pixels: the bilinear line crosses zero three quarters of the way between their centres.
    model = Given((1, 2), lambda _: np.array([[[0, 0]], [[-3, 1]]]))
    mask = segment(model, np.zeros((1, 1, 16), np.float32), "resize")
    assert mask.tolist() == [[0] * 10 + [1] * 6]  # centres at 3.5 and 11.5, zero at 9.5


def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 8, 9)).astype(np.float32)
    model = Given((8, 9), lambda _: logits)
    for size in ((50, 31), (5, 4)):  # enlarged, and shrunk
        whole = resize_image(logits, size).argmax(0)
        for strip in (1, 200, 10**6):
            monkeypatch.setattr(network, "_STRIP", strip)
            np.testing.assert_array_equal(segment(model, np.zeros((1, *size), np.float32), "resize"), whole)


def test_the_network_sees_what_training_stored() -> None:
    image = np.full((1, 4, 4), 0.1, np.float32)
    model = Given((4, 4), sign)
    segment(model, image, "resize")
    assert model.seen[0][0, 0, 0] == np.float32(np.float16(0.1)) != np.float32(0.1)


@given(st.integers(1, 200), st.integers(1, 40).map(lambda n: 2 * n))
def test_tiles_cover_every_pixel_and_lie_inside(side: int, tile: int) -> None:
    side = max(side, tile)
    covered = {start + k for start in starts(side, tile) for k in range(tile)}
    assert covered == set(range(side))


@pytest.mark.parametrize("size", [(8, 8), (20, 13), (5, 30), (3, 2), (16, 24)])
def test_a_network_that_looks_at_single_pixels_gives_the_same_by_tiles(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).normal(size=(1, *size)).astype(np.float32)
    mask = segment(Given((8, 8), sign), image, "window")
    np.testing.assert_array_equal(mask, image[0] > 0)


def test_a_tile_counts_most_at_its_centre() -> None:
    def ring(image: np.ndarray) -> np.ndarray:
        edge = np.ones_like(image)
        edge[1:-1, 1:-1] = 0
        return np.stack([np.full_like(image, 0.5), edge])

    mask = segment(Given((8, 8), ring), np.zeros((1, 24, 24), np.float32), "window")
    assert mask[1:-1, 1:-1].max() == 0  # what is the edge of one tile is near the centre of another
    assert mask[0].min() == mask[:, -1].min() == 1  # there is no other
