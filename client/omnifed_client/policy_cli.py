"""`omnifed-client policy show | check | sign`: what this site lets a federation do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from omnifed.cli.shared import App
from omnifed.trust.audit import own_keys
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.policy import FILE, Policy, load_policy, read_policy, sign_policy
from omnifed.trust.proposal import first_policy
from omnifed.trust.signing import fingerprint
from omnifed_client.identity_cli import Site, State, identity_folder, say_differences

commands = App(
    help="""What this site lets a federation do with its data (docs/policy.md).

**Examples**

`omnifed-client policy show --site ct` what is in force

`omnifed-client policy sign --site ct` after `policy.toml` was changed: nothing else holds
"""
)


@commands.command()
def show(site: Site = "", state: State = None) -> None:
    """Shows what the policy says, and whether it is in force.

    Example: `omnifed-client policy show --site ct`
    """
    folder = identity_folder(site, state)
    Console().print(_table(load_policy(folder)))
    say_differences(Console(highlight=False, soft_wrap=True, markup=False), SiteIdentity.load(folder))
    _say_in_force(folder)


@commands.command()
def check(site: Site = "", state: State = None) -> None:
    """Exit status 0 if the policy is signed as it is and has not expired.

    Example: `omnifed-client policy check --site ct`
    """
    _say_in_force(identity_folder(site, state))


@commands.command()
def sign(site: Site = "", state: State = None) -> None:
    """Signs the policy as it is in the file, with the site's key; where there is none it writes a cautious one first.

    Example: `omnifed-client policy sign --site ct`
    """
    folder = identity_folder(site, state)
    identity = SiteIdentity.load(folder)
    if not first_policy(folder, identity.key, identity.kit.policy):
        sign_policy(folder, identity.key)
    Console().print(_table(load_policy(folder)))
    _say_in_force(folder)


def _say_in_force(folder: Path) -> None:
    identity = SiteIdentity.load(folder)
    policy = read_policy(folder, own_keys(identity))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    signer = f"signed by {identity.site} ({fingerprint(identity.key.public)})"
    console.print(f"in force until {policy.expires}: {folder / FILE}, {signer}", style="green")


def _table(policy: Policy) -> Table:
    table = Table("key", "value", "means", box=None, pad_edge=False)
    for key, (value, meaning) in _meanings(policy).items():
        table.add_row(key, value, meaning)
    return table


def _meanings(policy: Policy) -> dict[str, tuple[str, str]]:
    p = policy
    threshold = str(p.min_threshold) if p.min_threshold else "two thirds, at least 3"
    return {
        "purposes": (", ".join(p.purposes) or "none", "campaigns for anything else are refused"),
        "tasks": (", ".join(p.tasks) or "none", "kinds of task that are done"),
        "modes": (", ".join(p.modes) or "none", "how weights may leave; private: never seen alone"),
        "max_campaigns": (str(p.max_campaigns), "campaigns that are served, ever"),
        "max_rounds": (str(p.max_rounds), "trainings of one campaign"),
        "epsilon": (f"{p.epsilon:g}" if p.epsilon else "no bound", "differential privacy, over all campaigns"),
        "require_dp": ("yes" if p.require_dp else "no", "refuse students without differential privacy"),
        "min_sites": (str(p.min_sites), "of a private round"),
        "min_threshold": (threshold, "sites that must stay in a private round"),
        "partners": (", ".join(p.partners) or "any", "must take part in a private round"),
        "min_cases": (str(p.min_cases), "classes with fewer cases leave without scores"),
        "expires": (str(p.expires), "the last day; the client stops then"),
    }
