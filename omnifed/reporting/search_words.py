"""What a search found, in short names and plain words: for the report, the terminal and the figures. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from omnifed.distill.spec import LAMBDA, TERMS, TermName
from omnifed.search.results import Agreement, ArchitectureResult, DeviceResult, Difference, WeightResult
from omnifed.search.spec import MEASURED

TABLE3 = LAMBDA["universal"]
"""The mean of the paper's Table 3, against which weights are held."""
METHOD = {
    "surrogate": "NSGA-II over draws of a Gaussian process of Dice",
    "nsga2": "modified NSGA-II (log-scale crossover and mutation, each network once)",
    "random": "networks drawn at random",
}
EVIDENCE = {
    "measured": "on the devices themselves",
    "published": "by others; not measured here",
    "modelled": "computed by a latency model from other figures; not measured network by network",
}
_MINUS = "−"


class Names:
    """Short names of architecture keys, unique within one result.

    ``omnisegnet/c16-32-64-112-160/e2-1-1-1-1/d2-2-1-1/stem1/group/batch/se/aspp`` is ``n6 c16-32-64-112-160``: n blocks
    in the encoder and as many in the decoder, c channels by stage; of the options only those that differ.

    Args:
        keys: all that are to be told apart.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        options = [set(key.split("/")[4:]) | {key.split("/")[0]} for key in keys]
        self._common: set[str] = set.intersection(*options) if options else set()

    def __call__(self, key: str) -> str:
        """The short name; the whole key where it does not have the known form."""
        family, *parts = key.split("/")
        try:
            widths, encoder, decoder = parts[:3]
            if (widths[0], encoder[0], decoder[0]) != ("c", "e", "d"):
                return key
            blocks = sum(map(int, encoder[1:].split("-")))
        except (ValueError, IndexError):
            return key
        options = [option for option in (*parts[3:], family) if option not in self._common]
        return " ".join([f"n{blocks}", widths, *options])


def names_of(result: ArchitectureResult) -> Names:
    """Short names of all keys in a result."""
    return Names([network.key for network in result.networks])


def fixed(value: float, digits: int) -> str:
    """A figure with fixed digits and a real minus sign; no minus before nothing."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", _MINUS)


def points(difference: Difference) -> str:
    """``+1.2 (-0.3 to 2.7)``, in Dice points."""
    sign = "+" if round(difference.points, 1) > 0 else ""
    interval = f"{fixed(difference.low, 1)} to {fixed(difference.high, 1)}"
    return f"{sign}{fixed(difference.points, 1)} ({interval})"


def lambdas(weights: dict[TermName, float]) -> str:
    """``logits 1.72, features 1.83, ...`` in OmniKD's order."""
    return ", ".join(f"{term} {weights.get(term, 0.0):.2f}" for term in TERMS)


def where(device: DeviceResult) -> str:
    """The class of devices in words."""
    if device.profile == MEASURED:
        own = "the sites' own devices"
        return own if device.name in ("sites", MEASURED) else f"{device.name} ({own})"
    return device.name if device.profile in ("", device.name) else f"{device.name} (profile {device.profile})"


def chosen_words(result: ArchitectureResult, device: DeviceResult) -> str:
    """The chosen student of one class of devices: what it is, what is expected of it, and what it costs."""
    network = next((n for n in result.networks if n.key == device.chosen), None)
    member = next((m for m in device.front if m.key == device.chosen), None)
    if network is None or member is None:
        return f"No student was chosen for {where(device)}."
    tried = "" if network.trials else ", predicted and never tried"
    memory = f" of {device.memory_mib:g}" if device.memory_mib else ""
    spec = network.student
    return (
        f"Chosen for {where(device)}: {names_of(result)(network.key)} (alpha {spec.alpha:.2f}, beta {spec.beta:.2f}), "
        f"{network.params / 1e6:.2f} M parameters. Expected Dice {network.dice:.3f} ± {network.sd:.3f} in trials of "
        f"the highest fidelity{tried}; p95 {member.p95_ms:.1f} ms of {device.latency_ms:g} ms ({device.evidence}), "
        f"{member.peak_mib:.0f}{memory} MiB."
    )


def agreement_words(found: Agreement | None) -> Iterator[str]:
    """Whether brief trials can be trusted, in sentences."""
    if found is None:
        yield "Whether brief trials can be trusted is not known: no network was trained longer as well."
        return
    long = f"full trainings of {found.long} steps" if found.full else f"longer trials of {found.long} steps"
    interval = (
        ""
        if found.low is None or found.high is None
        else f" (95 % interval {fixed(found.low, 2)} to {fixed(found.high, 2)})"
    )
    yield (
        f"Kendall's tau between brief trials of {found.brief} steps and {long} of the same {found.networks} networks: "
        f"{fixed(found.tau, 2)}{interval}. About {50 * (1 + found.tau):.0f} % of all pairs of networks come in the "
        "same order."
    )
    if found.low is None or found.high is None:
        yield "These are too few networks for an interval: the figure is an anecdote, not evidence."
    elif found.low > 0:
        strength = "closely" if found.tau >= 0.7 else "roughly" if found.tau >= 0.4 else "weakly"
        yield f"Brief trials order networks {strength} as longer training does, and better than chance."
    elif found.high < 0:
        yield "Brief trials order networks against longer training: do not trust this search. Use longer trials."
    else:
        yield (
            "The interval includes 0: by these networks alone it is not shown that brief trials order networks better "
            "than chance. Compare more networks, or use longer trials."
        )
    if not found.full:
        yield "The longer ones are no full trainings: what holds after all rounds is not shown by them."


def told_apart_words(result: WeightResult) -> str:
    """What to do with the weights found, as far as the data tell."""
    if not result.told_apart:
        return (
            "The data do not tell the weights found apart from Table 3's mean: every 95 % interval of the gain "
            f"includes 0. Keep Table 3's mean ({lambdas(TABLE3)}): chance alone makes differences like these."
        )
    rows = [row for row in (result.universal, *result.sites) if row.gain.told_apart]
    named = "; ".join(f"{row.site} {points(row.gain)}" for row in rows)
    rest = len(result.sites) + 1 - len(rows)
    others = f" The other {rest} rows are not told apart from it: keep Table 3's mean there." if rest else ""
    return f"Told apart from Table 3's mean, gain in Dice points with its 95 % interval: {named}.{others}"
