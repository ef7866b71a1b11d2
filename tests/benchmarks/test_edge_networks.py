import pytest
import torch
from edge.cmunext import CMUNeXt
from edge.networks import RIVALS, build, folder_name, split_names

from omnifed.errors import OmniFedError


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("size", "parameters"), [("s", 417_505), ("base", 3_149_185), ("l", 8_286_721)])
def test_cmunext_has_the_papers_parameters(size, parameters):
    assert count(CMUNeXt(size, 1)) == parameters


@pytest.mark.parametrize(
    "name", ["cmunext-s", "unet", "attention-unet", "segformer-b0", "swinunetr", "omnisegnet:compact"]
)
def test_every_network_gives_logits_of_the_images_size(name):
    network = build(name, 5).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 96)).logits.shape == (1, 5, 64, 96)


def test_the_rivals_have_their_published_sizes():
    assert {name: round(count(build(name, 2)) / 1e6, 1) for name in ("unet", "segformer-b0")} == {
        "unet": 7.8,
        "segformer-b0": 3.7,
    }


def test_the_seed_gives_the_weights_and_leaves_the_global_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = (build("cmunext-s", 2, seed=seed).state_dict()["head.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_commas_of_a_student_do_not_split_it():
    names = ["unet", "omnisegnet:compact,stem_stride=2,fusion=depthwise", "cmunext", "omnisegnet:balanced"]
    assert split_names(",".join(names)) == names
    assert folder_name(names[1]) == "omnisegnet-compact-stem_stride=2-fusion=depthwise"


def test_an_unknown_network_is_refused():
    with pytest.raises(OmniFedError, match="OF301"):
        build("unnet", 2)
    assert "unnet" not in RIVALS
