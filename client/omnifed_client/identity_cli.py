"""`omnifed-client enrol | join | rotate`: how a site comes to its identity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from omnifed.cli.asking import confirm, read_signed
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust import enrolment
from omnifed.trust.expiry import warnings_of_site
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.kit import Kit, open_kit
from omnifed.trust.policy import FILE, load_policy
from omnifed.trust.proposal import differences, first_policy
from omnifed.trust.signing import Signed, fingerprint
from omnifed_client.config import load_client

Site = Annotated[str, typer.Option("--site", help="Registered name of the site.")]
State = Annotated[Path | None, typer.Option("--state", help="State folder instead of the configuration's.")]
Out = Annotated[Path | None, typer.Option("--out", help="File for the request; default SITE-request.json.")]
commands = typer.Typer()
"""Merged into ``omnifed-client``."""


@commands.command()
def enrol(site: Site = "", state: State = None, out: Out = None) -> None:
    """Makes the site's keys, which never leave this machine, and a request for the coordinator.

    Run again it writes the same request.

    Example: `omnifed-client enrol --site ct`
    """
    _hand_over(site, enrolment.enrol(identity_folder(site, state), site), out, state)


@commands.command()
def rotate(site: Site = "", state: State = None, out: Out = None) -> None:
    """Makes new keys beside the old ones, and a request that the old ones vouch for.

    The old keys stay in use until `omnifed-client join` takes the answer; the coordinator ends them 7 days after its
    answer.

    Example: `omnifed-client rotate --site ct`
    """
    _hand_over(site, enrolment.renew(identity_folder(site, state)), out, state)


@commands.command()
def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="File from the coordinator.")],
    state: State = None,
    expected: Annotated[
        str, typer.Option("--fingerprint", help="Of the federation, as the coordinator read it to you.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Takes the coordinator's answer to enrol or rotate.

    A site without policy begins with a cautious one, or what the federation proposes where that is stricter.

    Examples: `omnifed-client join ct-kit.json`;
    `omnifed-client join ct-kit.json --fingerprint "ab12 cd34 ..."` in scripts
    """
    signed = read_signed(kit)
    opened = open_kit(signed)
    folder = identity_folder(opened.site, state)
    console = _console()
    console.print(f"federation   {opened.federation}, coordinator {opened.server}")
    console.print(f"fingerprint  {fingerprint(opened.root)}")
    if expected:
        _compare(opened, expected)
    elif not _joined(folder, opened):
        confirm("Has the coordinator read this fingerprint to you?", yes)
    identity = enrolment.join(folder, signed)
    console.print(f"{identity.site} has joined {opened.federation}, until {opened.expires:%Y-%m-%d}.", style="green")
    if first_policy(folder, identity.key, opened.policy):
        command = f"omnifed-client policy show --site {identity.site}{_there(state)}"
        console.print(f"Review {folder / FILE}: {command}", style="green")
    say_differences(console, identity)
    for line in warnings_of_site(identity):
        console.print(line, style="yellow")


def identity_folder(site: str, state: Path | None) -> Path:
    """Identity folder of a site: in ``state``, else where its configuration says, else in the default state folder.

    Raises:
        OmniFedError: OF143 without a site, OF101, OF102 or OF133 if its configuration is wrong.
    """
    if not site:
        raise OmniFedError("OF143", "A client must be told which site it is.", remedy="Give --site NAME.")
    # Identity needs no data: any folder stands for it.
    return load_client(site, data=Path(), state=state).state / "identity"


def say_differences(console: Console, identity: SiteIdentity) -> None:
    """Prints where the federation proposes another policy than the site has."""
    proposal = identity.kit.policy
    lines = differences(load_policy(identity.folder), proposal) if proposal else []
    if lines:
        console.print("The federation proposes otherwise; what is in your file holds:", style="yellow")
        for line in lines:
            console.print(f"  {line}", style="yellow")


def _there(state: Path | None) -> str:
    """What the next command must be told of the state folder."""
    return f" --state {state}" if state else ""


def _hand_over(site: str, request: Signed, out: Path | None, state: Path | None) -> None:
    file = out or Path(f"{site}-request.json")
    write_atomic(file, request.to_json())
    console = _console()
    console.print(
        f"Send {file} to the coordinator; nothing in it is secret. Then: omnifed-client join KIT{_there(state)}",
        style="green",
    )
    console.print(f"fingerprint, to read to the coordinator by telephone: {fingerprint(request.key)}")


def _compare(kit: Kit, expected: str) -> None:
    seen = fingerprint(kit.root)
    if "".join(expected.lower().split()) != seen.replace(" ", ""):
        raise OmniFedError(
            "OF808",
            "A kit is taken from the federation whose fingerprint was given.",
            seen=f"{seen}, given {expected}",
            remedy="Ask the coordinator by telephone. If it reads another one, somebody else has made this kit.",
        )


def _joined(folder: Path, kit: Kit) -> bool:
    """Whether the site trusts this authority already."""
    file = folder / "kit.json"
    return file.is_file() and open_kit(read_signed(file)).root == kit.root


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False)
