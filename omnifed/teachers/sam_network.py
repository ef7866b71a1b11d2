"""SAM without prompts: C classes from one pass, small trainable part, any image size.

As in SAMed (Zhang & Liu, 2023, arXiv:2304.13785): LoRA (Hu et al., ICLR 2022) on q and v of the image encoder, the
whole mask decoder trained, ``MaskDecoder(num_multimask_outputs=C - 1).predict_masks`` with the default no-prompt
embedding; mask token 0 is the background. The classes are those of the package ``segment-anything``; only its attention
is computed by PyTorch's fused kernel instead, which is equal to rounding and much faster. The head that predicts mask
quality is left out: nothing reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from omnifed.models.base import BOTTLENECK, Out
from omnifed.teachers.torchvision_shim import import_segment_anything

sam = import_segment_anything()
from segment_anything.modeling.image_encoder import (  # noqa: E402  (after the shim, or a broken torchvision stops it)
    Attention,
    get_rel_pos,
)
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom  # noqa: E402

PATCH = 16
"""Side of a token in pixels of the teacher's image."""


@dataclass(frozen=True)
class SamShape:
    """Numbers of one backbone and its decoder.

    Attributes:
        dim, depth, heads: of the image encoder (ViT; Dosovitskiy et al., ICLR 2021).
        global_blocks: blocks that attend over the whole image; the others over windows of ``window`` tokens.
        window: side of a window in tokens; 0 lets all blocks attend over the whole image.
        decoder_dim, decoder_heads, decoder_mlp: of neck and mask decoder.
        stem: 0 for SAM's linear patches; otherwise the width of a convolutional stem (:class:`Stem`) whose finer maps
            the decoder also sees (:class:`Refine`).
    """

    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...] = ()
    window: int = 14
    decoder_dim: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    stem: int = 0


SHAPES: dict[str, SamShape] = {
    "vit_b": SamShape(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamShape(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamShape(1280, 32, 16, (7, 15, 23, 31)),
    "tiny": SamShape(192, 4, 3, window=0, decoder_dim=96, decoder_heads=4, decoder_mlp=384, stem=24),
}
"""Meta's three backbones (Kirillov et al., ICCV 2023) and the embedded one: their code, not their weights."""


class SdpaAttention(nn.Module):
    """The encoder's attention by ``scaled_dot_product_attention``, with LoRA on q and v.

    softmax(q k^T / sqrt(d) + R_h + R_w) v, where R are the decomposed relative positions (MViTv2, Li et al., 2022).

    Args:
        stock: the attention that it replaces; its parameters are taken over under the same names.
        rank: of LoRA, q += B_q A_q x and v += B_v A_v x, B starts at zero; 0 or less adds none.
    """

    def __init__(self, stock: Attention, rank: int) -> None:
        super().__init__()
        self.heads = stock.num_heads
        self.qkv, self.proj = stock.qkv, stock.proj
        self.rel_pos_h: nn.Parameter | None = stock.rel_pos_h if stock.use_rel_pos else None
        self.rel_pos_w: nn.Parameter | None = stock.rel_pos_w if stock.use_rel_pos else None
        dim = self.proj.in_features
        self.lora = nn.ModuleDict()
        for name in ("q", "v") if rank > 0 else ():
            down, up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim, bias=False)
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)
            self.lora[name] = nn.Sequential(down, up)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, h, w, dim) to tokens of the same shape."""
        b, h, w, dim = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.lora:
            q, v = q + self.lora["q"](x), v + self.lora["v"](x)
        q, k, v = (t.reshape(b, h * w, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(q, h, w))
        return self.proj(y.transpose(1, 2).reshape(b, h, w, dim))

    def _bias(self, q: Tensor, h: int, w: int) -> Tensor | None:
        """R_h + R_w, shape (B, heads, h w, h w)."""
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        grid = q.reshape(*q.shape[:2], h, w, -1)
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(h, h, self.rel_pos_h).to(q.dtype))
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(w, w, self.rel_pos_w).to(q.dtype))
        return (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)


class Stem(nn.Sequential):
    """Four 3 x 3 convolutions of stride 2 in place of SAM's linear patches of 16 x 16 pixels.

    A small transformer learns much faster behind it (Xiao et al., "Early Convolutions Help Transformers See Better",
    NeurIPS 2021), and its map at a fourth of the side keeps edges that patches lose.

    Args:
        width: channels at half the side; twice as many at each further step.
        dim: channels of the tokens.
    """

    def __init__(self, width: int, dim: int) -> None:
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        steps = [_convolution(a, b, stride=2) for a, b in pairwise(widths)]
        super().__init__(*steps, nn.Conv2d(widths[-1], dim, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 16 h, 16 w) to tokens (B, h, w, dim) and the map (B, 2 width, 4 h, 4 w)."""
        early = self[1](self[0](x))
        return self[4](self[3](self[2](early))).permute(0, 2, 3, 1), early


