"""What an architecture search chooses among: networks, the devices that they must run on, the sites that try them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from omnifed.devices.measurement import Estimate
from omnifed.models.spec import StudentSpec
from omnifed.search.budgets import Device
from omnifed.search.dice_model import DiceModel
from omnifed.search.space import Network, Space
from omnifed.search.spec import ArchitectureSpec, Target
from omnifed.search.trials import Observation, Trial, Why, make_trial


class ArchitectureProblem:
    """Networks with their costs, and what is made of them: trials and the model of Dice.

    Args:
        study: name of the study; part of the trials' ids.
        spec: how to search; its budget is the caller's business.
        base: the campaign's student; its options are the anchor's.
        networks: the space.
        estimates: by target's name, then by architecture key.
        targets: classes of devices, with their budgets; at least one.
        sites: registered names of the sites that take part.
        full_steps: of a training in full.

    Attributes:
        space: the networks.
        devices: the targets, with the costs of all networks.
        usable: (N,) whether a network is within the budgets of a target.
        anchor: position of the network of alpha = beta = 1, with which sites are compared.
        rungs: steps of each fidelity.

    Raises:
        OmniFedError: OF740 for a budget that no network meets, OF741 for no networks.
    """

    def __init__(
        self,
        study: str,
        spec: ArchitectureSpec,
        base: StudentSpec,
        networks: Sequence[Network],
        estimates: Mapping[str, Mapping[str, Estimate]],
        targets: Sequence[Target],
        sites: Sequence[str],
        full_steps: int = 0,
    ) -> None:
        self.study, self.spec, self.sites, self.full_steps = study, spec, tuple(sites), full_steps
        self.space = Space(networks)
        self.devices = tuple(Device(target, self.space, estimates[target.name]) for target in targets)
        self.usable = np.any([device.fits for device in self.devices], axis=0)
        self.anchor = self.space.nearest(base.model_copy(update={"alpha": 1.0, "beta": 1.0}))
        self.rungs = tuple(spec.steps * spec.eta**rung for rung in range(spec.rungs))

    def model(self, told: Sequence[Observation]) -> DiceModel:
        """The process of Dice after some observations."""
        return DiceModel(told, self.space, self.sites, (self.rungs[0], self.rungs[-1]))

    def trial(self, at: int, site: str, steps: int, why: Why, fraction: float | None = None) -> Trial:
        """A trial of the network at a position."""
        network = self.space.networks[at]
        return make_trial(
            self.study,
            network.key,
            site,
            steps=steps,
            fraction=fraction or self.spec.fraction,
            student=network.student,
            why=why,
        )
