"""All networks that a search may choose from, with their exact costs. Needs no torch.

Widths and depths are rounded (:mod:`omnifed.models.scaling`), so only hundreds of distinct networks exist: they are
listed, not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import CHANNEL_STEP, STAGES, architecture_key, blocks, channels, costs
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.search.spec import ArchitectureSpec

STEMS, FUSIONS = (1, 2), ("group", "depthwise")
"""The options in the order in which a genome counts them."""
SMALLEST, LARGEST = StudentSpec(alpha=0.6, beta=0.5), StudentSpec(alpha=1.5, beta=2.0)
"""Of the family: where the features are 0 and 1."""


@dataclass(frozen=True)
class Network:
    """One distinct network.

    Attributes:
        key: architecture key.
        student: its representative: the paper's preset where one rounds to this network, else the roundest numbers.
        params, macs: exact costs.
    """

    key: str
    student: StudentSpec
    params: int
    macs: int


def enumerate_space(
    spec: ArchitectureSpec, base: StudentSpec, site: SiteSpec, size: tuple[int, int]
) -> tuple[Network, ...]:
    """Every distinct network within the bounds, once.

    Args:
        spec: bounds of alpha and beta, and the options to choose between.
        base: its options hold where ``spec`` names none; its alpha and beta mean nothing.
        site: channels and classes, for the costs.
        size: height and width of the image in pixels, for the costs.

    Returns:
        Networks by option set, then depth, then width.
    """
    stems = spec.stem_strides or (base.stem_stride,)
    fusions = spec.fusions or (base.fusion,)
    found = {}
    widths = list(_widths(spec.beta))
    for stem, fusion in product(dict.fromkeys(stems), dict.fromkeys(fusions)):
        for alpha, beta in product(_depths(spec.alpha), widths):
            student = base.model_copy(update=_round(spec, alpha, beta) | {"stem_stride": stem, "fusion": fusion})
            key = architecture_key(student)
            if key not in found:
                cost = costs(student, site, size)
                found[key] = Network(key, student, cost.params, cost.macs)
    return tuple(found.values())


def _round(spec: ArchitectureSpec, alpha: float, beta: float) -> dict[str, float]:
    """The preset's numbers where these round to the preset's network."""
    at = StudentSpec(alpha=alpha, beta=beta)
    for name in PRESETS:
        preset = StudentSpec(alpha=PRESETS[name][0], beta=PRESETS[name][1])
        inside = spec.alpha[0] <= preset.alpha <= spec.alpha[1] and spec.beta[0] <= preset.beta <= spec.beta[1]
        if inside and architecture_key(preset) == architecture_key(at):
            return {"alpha": preset.alpha, "beta": preset.beta}
    return {"alpha": alpha, "beta": beta}


def _depths(bounds: tuple[float, float]) -> list[float]:
    """One alpha for each number of blocks: a tenth of it, moved into the bounds."""
    low, high = (sum(blocks(StudentSpec(alpha=alpha)).encoder) for alpha in bounds)
    return [min(max(n / 10, bounds[0]), bounds[1]) for n in range(low, high + 1)]


def _widths(bounds: tuple[float, float]) -> Iterator[float]:
    """The roundest beta for each distinct width."""
    seen = set()
    for low, high in pairwise([*sorted({*bounds, *_breaks(bounds)}), bounds[1]]):
        beta = _roundest(low, high)
        wide = channels(StudentSpec(beta=beta))
        if wide not in seen:
            seen.add(wide)
            yield beta


def _breaks(bounds: tuple[float, float]) -> Iterator[float]:
    """Every beta within the bounds at which a stage gets 16 channels more."""
    for stage in range(STAGES):
        steps = min(256, 24 * 2**stage) / CHANNEL_STEP
        for k in range(1, math.ceil(steps * bounds[1] ** 0.75) + 2):
            beta = float(((k - 0.5) / steps) ** (4 / 3))
            if bounds[0] < beta < bounds[1]:
                yield beta


def _roundest(low: float, high: float) -> float:
    """The number of fewest decimals within an interval of equal networks, the middle one of these."""
    wide = channels(StudentSpec(beta=(low + high) / 2))
    for digits in (1, 2, 3, 4):
        scale = 10**digits
        fits = [k / scale for k in range(math.ceil(low * scale), math.floor(high * scale) + 1)]
        fits = [beta for beta in fits if channels(StudentSpec(beta=beta)) == wide]
        if fits:
            return fits[len(fits) // 2]
    return (low + high) / 2


class Space:
    """Networks as arrays.

    Args:
        networks: at least one; one option set or several.

    Attributes:
        keys: architecture keys.
        index: position by key.
        features: (N, 4) float64: depth and width (0 for the smallest of the family, 1 for the largest, both in
            logarithms; width is the geometric mean of the stages' channels), stem and fusion (0 or 1).
        genomes: (N, 4) float64: log alpha, log beta, position of stem and of fusion among the options.
        stems, fusions: the options, as genomes count them.
        bounds: (2, 4) float64: of genomes.

    Raises:
        OmniFedError: OF741 for no networks.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        if not networks:
            raise OmniFedError(
                "OF741",
                "An architecture search needs at least one network to choose from.",
                seen="no network within the bounds",
                remedy="Widen alpha and beta.",
            )
        self.networks = tuple(networks)
        self.keys = tuple(network.key for network in networks)
        self.index = {key: i for i, key in enumerate(self.keys)}
        students = [network.student for network in networks]
        self.stems = [stem for stem in STEMS if any(s.stem_stride == stem for s in students)]
        self.fusions = [fusion for fusion in FUSIONS if any(s.fusion == fusion for s in students)]
        low, high = (np.array(_size(student)) for student in (SMALLEST, LARGEST))
        sizes = (np.array([_size(student) for student in students]) - low) / (high - low)
        options = [(STEMS.index(s.stem_stride), FUSIONS.index(s.fusion)) for s in students]
        self.features = np.hstack([sizes, np.array(options, dtype=float)])
        self.genomes = np.array(
            [
                [math.log(s.alpha), math.log(s.beta), self.stems.index(s.stem_stride), self.fusions.index(s.fusion)]
                for s in students
            ]
        )
        self.bounds = np.stack([self.genomes.min(0), self.genomes.max(0)])
        self._decoded: dict[tuple[float, ...], int] = {}

    def __len__(self) -> int:
        return len(self.networks)

    def position(self, genome: Sequence[float]) -> int:
        """The network that a genome rounds to."""
        at = tuple(float(gene) for gene in genome)
        if at not in self._decoded:
            options = {"stem_stride": self.stems[round(at[2])], "fusion": self.fusions[round(at[3])]}
            size = {"alpha": math.exp(at[0]), "beta": math.exp(at[1])}
            key = architecture_key(self.networks[0].student.model_copy(update=size | options))
            near = int(np.abs(self.genomes - np.array(at)).sum(1).argmin())
            self._decoded[at] = self.index.get(key, near)
        return self._decoded[at]

    def nearest(self, student: StudentSpec) -> int:
        """The network whose features are nearest to a student's."""
        key = architecture_key(student)
        if key in self.index:
            return self.index[key]
        low, high = (np.array(_size(one)) for one in (SMALLEST, LARGEST))
        at = np.array([*((np.array(_size(student)) - low) / (high - low)), STEMS.index(student.stem_stride)])
        at = np.append(at, FUSIONS.index(student.fusion))
        return int(((self.features - at) ** 2).sum(1).argmin())


def _size(student: StudentSpec) -> tuple[float, float]:
    """Logarithms of blocks and of the mean width."""
    return math.log(sum(blocks(student).encoder)), float(np.mean(np.log(channels(student))))