class Refine(nn.Module):
    """Adds what the stem saw to the decoder's upscaled embedding, as HQ-SAM does (Ke et al., NeurIPS 2023).

    u + conv(conv([u, early])), the last convolution starting at zero.

    Args:
        channels: of the upscaled embedding u.
        early: channels of the stem's map at the same size.
    """

    def __init__(self, channels: int, early: int) -> None:
        super().__init__()
        self.mix = _convolution(channels + early, early)
        self.out = nn.Conv2d(early, channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, upscaled: Tensor, early: Tensor) -> Tensor:
        """(B, channels, h, w) and (B, early, h, w) to (B, channels, h, w)."""
        return upscaled + self.out(self.mix(torch.cat([upscaled, early], dim=1)))


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(8, out), nn.GELU()
    )


def mask_decoder(shape: SamShape, classes: int) -> nn.Module:
    """SAM's mask decoder for C classes (token 0 the background), without the head that predicts mask quality."""
    transformer = sam.TwoWayTransformer(
        depth=2, embedding_dim=shape.decoder_dim, num_heads=shape.decoder_heads, mlp_dim=shape.decoder_mlp
    )
    decoder = sam.MaskDecoder(
        transformer_dim=shape.decoder_dim, transformer=transformer, num_multimask_outputs=classes - 1
    )
    del decoder.iou_prediction_head
    return decoder


