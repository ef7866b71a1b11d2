"""A site's part in a private round: four answers, each given once (Bonawitz et al., CCS 2017).

Everything is a function of what the site holds (:class:`~omnifed.privacy.secagg.records.Held`, secret) and of the
request. No function here touches disk or network: who calls them keeps the new ``Held`` before the answer leaves.
docs/secure-aggregation.md has the protocol and what it protects.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.privacy.secagg import keys as k
from omnifed.privacy.secagg.errors import refused_keys, refused_request, refused_shares, refused_survivors
from omnifed.privacy.secagg.keys import Advert, Parties, Session
from omnifed.privacy.secagg.masks import add_mask, take_mask
from omnifed.privacy.secagg.records import RECEIPT, SURVIVORS, Held, Receipt, Revealed, Shared, Survivors, sha256
from omnifed.privacy.secagg.shamir import SHARE_BYTES, split
from omnifed.trust.roster import Roster
from omnifed.trust.signing import Signed, SigningKey, canonical


def begin(session: Session, site: str, threshold: int, sites: Sequence[str], key: SigningKey) -> Held:
    """New secrets for a session.

    Args:
        session: never begun before at this site.
        site: its own name.
        threshold: sites that must stay to the end.
        sites: those of the round.
        key: the site's; signs :attr:`Held.advert`.
    """
    channel, mask, seed = k.new_key(), k.new_key(), k.new_key()
    advert = Advert(session=session, site=site, channel=k.public_of(channel), mask=k.public_of(mask))
    return Held(
        session=session,
        site=site,
        threshold=threshold,
        sites=tuple(sites),
        channel=channel.hex(),
        mask=mask.hex(),
        seed=seed.hex(),
        advert=Signed.seal(k.KEYS, advert, key),
    )


def share(held: Held, keys: Sequence[Signed], roster: Roster) -> tuple[Held, Shared]:
    """Shares both secrets with the sites of a list.

    Raises:
        OmniFedError: OF841 if the list is not what a site may trust, OF842 if it has answered another one.
    """
    again = _once(held, "shares", [one.model_dump() for one in keys])
    if again and held.shared:
        return held, held.shared
    parties = Parties.open(keys, held.session, roster, held.sites)
    if held.advert not in keys:
        raise refused_keys("this site's own keys are missing or altered")
    if len(parties.adverts) < held.threshold:
        raise refused_keys(f"{len(parties.adverts)} sites, threshold {held.threshold}")
    count = len(parties.adverts)
    seeds = split(bytes.fromhex(held.seed), held.threshold, count)
    masks = split(bytes.fromhex(held.mask), held.threshold, count)
    pairs = dict(zip(parties.adverts, zip(seeds, masks, strict=True), strict=True))
    private = bytes.fromhex(held.channel)
    shared = Shared(
        sealed={
            site: base64.b64encode(
                k.seal_share(private, advert.channel, parties, held.site, site, b"".join(pairs[site]))
            ).decode()
            for site, advert in parties.adverts.items()
            if site != held.site
        },
        commitment=k.commitment(bytes.fromhex(held.seed), parties, held.site),
        digests={site: (sha256(one), sha256(other)) for site, (one, other) in pairs.items()},
    )
    kept = pairs[held.site][0].hex(), pairs[held.site][1].hex()
    asked = held.asked | {"shares": _request([one.model_dump() for one in keys])}
    return held.model_copy(update={"keys": tuple(keys), "kept": kept, "shared": shared, "asked": asked}), shared


def mask(held: Held, inbox: Mapping[str, str], vector: np.ndarray, key: SigningKey) -> tuple[Held, np.ndarray, Signed]:
    """The site's vector under its masks.

    Args:
        held: after :func:`share`.
        inbox: sealed shares by the site that they come from.
        vector: (n,) uint32.
        key: the site's; signs the receipt.

    Returns:
        What the site holds now, the masked vector (n,) uint32, and the receipt.

    Raises:
        OmniFedError: OF842 out of order or for another inbox than before, OF843 if a share does not open or they are
            fewer than the threshold.
    """
    if held.shared is None:
        raise refused_request("masked before shares")
    _once(held, "masked", dict(inbox))
    parties = Parties.read(held.keys, held.session)
    for sender in inbox:
        _shares_of(held, parties, sender, inbox)
    if len(inbox) + 1 < held.threshold:
        raise refused_shares(f"shares of {len(inbox)} other sites, threshold {held.threshold}")
    masked = vector.copy()
    add_mask(masked, k.own_seed(bytes.fromhex(held.seed), parties, held.site))
    for other in inbox:
        seed = k.mask_seed(bytes.fromhex(held.mask), parties.adverts[other].mask, parties, held.site, other)
        (add_mask if held.site < other else take_mask)(masked, seed)
    receipt = Receipt(
        session=held.session, keys=parties.digest.hex(), site=held.site, masks=tuple(sorted((held.site, *inbox)))
    )
    asked = held.asked | {"masked": _request(dict(inbox))}
    held = held.model_copy(update={"inbox": dict(inbox), "asked": asked})
    return held, masked, Signed.seal(RECEIPT, receipt, key)


def reveal(held: Held, survivors: Signed, receipts: Sequence[Signed], roster: Roster) -> tuple[Held, Revealed]:
    """Shares of the seeds of the survivors, and of the mask keys of the others that had shared their secrets.

    Raises:
        OmniFedError: OF842 out of order or for another list than before, OF844 if the list may not be served.
    """
    if "masked" not in held.asked:
        raise refused_request("unmask before masked")
    request = [survivors.model_dump(), [one.model_dump() for one in receipts]]
    _once(held, "unmask", request)
    parties = Parties.read(held.keys, held.session)
    masks = tuple(sorted((held.site, *held.inbox)))
    stay = _survivors(held, parties, survivors, roster)
    _check_receipts(parties, stay, masks, receipts)
    revealed = Revealed(
        seeds={site: _shares_of(held, parties, site, held.inbox)[0] for site in masks if site in stay},
        keys={site: _shares_of(held, parties, site, held.inbox)[1] for site in masks if site not in stay},
    )
    return held.model_copy(update={"asked": held.asked | {"unmask": _request(request)}}), revealed


def _once(held: Held, exchange: str, request: object) -> bool:
    """Whether this very request was answered before."""
    before = held.asked.get(exchange)
    if before is not None and before != _request(request):
        raise refused_request(f"another request for {exchange}")
    return before is not None


def _shares_of(held: Held, parties: Parties, owner: str, inbox: Mapping[str, str]) -> tuple[str, str]:
    """This site's shares (hex) of the seed and of the mask key of ``owner``."""
    if owner == held.site and owner not in inbox:
        return held.kept
    if owner not in parties.adverts or owner == held.site:
        raise refused_shares(f"shares from {owner}, which is no other site of the list")
    try:
        sealed = base64.b64decode(inbox[owner], validate=True)
    except (binascii.Error, ValueError):
        raise refused_shares(f"the share from {owner} is no base64") from None
    public = parties.adverts[owner].channel
    both = k.open_share(bytes.fromhex(held.channel), public, parties, owner, held.site, sealed)
    if len(both) != 2 * SHARE_BYTES:
        raise refused_shares(f"the share from {owner} has {len(both)} bytes")
    return both[:SHARE_BYTES].hex(), both[SHARE_BYTES:].hex()


