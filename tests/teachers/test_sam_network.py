from dataclasses import replace

import pytest
import torch

from omnifed.teachers.sam_network import (
    PATCH,
    SHAPES,
    Refine,
    SamNetwork,
    SamShape,
    SdpaAttention,
    Stem,
    fit_positions,
    sam,
    token_grid,
)
from omnifed.teachers.sam_network import Attention as Stock

SMALL = SamShape(32, 2, 2, (1,), window=3, decoder_dim=32, decoder_heads=2, decoder_mlp=64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(classes: int = 3, grid: tuple[int, int] = (4, 4), rank: int = 4) -> SamNetwork:
    network = SamNetwork(SMALL, classes, grid, rank)
    for block in network.image_encoder.blocks:
        torch.nn.init.normal_(block.attn.rel_pos_h)
        torch.nn.init.normal_(block.attn.rel_pos_w)
    return network.eval()


@pytest.mark.parametrize("relative", [True, False])
def test_fused_attention_equals_the_stock_one(relative: bool) -> None:
    stock = Stock(48, num_heads=3, use_rel_pos=relative, input_size=(5, 7))
    if relative:
        torch.nn.init.normal_(stock.rel_pos_h)
        torch.nn.init.normal_(stock.rel_pos_w)
    x = torch.randn(2, 5, 7, 48)
    expected = stock(x)
    ours = SdpaAttention(stock, rank=4)(x)  # LoRA starts at zero
    assert (ours - expected).abs().max() <= 4e-6


def test_lora_adds_low_rank_products_to_q_and_v_alone() -> None:
    stock = Stock(8, num_heads=1)
    ours = SdpaAttention(stock, rank=2)
    torch.nn.init.normal_(ours.lora["q"][1].weight)
    torch.nn.init.normal_(ours.lora["v"][1].weight)
    x = torch.randn(1, 2, 3, 8)
    with torch.no_grad():
        expected = Stock(8, num_heads=1)
        weight = stock.qkv.weight.clone()
        weight[:8] += ours.lora["q"][1].weight @ ours.lora["q"][0].weight
        weight[16:] += ours.lora["v"][1].weight @ ours.lora["v"][0].weight
        expected.load_state_dict({**stock.state_dict(), "qkv.weight": weight})
        assert torch.allclose(ours(x), expected(x), atol=1e-6)


def test_vit_b_has_the_published_numbers_of_trained_parameters() -> None:
    with torch.device("meta"):
        network = SamNetwork(SHAPES["vit_b"], 5, (14, 14), 4)
    trained = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
    assert sum(n for name, n in trained.items() if ".lora." in name) == 147_456
    assert round(sum(trained.values()) / 1e6, 2) == 4.21


def test_tiny_is_small() -> None:
    with torch.device("meta"):
        network = SamNetwork(SHAPES["tiny"], 2, (12, 12), -1)
    assert sum(p.numel() for p in network.parameters()) < 2.7e6


def test_rank_0_trains_the_decoder_alone_and_minus_1_everything() -> None:
    assert all(n.startswith("mask_decoder.") for n, p in small(rank=0).named_parameters() if p.requires_grad)
    assert all(p.requires_grad for p in small(rank=-1).parameters())


@pytest.mark.parametrize(("channels", "size"), [(3, (64, 64)), (1, (64, 96)), (1, (32, 48)), (3, (128, 192))])
def test_any_image_gives_logits_at_a_fourth_and_features_at_a_sixteenth(channels: int, size: tuple[int, int]) -> None:
    grid = token_grid(size, 96)
    out = small(5, grid)(torch.randn(2, channels, *size))
    assert out.logits.shape == (2, 5, 4 * grid[0], 4 * grid[1])
    assert out.features["bottleneck"].shape == (2, 32, *grid)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    network, x = small(), torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(x).logits[1:2], network(x[1:2]).logits, atol=1e-5)


def test_encoder_and_decoder_equal_the_stock_ones() -> None:
    network = small(classes=4)
    encoder = sam.ImageEncoderViT(
        img_size=4 * PATCH,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=32,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
        norm_layer=lambda dim: torch.nn.LayerNorm(dim, eps=1e-6),
    )
    encoder.load_state_dict({k: v for k, v in network.image_encoder.state_dict().items() if ".lora." not in k})
    transformer = sam.TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64)
    decoder = sam.MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=3)
    decoder.load_state_dict({**decoder.state_dict(), **network.mask_decoder.state_dict()})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = encoder(x)
        logits, _ = decoder.predict_masks(
            image_embeddings=features,
            image_pe=network.pe_layer((4, 4))[None],
            sparse_prompt_embeddings=torch.empty(1, 0, 32),
            dense_prompt_embeddings=network.no_mask_embed.weight[:, :, None, None],
        )
        out = network(x)
        assert torch.allclose(out.features["bottleneck"], features, atol=4e-6)
        assert torch.allclose(out.logits, logits, atol=1e-5)


def test_the_stem_gives_tokens_and_a_map_at_a_fourth() -> None:
    tokens, early = Stem(8, 32)(torch.randn(2, 3, 64, 96))
    assert tokens.shape == (2, 4, 6, 32)
    assert early.shape == (2, 16, 16, 24)


def test_the_decoder_starts_blind_to_the_stem_and_is_trained_to_see_it() -> None:
    refine = Refine(4, 16)
    upscaled, early = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 8, 8)
    assert torch.equal(refine(upscaled, early), upscaled)
    network = SamNetwork(replace(SMALL, stem=8), 2, (4, 4), 4)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {"refine.out.weight", "mask_decoder.iou_token.weight"} <= trained
    assert not any("patch_embed" in name for name in trained)
    network(torch.randn(1, 1, 64, 64)).logits.square().sum().backward()
    assert network.refine is not None
    assert network.refine.out.weight.grad is not None


def test_positions_of_another_grid_are_interpolated() -> None:
    source, target = small(grid=(4, 4)), small(grid=(6, 3))
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("mask_decoder.")}
    state["image_encoder.pos_embed"] = torch.full_like(state["image_encoder.pos_embed"], 0.5)
    fitted = fit_positions(state, target)
    target.load_state_dict(fitted, strict=False)
    assert torch.allclose(target.image_encoder.pos_embed, torch.tensor(0.5))
    assert target.image_encoder.blocks[1].attn.rel_pos_h.shape == (11, 16)
    assert torch.equal(target.image_encoder.blocks[0].attn.rel_pos_h, source.image_encoder.blocks[0].attn.rel_pos_h)


def test_token_grid_keeps_the_aspect() -> None:
    assert token_grid((128, 128), 192) == (12, 12)
    assert token_grid((256, 128), 224) == (14, 7)
    assert token_grid((1024, 32), 192) == (12, 1)