class SamNetwork(nn.Module):
    """Image encoder, no-prompt embedding and mask decoder.

    Args:
        shape: numbers of the backbone, see :data:`SHAPES`.
        classes: C, background included.
        grid: tokens along height and width; the teacher sees the image at 16 times that.
        lora_rank: above 0, LoRA and decoder are trained; 0, the decoder alone; -1, everything.
    """

    def __init__(self, shape: SamShape, classes: int, grid: tuple[int, int], lora_rank: int) -> None:
        super().__init__()
        self.grid, self.classes = grid, classes
        self.image_encoder = sam.ImageEncoderViT(
            img_size=max(grid) * PATCH,
            patch_size=PATCH,
            embed_dim=shape.dim,
            depth=shape.depth,
            num_heads=shape.heads,
            out_chans=shape.decoder_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape.window,
            global_attn_indexes=shape.global_blocks,
        )
        self.image_encoder.pos_embed = nn.Parameter(torch.zeros(1, *grid, shape.dim))
        for block in self.image_encoder.blocks:
            block.attn = SdpaAttention(block.attn, lora_rank)
            if block.window_size == 0:
                head = shape.dim // shape.heads
                block.attn.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, head))
                block.attn.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, head))
        self.pe_layer = PositionEmbeddingRandom(shape.decoder_dim // 2)
        self.no_mask_embed = nn.Embedding(1, shape.decoder_dim)
        self.mask_decoder = mask_decoder(shape, classes)
        self.refine: Refine | None = None
        if shape.stem:
            self.image_encoder.patch_embed = Stem(shape.stem, shape.dim)
            self.refine = Refine(shape.decoder_dim // 8, 2 * shape.stem)
        if lora_rank >= 0:
            self.requires_grad_(False)
            self.mask_decoder.requires_grad_(True)
            if self.refine is not None:
                self.refine.requires_grad_(True)
            for block in self.image_encoder.blocks:
                block.attn.lora.requires_grad_(True)

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of the encoder's output, the tap ``bottleneck``."""
        return {BOTTLENECK: self.image_encoder.neck[0].out_channels}

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Out:
        """Segments without prompts.

        Args:
            x: (B, 1 or 3, H, W), normalised as the student sees it; grey is repeated to three channels.
            condition: not used.

        Returns:
            logits (B, classes, 4 h, 4 w) and features (B, decoder_dim, h, w) for a grid of h x w tokens, that is at a
            fourth and a sixteenth of the side at which the teacher sees the image.
        """
        features, early = self.encode(x)
        return Out(logits=self.decode(features, early, self.mask_decoder), features={BOTTLENECK: features})

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image (B, 1 or 3, H, W) of any size to features (B, decoder_dim, h, w) and the stem's map or None."""
        size = (self.grid[0] * PATCH, self.grid[1] * PATCH)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if tuple(x.shape[-2:]) != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=x.shape[-2] > size[0])
        encoder, early = self.image_encoder, None
        if self.refine is None:
            tokens = encoder.patch_embed(x)
        else:
            tokens, early = encoder.patch_embed(x)
        tokens = tokens + encoder.pos_embed
        for block in encoder.blocks:
            tokens = block(tokens)
        return encoder.neck(tokens.permute(0, 3, 1, 2)), early

    def decode(self, features: Tensor, early: Tensor | None, decoder: Any) -> Tensor:
        """``MaskDecoder.predict_masks`` without prompts, and with the stem's map where there is one.

        Args:
            features: (B, decoder_dim, h, w).
            early: (B, 2 stem, 4 h, 4 w) or None.
            decoder: a :func:`mask_decoder` of C classes.

        Returns:
            Logits (B, C, 4 h, 4 w).
        """
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
        source = features + self.no_mask_embed.weight[:, :, None, None]
        seen, source = decoder.transformer(source, self.pe_layer(self.grid)[None], tokens)
        upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(features.shape))
        if early is not None and self.refine is not None:
            upscaled = self.refine(upscaled, early)
        pairs = enumerate(decoder.output_hypernetworks_mlps)
        weights = torch.stack([network(seen[:, 1 + k]) for k, network in pairs], dim=1)
        return torch.einsum("bkc,bchw->bkhw", weights, upscaled)


def fit_positions(state: Mapping[str, Tensor], network: SamNetwork) -> dict[str, Tensor]:
    """Fits absolute positions (bicubic) and relative positions (linear) of a checkpoint to the network's grid.

    Args:
        state: encoder positions of any grid: ``...pos_embed`` (1, h, w, dim), ``...rel_pos_h`` (2 h - 1, head).
        network: the network that will take them.

    Returns:
        The same mapping with positions of the network's shapes; everything else is passed on.
    """
    own, fitted = network.state_dict(), dict(state)
    for key, value in state.items():
        if key not in own or own[key].shape == value.shape:
            continue
        if key.endswith("pos_embed"):
            value = functional.interpolate(
                value.permute(0, 3, 1, 2).float(), network.grid, mode="bicubic", align_corners=False
            )
            fitted[key] = value.permute(0, 2, 3, 1)
        elif ".rel_pos_" in key:
            value = functional.interpolate(value.T[None].float(), own[key].shape[0], mode="linear")
            fitted[key] = value[0].T
    return fitted


def token_grid(image_size: tuple[int, int], size: int) -> tuple[int, int]:
    """Tokens along height and width where the longer side of the image is seen at ``size`` pixels."""
    longest = max(image_size)
    height, width = (max(1, round(side * size / longest / PATCH)) for side in image_size)
    return height, width
