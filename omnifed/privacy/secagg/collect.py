"""The coordinator's part in a private round: routing what is sealed, and taking the masks off the sum."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.privacy.secagg import keys as k
from omnifed.privacy.secagg.keys import Parties
from omnifed.privacy.secagg.masks import add_mask, take_mask
from omnifed.privacy.secagg.records import RECEIPT, SURVIVORS, Receipt, Revealed, Shared, Survivors, sha256
from omnifed.privacy.secagg.shamir import join
from omnifed.trust.signing import Signed, SigningKey


def check_shared(parties: Parties, site: str, shared: Shared) -> None:
    """Refuses shares that do not cover the list.

    Raises:
        OmniFedError: OF847.
    """
    others = parties.adverts.keys() - {site}
    if shared.sealed.keys() != others or shared.digests.keys() != parties.adverts.keys():
        raise false_shares(f"{site} has not shared with every site")


def inbox_of(site: str, shared: Mapping[str, Shared]) -> dict[str, str]:
    """Sealed shares for ``site``, by the site that they come from."""
    return {sender: one.sealed[site] for sender, one in sorted(shared.items()) if sender != site}


def check_receipt(parties: Parties, site: str, masks: Collection[str], signed: Signed) -> None:
    """Refuses a receipt that the other sites would refuse.

    Raises:
        OmniFedError: OF802 or OF847.
    """
    receipt = signed.open(RECEIPT, Receipt, (parties.signers[site],), "a receipt")
    due = Receipt(session=parties.session, keys=parties.digest.hex(), site=site, masks=tuple(sorted(masks)))
    if receipt != due:
        raise false_shares(f"the receipt of {site} is for other masks")


def survivors_of(parties: Parties, sites: Iterable[str], key: SigningKey) -> Signed:
    """The signed list of the sites whose updates are in the sum."""
    listed = Survivors(session=parties.session, keys=parties.digest.hex(), sites=tuple(sorted(sites)))
    return Signed.seal(SURVIVORS, listed, key)


def unmask(
    total: np.ndarray,
    parties: Parties,
    threshold: int,
    shared: Mapping[str, Shared],
    survivors: Collection[str],
    revealed: Mapping[str, Revealed],
) -> None:
    """Takes all masks off the sum of the survivors' masked vectors, in place.

    Args:
        total: (n,) uint32, the sum modulo 2^32.
        parties: all sites with keys.
        threshold: shares that give a secret.
        shared: what the sites with masks in the sum shared.
        survivors: whose vectors were added.
        revealed: answers to the list of survivors, by site.

    Raises:
        OmniFedError: OF847 if the shares that fit their digests are too few, or give another secret than the one that
            was committed to.
    """
    for site in sorted(survivors):
        seed = _secret(parties, threshold, site, shared[site], revealed, 0)
        if k.commitment(seed, parties, site) != shared[site].commitment:
            raise false_shares(f"the shares of {site} give another seed than it committed to")
        take_mask(total, k.own_seed(seed, parties, site))
    for site in sorted(shared.keys() - set(survivors)):
        private = _secret(parties, threshold, site, shared[site], revealed, 1)
        if k.public_of(private) != parties.adverts[site].mask:
            raise false_shares(f"the shares of {site} give another key than it advertised")
        for other in survivors:
            seed = k.mask_seed(private, parties.adverts[other].mask, parties, site, other)
            # What the survivor has added is taken away, and the other way round.
            (take_mask if other < site else add_mask)(total, seed)


def false_shares(seen: str) -> OmniFedError:
    """A site's answers contradict each other."""
    return OmniFedError(
        "OF847",
        "What a site shares, signs and reveals in a private round must fit together.",
        seen=seen,
        remedy="Look at the site that is named: it runs other software, or lies. Go on without it in a new campaign.",
    )


def _secret(
    parties: Parties, threshold: int, owner: str, shared: Shared, revealed: Mapping[str, Revealed], which: int
) -> bytes:
    """The secret of ``owner`` from the shares that fit the digests; false ones are passed over."""
    fit: dict[int, bytes] = {}
    for site, number in parties.numbers.items():
        if site not in revealed or len(fit) == threshold:
            continue
        text = (revealed[site].keys if which else revealed[site].seeds).get(owner, "")
        try:
            share = bytes.fromhex(text)
        except ValueError:
            continue
        if sha256(share) == shared.digests[site][which]:
            fit[number] = share
    if len(fit) < threshold:
        raise false_shares(f"{len(fit)} good shares of a secret of {owner}, {threshold} are needed")
    try:
        return join(fit, k.KEY_BYTES)
    except ValueError:
        raise false_shares(f"the shares of {owner} are not of one secret") from None
