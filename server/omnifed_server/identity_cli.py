"""`omnifed-server init | admit | revoke | rotate | passphrase | roster`: who the coordinator is, and who belongs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from omnifed.cli.asking import PASSPHRASE, confirm, new_passphrase, passphrase, read_signed
from omnifed.files import write_atomic
from omnifed.trust import authority as trust
from omnifed.trust.expiry import warnings_of_coordinator
from omnifed.trust.identity import CoordinatorIdentity
from omnifed.trust.policy import FILE
from omnifed.trust.proposal import read_proposal
from omnifed.trust.request import open_request
from omnifed.trust.roster import Member
from omnifed.trust.signing import fingerprint

Identity = Annotated[Path, typer.Option("--identity", help="Folder that `omnifed-server init` made.")]
Authority = Annotated[Path | None, typer.Option("--authority", help="Folder of the authority's keys, if it was moved.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
HERE = Path("identity")

commands = typer.Typer()
"""Merged into ``omnifed-server``."""


@commands.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the coordinator's identity.")],
    name: Annotated[str, typer.Option(help="Name of the federation.")],
    server: Annotated[str, typer.Option(help="HOST:PORT by which sites reach this coordinator.")],
    encrypt: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the authority's keys: asks twice, or OMNIFED_PASSPHRASE.")
    ] = False,
) -> None:
    """Founds a federation: the authority, the server's certificate, an empty roster.

    Examples: `omnifed-server init identity --name chaos --server omnifed.example.org:443 --passphrase`;
    without `--passphrase` the authority's keys lie in clear, for a disk that is in a safe
    """
    phrase = new_passphrase(os.environ.get(PASSPHRASE, "")) if encrypt else ""
    identity = trust.found(folder, name, server, passphrase=phrase)
    console = _console()
    console.print(f"The federation {name} is founded in {folder}.", style="green")
    console.print(f"Its fingerprint, for the sites to compare by telephone: {fingerprint(identity.about.root)}")
    console.print(
        f"Move {folder / 'authority'} to a disk that you keep in a safe, with a copy. Only admit, revoke and rotate "
        "need it (--authority DIR); a coordinator that is broken into can then admit nobody."
    )
    console.print(
        "Keep its passphrase elsewhere: nobody can recover it."
        if encrypt
        else "Its keys are in clear: whoever has that disk can admit. To encrypt them: omnifed-server passphrase."
    )
    console.print(
        f"A policy that you propose to the sites: {folder / FILE}, as in docs/policy.md, before you admit them."
    )
    console.print(f'Next: identity = "{folder}" in the federation\'s file, and for each site: omnifed-server admit.')


@commands.command()
def admit(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="File from the site: omnifed-client enrol.")],
    identity: Identity = HERE,
    authority: Authority = None,
    out: Annotated[Path | None, typer.Option(help="File for the kit; default SITE-kit.json.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The site lost its keys: the old ones end at once.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Makes a site a member, or renews its keys, and writes the kit for it. Other sites notice nothing.

    Examples: `omnifed-server admit ct-request.json --identity identity --authority /media/safe/authority`;
    `omnifed-server admit ct-request.json --replace` if the site has lost its keys
    """
    console = _console()
    signed = read_signed(request)
    asked = open_request(signed)
    console.print(f"site         {asked.site}")
    console.print(f"fingerprint  {fingerprint(asked.sign)}")
    if asked.previous:
        console.print(f"in place of  {fingerprint(asked.previous)}")
    if read_proposal(identity) is not None:
        console.print(f"policy       {identity / FILE} is proposed to it")
    confirm(f"Has {asked.site} read this fingerprint to you?", yes)
    kit = trust.admit(identity, signed, authority=authority, passphrase=passphrase, replace=replace)
    file = out or Path(f"{asked.site}-kit.json")
    write_atomic(file, kit.to_json())
    root = CoordinatorIdentity.load(identity).about.root
    console.print(
        f"{asked.site} is a member. Send it {file}; the federation's fingerprint: {fingerprint(root)}", style="green"
    )


