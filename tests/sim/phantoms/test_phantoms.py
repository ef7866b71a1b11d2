from itertools import islice

import numpy as np
import pytest
from pydantic import ValidationError

from omnifed.data.site import SiteConfig
from omnifed_sim.phantoms import PHANTOMS, Look, endless

NAMES = list(PHANTOMS)
RANGES = {
    "dermoscopy": (0, 255),
    "abdominal_ct": (-1100, 900),
    "abdominal_mri": (0, 1120),
    "retinal_oct": (0, 255),
    "intraop": (0, 255),
    "brain_mri": (0, 1280),
}


def overlap(a, b):
    return 2 * (a & b).sum() / max((a.sum() + b.sum()), 1)


def test_the_six_modalities_of_the_paper():
    assert NAMES == ["dermoscopy", "abdominal_ct", "abdominal_mri", "retinal_oct", "intraop", "brain_mri"]


@pytest.mark.parametrize("name", NAMES)
def test_images_and_masks_are_what_the_phantom_says(name):
    phantom = PHANTOMS[name]
    SiteConfig(name=name, modality=phantom.modality, labels=dict(phantom.labels), normalisation=phantom.normalisation)
    seen = set()
    for image, mask in islice(endless(name, 0, 64), 12):
        assert image.shape == ((64, 64, 3) if phantom.channels == 3 else (64, 64))
        assert image.dtype == np.float32
        assert mask.dtype == np.uint8
        assert mask.shape == (64, 64)
        low, high = RANGES[name]
        assert low <= image.min() < image.max() <= high
        seen |= set(np.unique(mask).tolist())
    assert seen == set(phantom.labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_a_patient_bit_for_bit(name):
    phantom = PHANTOMS[name]
    first, again, other = (phantom.patient(seed, 2, 48, Look()) for seed in (5, 5, 6))
    for (a, am), (b, bm) in zip(first, again, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(am, bm)
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[1][0])


@pytest.mark.parametrize("name", ["abdominal_ct", "abdominal_mri", "retinal_oct", "brain_mri"])
def test_neighbouring_slices_show_the_same_body(name):
    phantom = PHANTOMS[name]
    own, other = [], []
    for seed in range(6):
        slices = [mask > 0 for _, mask in phantom.patient(seed, 4, 64, Look())]
        stranger = phantom.patient(seed + 100, 1, 64, Look())[0][1] > 0
        own.append(overlap(slices[0], slices[1]))
        other.append(overlap(slices[0], stranger))
    assert np.mean(own) > 0.8
    assert np.mean(own) > np.mean(other) + 0.05


@pytest.mark.parametrize("name", NAMES)
def test_anatomy_does_not_depend_on_the_resolution(name):
    phantom = PHANTOMS[name]
    for seed in range(3):
        small = phantom.patient(seed, 1, 64, Look())[0][1]
        large = phantom.patient(seed, 1, 192, Look())[0][1][1::3, 1::3]
        assert overlap(small > 0, large > 0) > 0.95


def test_the_rare_label_follows_the_look():
    phantom = PHANTOMS["abdominal_mri"]
    (label,) = phantom.rare
    for rare, least, most in ((0.0, 0, 0), (1.0, 15, 20)):
        masks = [phantom.patient(seed, 1, 64, Look(rare=rare))[0][1] for seed in range(20)]
        assert least <= sum((mask == label).any() for mask in masks) <= most
    sick, well = (phantom.patient(3, 1, 64, Look(rare=rare))[0][1] for rare in (1.0, 0.0))
    assert np.array_equal(np.where(sick == label, 1, sick), well)  # all other organs stay where they are


@pytest.mark.parametrize("name", NAMES)
def test_the_scanner_changes_the_picture_and_never_the_truth(name):
    phantom = PHANTOMS[name]
    quiet, loud = Look(noise=0.2, distractors=0), Look(noise=3, contrast=0.8, gamma=1.3, bias=0.4, distractors=0)
    (a, am), (b, bm) = phantom.patient(1, 1, 64, quiet)[0], phantom.patient(1, 1, 64, loud)[0]
    assert np.array_equal(am, bm)
    rough = [np.abs(np.diff(i, axis=1)).mean() / i.std() for i in (a, b)]
    assert rough[1] > rough[0]


def test_streams_are_repeatable_endless_and_unlike():
    def take(seed):
        return [image for image, _ in islice(endless("retinal_oct", seed, 32), 4)]

    first, again, other = take(1), take(1), take(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    pictures = [image.tobytes() for image in first + other]
    assert len(set(pictures)) == 8


def test_a_look_refuses_what_no_scanner_does():
    with pytest.raises(ValidationError, match="gamma"):
        Look(gamma=0)
    with pytest.raises(ValidationError, match="sharpness"):
        Look.model_validate({"sharpness": 1})
