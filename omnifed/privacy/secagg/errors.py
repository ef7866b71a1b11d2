"""The refusals of secure aggregation. Numbers and rules leave a site; what was seen does not."""

from __future__ import annotations

from omnifed.errors import OmniFedError

_ASK = "Ask the coordinator what it runs; nothing of this site was revealed. Its log names the session."


def refused_keys(seen: str) -> OmniFedError:
    """The keys of a private round are not what this site agreed to."""
    return OmniFedError(
        "OF841",
        "All keys of a private round are signed by members of the federation that the round names, each once, this "
        "site's own unaltered, and not fewer than the threshold.",
        seen=seen,
        remedy=_ASK,
    )


def refused_request(seen: str) -> OmniFedError:
    """A request that contradicts what the site was asked before."""
    return OmniFedError(
        "OF842",
        "A private round keeps to what its first message asked, in order, and each of its exchanges is answered once.",
        seen=seen,
        remedy=_ASK,
    )


def refused_shares(seen: str) -> OmniFedError:
    """Sealed shares that were altered, are of another session, or are too few."""
    return OmniFedError(
        "OF843",
        "A share is opened only as its sender sealed it, for this site and this session; a masked update needs the "
        "shares of as many sites as the threshold says.",
        seen=seen,
        remedy=_ASK,
    )


def refused_survivors(seen: str) -> OmniFedError:
    """A list of survivors that would reveal more than the sum of at least ``threshold`` sites."""
    return OmniFedError(
        "OF844",
        "A site reveals shares only for a list of survivors that the coordinator signed, with this site in it, not "
        "fewer than the threshold, each with its own receipt for the same masks.",
        seen=seen,
        remedy=_ASK,
    )


def revealed_before(seen: str) -> OmniFedError:
    """Another attempt of a round whose sum is known."""
    return OmniFedError(
        "OF845",
        "A round whose shares this site has revealed is not repeated: the difference of two sums would show an update.",
        seen=seen,
        remedy="Go on with the next round, or start a new campaign.",
    )