@commands.command()
def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="Registered name.")],
    identity: Identity = HERE,
    authority: Authority = None,
    yes: Yes = False,
) -> None:
    """Ends the membership of a site at once, in a running campaign too. Other sites notice nothing.

    Example: `omnifed-server revoke ct --identity identity`
    """
    confirm(f"Revoke {site}? To come back it needs new keys.", yes)
    roster = trust.revoke(identity, site, authority=authority, passphrase=passphrase)
    _console().print(f"{site} is revoked (roster {roster.version}).", style="green")


@commands.command()
def rotate(
    identity: Identity = HERE,
    authority: Authority = None,
    at_once: Annotated[
        bool, typer.Option("--now", help="The signing key was stolen: it ends at once, not in 7 days.")
    ] = False,
) -> None:
    """Renews what ends by itself: the server's certificate, the coordinator's signing key, the roster.

    A coordinator that runs signs with the new key from its next message on; messages that the old one has signed are
    taken for 7 days more, with `--now` no longer. Restart it for the new certificate.

    Examples: `omnifed-server rotate --identity identity --authority /media/safe/authority`;
    `omnifed-server rotate --now` if somebody has copied the coordinator's folder
    """
    roster = trust.rotate(identity, at_once=at_once, authority=authority, passphrase=passphrase)
    until, console = roster.coordinator[-1].until, _console()
    console.print(
        f"Renewed (roster {roster.version}). Next before {until:%Y-%m-%d}: omnifed-server rotate.", style="green"
    )
    if at_once:
        console.print(
            "Restart the coordinator: it then greets every site, which brings it the new roster. A site that is "
            "away, or kept from it, takes the old key until it has it: send it a new kit (omnifed-server admit, with "
            "the request that it sent)."
        )


@commands.command("passphrase")
def change_passphrase(
    identity: Identity = HERE,
    authority: Authority = None,
    remove: Annotated[bool, typer.Option("--remove", help="Leave the keys in clear.")] = False,
) -> None:
    """Sets, changes or removes the passphrase of the authority's keys. Copies that were made before keep theirs.

    Examples: `omnifed-server passphrase --authority /media/safe/authority`;
    `omnifed-server passphrase --remove` leaves the keys in clear
    """
    new = (lambda: "") if remove else new_passphrase
    trust.change_passphrase(identity, new, authority=authority, passphrase=passphrase)
    _console().print(f"The authority's keys are {'in clear' if remove else 'encrypted'}.", style="green")


@commands.command()
def roster(
    identity: Identity = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Shows who belongs to the federation, and what ends soon.

    Example: `omnifed-server roster --identity identity`
    """
    loaded, now = CoordinatorIdentity.load(identity), datetime.now(UTC)
    root, held = fingerprint(loaded.about.root), loaded.held()
    rows = [_row(member, held.standing(member.site, now)) for member in held.members]
    if as_json:
        about = {"federation": held.federation, "fingerprint": root, "version": held.version}
        typer.echo(json.dumps({**about, "expires": held.expires.isoformat(), "sites": rows}, indent=1))
        return
    table = Table("site", "standing", "fingerprint", "expires", box=None, pad_edge=False)
    for row in rows:
        style = "" if row["standing"] == "member" else "red"
        table.add_row(row["site"], row["standing"], row["fingerprint"], row["expires"][:10], style=style)
    console = _console()
    console.print(f"{held.federation}, fingerprint {root}")
    console.print(f"roster {held.version}, expires {held.expires:%Y-%m-%d}")
    console.print(table)
    for line in warnings_of_coordinator(loaded, now):
        console.print(line, style="yellow")


def _row(member: Member, standing: str) -> dict[str, str]:
    newest = member.terms[-1]
    return {
        "site": member.site,
        "standing": standing,
        "fingerprint": fingerprint(newest.sign),
        "expires": newest.until.isoformat(),
    }


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False)
