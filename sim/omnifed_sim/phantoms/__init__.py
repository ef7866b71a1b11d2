"""Phantom sites: synthetic images in the formats and with the differences that real hospitals have."""

from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import Look, random_look
from omnifed_sim.phantoms.preset_sites import write_preset
from omnifed_sim.phantoms.stream import PHANTOMS, endless

__all__ = ["PHANTOMS", "Look", "Pair", "Phantom", "Scene", "endless", "random_look", "write_preset"]
