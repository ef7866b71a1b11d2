"""One real export for all tests of this folder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnifed.data.site import Normalisation, SiteConfig
from omnifed.export.onnx import ExportReport, export_student
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec

torch.set_num_threads(1)


def images(n: int, config: SiteConfig, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, config.channels, *config.image_size, generator=torch.Generator().manual_seed(seed))


def settled(spec: StudentSpec, config: SiteConfig) -> nn.Module:
    """A student whose statistics and weights are no longer those of the start."""
    model = build_student(spec, config.spec, seed=3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimiser.zero_grad()
        model(images(4, config, seed=step)).logits.square().mean().backward()
        optimiser.step()
    return model


@pytest.fixture(scope="session")
def config() -> SiteConfig:
    return SiteConfig(
        name="test",
        modality="oct",
        labels={0: "background", 1: "fluid", 2: "drusen"},
        channels=1,
        image_size=(64, 32),
        normalisation=Normalisation(kind="minmax"),
    )


@pytest.fixture(scope="session")
def student(config: SiteConfig) -> nn.Module:
    return settled(StudentSpec(alpha=0.6, beta=0.5), config)


@pytest.fixture(scope="session")
def exported(student: nn.Module, config: SiteConfig, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_student(student, config, tmp_path_factory.mktemp("export") / "student.onnx", images(10, config))
