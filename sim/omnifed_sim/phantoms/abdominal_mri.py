"""Abdominal MR, several organs and a rare lesion: arbitrary units, a coil's shading, weightings from T1 to T2."""

from __future__ import annotations

import numpy as np

from omnifed.data.site import Normalisation
from omnifed_sim.phantoms.abdomen import anatomy
from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import acquire
from omnifed_sim.phantoms.shapes import field, lay, soft

TISSUE = {
    "fat": (1.0, 0.9),
    "muscle": (0.42, 0.24),
    "bowel": (0.42, 0.55),
    "fluid": (0.18, 0.95),
    "bone": (0.45, 0.40),
    "vessel": (0.22, 0.15),
    "kidney": (0.56, 0.72),
    "spleen": (0.30, 0.58),
    "liver": (0.60, 0.42),
    "lesion": (0.26, 0.70),
}
"""Signal (0..1) by tissue, (T1, T2); a scanner's phase lies between the two."""


def _paint(s: Scene) -> Pair:
    a, b, shot = anatomy(s), s.body, s.shot
    signal = {
        name: (t1 + (t2 - t1) * s.look.phase) * float(np.exp(b.normal(0, 0.11))) for name, (t1, t2) in TISSUE.items()
    }
    mottle = field(shot, s.size, 24, 6, 0.5)
    image = np.full((s.size, s.size), 0.03, np.float32)
    lay(image, a.body, signal["fat"] * (1 + 0.06 * mottle), 0.015)
    lay(image, a.wall, signal["muscle"] * (1 + 0.12 * mottle), 0.02)
    lay(image, a.cavity, signal["fat"] * b.uniform(0.75, 1.0) * (1 + 0.12 * mottle), 0.03)
    lay(image, a.vessel, signal["vessel"])
    lay(image, a.bowel, signal["bowel"] * (1 + 0.2 * mottle), 0.02)
    loops = np.minimum(a.bowel - 0.03, 0.05 * s.look.distractors * field(b, s.size, 10, 3))
    lay(image, loops, signal["spleen"] if b.uniform() < 0.5 else signal["fluid"], 0.02)
    lay(image, a.stomach, signal["bowel"], 0.02)
    lay(
        image, a.stomach - 0.04, signal[str(b.choice(["fluid", "fluid", "liver", "spleen"]))] * (1 + 0.1 * mottle), 0.02
    )
    for organ in (a.kidney, a.spleen, a.liver):  # a thin layer of fat lies around each
        lay(image, np.minimum(organ + 0.035, a.cavity), signal["fat"] * 0.9, 0.02)
    lay(image, a.kidney, signal["kidney"], 0.02)
    lay(image, a.kidney - 0.06, signal["kidney"] * 0.55, 0.02)
    lay(image, a.spleen, signal["spleen"] * (1 + 0.04 * mottle), 0.02)
    lay(image, a.liver, signal["liver"] * (1 + 0.05 * mottle), 0.02)
    image += (signal["vessel"] - signal["liver"]) * 0.7 * a.veins * soft(a.liver, 0.02)
    lay(image, a.lesions, signal["lesion"] * (1 + 0.05 * mottle), 0.025)
    lay(image, a.gallbladder, signal["fluid"], 0.02)
    lay(image, a.bone, signal["bone"] * (1 + 0.1 * mottle), 0.02)
    mask = np.zeros((s.size, s.size), np.uint8)
    for label, level in ((2, a.kidney), (3, a.spleen), (1, a.liver), (4, a.lesions)):
        mask[(level > 0) & (a.gallbladder <= 0)] = label
    image = acquire(image, shot, s.look, noise=0.035)
    return np.clip(image, 0, 1.6) * 700, mask


PHANTOM = Phantom(
    name="abdominal_mri",
    modality="mri",
    labels={0: "background", 1: "liver", 2: "kidney", 3: "spleen", 4: "lesion"},
    channels=1,
    normalisation=Normalisation(kind="percentile", percentiles=(0.5, 99.5)),
    native="dicom",
    rare=(4,),
    paint=_paint,
)
