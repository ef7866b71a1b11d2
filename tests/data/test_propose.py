import tomllib
from pathlib import Path

import numpy as np
import pytest
from made_files import dicom, disc, grey, index, nifti, png

from omnifed.config import load_toml
from omnifed.data.propose import name_labels, propose_site, to_toml, write_site_toml
from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError


def test_labels_follow_the_values_of_the_masks() -> None:
    assert name_labels({0: "", 255: ""}) == ({0: "background", 1: "class-1"}, {255: 1})
    assert name_labels({0: "", 1: "", 3: ""}) == ({0: "background", 1: "class-1", 2: "class-2", 3: "class-3"}, {})
    assert name_labels({0: "", 1: "", 255: ""}) == ({0: "background", 1: "class-1"}, {1: 1, 255: 255})
    assert name_labels({0: "", 85: "", 170: ""})[1] == {85: 1, 170: 2}
    assert name_labels({1: "Liver", 2: ""})[0] == {0: "background", 1: "Liver", 2: "class-2"}
    assert name_labels({}) == ({0: "background", 1: "class-1"}, {})


def test_proposals_of_made_folders(tmp_path: Path) -> None:
    rgb = np.stack([grey(1, 300), grey(2, 300), grey(3, 300)], -1)[:200]
    png(tmp_path / "skin_site" / "a.png", rgb)
    png(tmp_path / "skin_site" / "m.png", disc(300, 255)[:200])
    skin = propose_site(index(tmp_path / "skin_site", "a.png,m.png,p"))
    assert (skin.name, skin.modality, skin.channels) == ("skin_site", "dermoscopy", 3)
    assert (skin.image_size, skin.normalisation.kind, skin.mask_values) == ((160, 256), "rgb", {255: 1})

    dicom(tmp_path / "x" / "a.dcm", np.zeros((40, 40)), Modality="MR", BodyPartExamined="BRAIN")
    assert propose_site(index(tmp_path / "x", "a.dcm,,p")).modality == "brain-mri"
    nifti(tmp_path / "y" / "a.nii", np.zeros((40, 70, 2), np.int16))
    volume = propose_site(index(tmp_path / "y", "a.nii,,p"))
    assert (volume.modality, volume.image_size, volume.normalisation.kind) == ("mri", (64, 32), "percentile")
    png(tmp_path / "some-ct" / "a.png", grey())
    assert propose_site(index(tmp_path / "some-ct", "a.png,,p")).normalisation.window == (0, 255)
    png(tmp_path / "z" / "a.png", grey())
    assert propose_site(index(tmp_path / "z", "a.png,absent.png,p")).modality == "other"


def test_what_cannot_be_proposed_has_a_number(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF225"):
        propose_site(index(tmp_path / "a", "absent.png,,p"))
    png(tmp_path / "b" / "i.png", grey())
    png(tmp_path / "b" / "m.png", grey(1))
    with pytest.raises(OmniFedError, match="OF226"):
        propose_site(index(tmp_path / "b", "i.png,m.png,p"))


def test_site_toml_reads_back_as_written_and_is_never_replaced(tmp_path: Path) -> None:
    png(tmp_path / "i.png", grey())
    png(tmp_path / "m.png", disc(value=255))
    proposal = propose_site(index(tmp_path, "i.png,m.png,p"))
    named = proposal.model_copy(update={"labels": {0: "background", 1: 'Läsion "rechts" \\ #1'}})
    write_site_toml(named, tmp_path / "site.toml")
    assert load_toml(SiteConfig, tmp_path / "site.toml") == named
    assert "Läsion" in tomllib.loads(to_toml(named))["labels"]["1"]
    with pytest.raises(OmniFedError, match="OF209"):
        write_site_toml(proposal, tmp_path / "site.toml")


@pytest.mark.parametrize(
    ("folder", "modality", "channels", "classes", "values"),
    [
        ("isic", "dermoscopy", 3, 2, {}),
        ("chaos_ct", "ct", 1, 2, {255: 1}),
        ("retinal_oct_layers", "oct", 1, 9, {}),
        ("chaos_mri", "mri", 1, 4, {}),
        ("retinal_vessels", "fundus", 3, 2, {}),
    ],
)
def test_real_folders(
    real_data: Path, folder: str, modality: str, channels: int, classes: int, values: dict[int, int]
) -> None:
    proposal = propose_site(real_data / folder)
    assert (proposal.modality, proposal.channels, len(proposal.labels)) == (modality, channels, classes)
    assert proposal.mask_values == values