def _survivors(held: Held, parties: Parties, signed: Signed, roster: Roster) -> frozenset[str]:
    try:
        listed = signed.open(SURVIVORS, Survivors, roster.coordinator_keys(), "the survivors")
    except OmniFedError as error:
        raise refused_survivors(error.seen) from None
    if listed.session != held.session or listed.keys != parties.digest.hex():
        raise refused_survivors("a list of another session")
    stay = frozenset(listed.sites)
    if len(stay) < len(listed.sites) or not stay <= {held.site, *held.inbox}:
        raise refused_survivors("a site comes twice, or has no mask in the sum")
    if held.site not in stay or len(stay) < held.threshold:
        raise refused_survivors(f"{len(stay)} survivors, threshold {held.threshold}, this site in it or not")
    return stay


def _check_receipts(parties: Parties, stay: frozenset[str], masks: tuple[str, ...], receipts: Sequence[Signed]) -> None:
    seen = set()
    for signed in receipts:
        try:
            receipt = signed.open(RECEIPT, Receipt, parties.signers.values(), "a receipt")
        except OmniFedError as error:
            raise refused_survivors(error.seen) from None
        same = receipt.session == parties.session and receipt.keys == parties.digest.hex() and receipt.masks == masks
        if not same or signed.key != parties.signers.get(receipt.site):
            raise refused_survivors(f"the receipt of {receipt.site} is for other masks")
        seen.add(receipt.site)
    if seen != stay:
        raise refused_survivors("a survivor without its receipt")


def _request(value: object) -> str:
    return sha256(canonical(value))
