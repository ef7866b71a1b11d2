"""What a hostile coordinator, or one with a helper among the sites, may try: each ends with its number."""

from __future__ import annotations

import base64
import itertools
import math

import numpy as np
import pytest
from made_session import COORDINATOR, SESSION, Round, key_of, roster_of, vectors_of

from omnifed.errors import OmniFedError
from omnifed.privacy.secagg import keys as k
from omnifed.privacy.secagg.collect import check_receipt, check_shared, inbox_of, survivors_of, unmask
from omnifed.privacy.secagg.keys import Advert, Parties
from omnifed.privacy.secagg.records import SURVIVORS, Shared, Survivors
from omnifed.privacy.secagg.session import begin, share
from omnifed.privacy.spec import least_threshold
from omnifed.trust.signing import Signed, SigningKey

NAMES = ("alpha", "beta", "delta", "gamma", "kappa", "omega")
VECTORS = vectors_of(NAMES)


@pytest.fixture
def six() -> Round:
    return Round(NAMES, 4)


def refused(code: str, call, *arguments) -> str:
    with pytest.raises(OmniFedError) as caught:
        call(*arguments)
    assert caught.value.code == code, caught.value
    return caught.value.seen


# The list of keys ---------------------------------------------------------------------------------------------------


def test_an_unsigned_key(six: Round) -> None:
    bad = six.held["beta"].advert.model_copy(update={"signature": base64.b64encode(bytes(64)).decode()})
    refused("OF841", six.share, "alpha", [bad if key is six.held["beta"].advert else key for key in six.adverts()])


def test_a_key_swapped_for_the_coordinators(six: Round) -> None:
    mine = Advert(session=SESSION, site="beta", channel=k.public_of(k.new_key()), mask=k.public_of(k.new_key()))
    for signer in (COORDINATOR, key_of("delta")):
        swapped = Signed.seal(k.KEYS, mine, signer)
        keys = [swapped if key is six.held["beta"].advert else key for key in six.adverts()]
        assert "beta" in refused("OF841", six.share, "alpha", keys)


def test_a_sybil_that_is_no_member_or_not_asked(six: Round) -> None:
    sybil = begin(SESSION, "sybil", 4, NAMES, key_of("sybil")).advert
    assert "no key of a member" in refused("OF841", six.share, "alpha", [*six.adverts(), sybil])
    six.roster = roster_of([*NAMES, "sybil"])
    assert "is not asked" in refused("OF841", six.share, "alpha", [*six.adverts(), sybil])


def test_a_revoked_member(six: Round) -> None:
    six.roster = roster_of(NAMES, gamma=True)
    assert "gamma" in refused("OF841", six.share, "alpha")


def test_a_name_that_comes_twice(six: Round) -> None:
    again = begin(SESSION, "beta", 4, NAMES, key_of("beta")).advert
    assert "twice" in refused("OF841", six.share, "alpha", [*six.adverts(), again])


def test_keys_that_come_twice_under_two_names(six: Round) -> None:
    theirs = Advert.model_validate_json(six.held["beta"].advert.body)
    copied = Signed.seal(k.KEYS, theirs.model_copy(update={"site": "gamma"}), key_of("gamma"))
    keys = [copied if key is six.held["gamma"].advert else key for key in six.adverts()]
    assert "twice" in refused("OF841", six.share, "alpha", keys)


def test_the_own_key_is_missing_or_an_older_one(six: Round) -> None:
    others = [key for key in six.adverts() if key is not six.held["alpha"].advert]
    older = begin(SESSION, "alpha", 4, NAMES, key_of("alpha")).advert
    for keys in (others, [*others, older]):
        assert "own keys" in refused("OF841", six.share, "alpha", keys)


def test_fewer_keys_than_the_threshold(six: Round) -> None:
    assert "threshold 4" in refused("OF841", six.share, "alpha", six.adverts(NAMES[:3]))


def test_keys_of_an_older_session(six: Round) -> None:
    old = Round(NAMES, 4, SESSION.model_copy(update={"attempt": 1}))
    keys = [*six.adverts(NAMES[:5]), old.held["omega"].advert]
    assert "another session" in refused("OF841", six.share, "alpha", keys)


def test_a_key_of_low_order(six: Round) -> None:
    zeros = Signed.seal(k.KEYS, Advert(session=SESSION, site="beta", channel="00" * 32, mask="01" * 32), key_of("beta"))
    keys = [zeros if key is six.held["beta"].advert else key for key in six.adverts()]
    assert "gives no secret" in refused("OF841", six.share, "alpha", keys)


def test_split_lists_of_keys(six: Round) -> None:
    """Two lists, each long enough: what was shared for one opens under no other."""
    first, second = six.adverts(NAMES[:5]), six.adverts(NAMES)
    for site in NAMES[:5]:
        six.share(site, first if site in NAMES[:2] else second)
    inbox = inbox_of("alpha", six.shared)
    assert "does not open" in refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox)


def test_a_second_list_of_keys(six: Round) -> None:
    six.share("alpha")
    before = six.shared["alpha"]
    assert six.share("alpha") == before
    refused("OF842", six.share, "alpha", six.adverts(NAMES[:5]))


# Shares -------------------------------------------------------------------------------------------------------------


def test_a_tampered_share_on_its_way(six: Round) -> None:
    for site in NAMES:
        six.share(site)
    inbox = inbox_of("alpha", six.shared)
    data = bytearray(base64.b64decode(inbox["beta"]))
    data[20] ^= 1
    inbox["beta"] = base64.b64encode(bytes(data)).decode()
    assert "from beta" in refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox)


def test_shares_for_another_site_or_from_another_one(six: Round) -> None:
    for site in NAMES:
        six.share(site)
    inbox = inbox_of("alpha", six.shared)
    refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox | {"beta": six.shared["beta"].sealed["gamma"]})
    refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox | {"beta": inbox["gamma"]})
    refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox | {"alpha": inbox["gamma"]})
    refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox | {"sybil": inbox["gamma"]})
    refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox | {"beta": "no base64!"})


def test_messages_of_an_old_session_replayed(six: Round) -> None:
    old = Round(NAMES, 4, SESSION.model_copy(update={"round": 7}))
    old.until_masked(VECTORS)
    for site in NAMES:
        six.share(site)
    assert "does not open" in refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox_of("alpha", old.shared))
    parties = six.until_masked(VECTORS)
    list_, receipts = old.survivors(NAMES, old.open())
    refused("OF844", six.reveal, "alpha", list_, receipts)
    fresh, _ = six.survivors(NAMES, parties)
    assert "other masks" in refused("OF844", six.reveal, "alpha", fresh, receipts)


def test_an_inbox_below_the_threshold(six: Round) -> None:
    for site in NAMES:
        six.share(site)
    inbox = {site: sealed for site, sealed in inbox_of("alpha", six.shared).items() if site in ("beta", "delta")}
    assert "2 other sites" in refused("OF843", six.mask, "alpha", VECTORS["alpha"], inbox)


def test_another_inbox_for_a_second_masked_vector(six: Round) -> None:
    six.until_masked(VECTORS)
    first = six.masked["alpha"].copy()
    np.testing.assert_array_equal(six.mask("alpha", VECTORS["alpha"]), first)
    inbox = {site: sealed for site, sealed in inbox_of("alpha", six.shared).items() if site != "omega"}
    refused("OF842", six.mask, "alpha", VECTORS["alpha"], inbox)


# Survivors ----------------------------------------------------------------------------------------------------------


def test_a_list_that_the_coordinator_has_not_signed(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    _, receipts = six.survivors(NAMES, parties)
    refused("OF844", six.reveal, "alpha", survivors_of(parties, NAMES, key_of("beta")), receipts)


def test_a_list_below_the_threshold_or_without_the_site_itself(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    assert "3 survivors" in refused("OF844", six.reveal, "alpha", *six.survivors(NAMES[:3], parties))
    refused("OF844", six.reveal, "alpha", *six.survivors(NAMES[1:], parties))


def test_a_list_that_names_a_site_twice_or_one_without_masks(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    _, receipts = six.survivors(NAMES[:3], parties)
    for sites in (("alpha", "alpha", "beta", "delta"), ("alpha", "beta", "delta", "sybil")):
        listed = Survivors(session=SESSION, keys=parties.digest.hex(), sites=sites)
        refused("OF844", six.reveal, "alpha", Signed.seal(SURVIVORS, listed, COORDINATOR), receipts)


def test_a_survivor_without_receipt_or_with_anothers(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    listed, receipts = six.survivors(NAMES, parties)
    refused("OF844", six.reveal, "alpha", listed, receipts[:-1])
    refused("OF844", six.reveal, "alpha", listed, [*receipts[:-1], receipts[0]])


def test_receipts_for_two_sets_of_masks(six: Round) -> None:
    """Unlike inboxes would let a helper isolate a site: the receipts show them before anything is revealed."""
    parties = six.open()
    for site in NAMES:
        six.share(site)
    for site in NAMES:
        inbox = inbox_of(site, six.shared)
        few = {sender: sealed for sender, sealed in inbox.items() if sender in ("beta", "delta", "omega")}
        six.mask(site, VECTORS[site], few if site == "alpha" else inbox)
    listed, receipts = six.survivors(NAMES, parties)
    assert "other masks" in refused("OF844", six.reveal, "gamma", listed, receipts)
    assert six.held["gamma"].asked.keys() == {"shares", "masked"}


def test_double_reveal(six: Round) -> None:
    """The second list would give the key of a site whose seed is known."""
    parties = six.until_masked(VECTORS)
    first = six.survivors(NAMES, parties)
    answer = six.reveal("alpha", *first)
    assert six.reveal("alpha", *first) == answer
    assert not answer.seeds.keys() & answer.keys.keys()
    refused("OF842", six.reveal, "alpha", *six.survivors(NAMES[:5], parties))


def test_out_of_order(six: Round) -> None:
    refused("OF842", six.mask, "alpha", VECTORS["alpha"], {})
    parties = six.open()
    for site in NAMES:
        six.share(site)
    listed = survivors_of(parties, NAMES, COORDINATOR)
    refused("OF842", six.reveal, "alpha", listed, ())


def test_a_split_view_of_the_survivors_never_isolates_a_site() -> None:
    """Every way to tell the sites of four different lists of survivors: no site's seed and key are both known."""
    names, threshold = NAMES[:4], 3
    lists = [frozenset(one) for size in (3, 4) for one in itertools.combinations(names, size)]
    choices = [[one for one in lists if site in one] for site in names]
    for views in itertools.product(*choices):
        seeds = {v for v in names if sum(v in one for one in views) >= threshold}
        masks = {v for v in names if sum(v not in one for one in views) >= threshold}
        assert not seeds & masks
        # What a sum can be isolated to: the sites whose keys are still secret, all of whose seeds are known.
        left = set(names) - masks
        assert not left <= seeds or len(left) >= 2


def test_the_bound_on_helpers_that_the_page_states() -> None:
    """c < 2 t - n helpers: by counting reveals, at least two honest updates are in whatever can be unmasked."""
    for sites in range(3, 31):
        threshold = least_threshold(sites)
        for listed in range(threshold, sites + 1):
            for helpers in range(min(2 * threshold - sites, listed - 1)):
                honest, needed = listed - helpers, threshold - helpers
                assert 2 * needed > honest
                keys_known = honest * (listed - threshold) // needed
                assert honest - keys_known >= 2, (sites, listed, helpers)


def test_a_split_view_in_earnest(six: Round) -> None:
    """Half of the sites hear one list, half another: neither sum comes off its masks."""
    parties = six.until_masked(VECTORS)
    one, two = NAMES[:4], NAMES[2:]
    for site in NAMES[:3]:
        six.reveal(site, *six.survivors(one, parties))
    for site in NAMES[3:]:
        six.reveal(site, *six.survivors(two, parties))
    for stay in (one, two, NAMES):
        refused("OF847", six.total, parties, stay, 5)


# Sites that lie to the coordinator ----------------------------------------------------------------------------------


def test_a_tampered_share_when_it_is_revealed_is_passed_over(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    listed = six.survivors(NAMES, parties)
    for site in NAMES:
        six.reveal(site, *listed)
    for liar in NAMES[:2]:
        lies = dict.fromkeys(NAMES, "00" * 66)
        six.revealed[liar] = six.revealed[liar].model_copy(update={"seeds": lies})
    np.testing.assert_array_equal(six.total(parties, NAMES, 5), sum(VECTORS[site] for site in NAMES))
    six.revealed["delta"] = six.revealed["delta"].model_copy(update={"seeds": {}})
    assert "3 good shares" in refused("OF847", six.total, parties, NAMES, 5)


def test_a_site_that_commits_to_another_seed(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    listed = six.survivors(NAMES, parties)
    for site in NAMES:
        six.reveal(site, *listed)
    six.shared["beta"] = six.shared["beta"].model_copy(update={"commitment": "0" * 64})
    assert "beta" in refused("OF847", six.total, parties, NAMES, 5)


def test_shares_that_leave_a_site_out(six: Round) -> None:
    shared = six.share("alpha")
    parties = six.open()
    check_shared(parties, "alpha", shared)
    sealed = {site: text for site, text in shared.sealed.items() if site != "beta"}
    refused("OF847", check_shared, parties, "alpha", shared.model_copy(update={"sealed": sealed}))


def test_a_receipt_of_another_site(six: Round) -> None:
    parties = six.until_masked(VECTORS)
    refused("OF802", check_receipt, parties, "alpha", NAMES, six.receipts["beta"])
    refused("OF847", check_receipt, parties, "alpha", NAMES[:5], six.receipts["alpha"])


def test_keys_and_masks_are_of_256_bits_and_bound_to_the_list(six: Round) -> None:
    small, large = six.open(NAMES[:5]), six.open()
    private, public = bytes.fromhex(six.held["alpha"].mask), large.adverts["beta"].mask
    seeds = {k.mask_seed(private, public, parties, "alpha", "beta") for parties in (small, large)}
    assert len(seeds) == 2
    assert all(len(seed) * 8 == 256 for seed in seeds)
    assert math.log2(16) * len(six.held["alpha"].seed) == 256
    assert k.mask_seed(private, public, large, "alpha", "beta") == k.mask_seed(
        bytes.fromhex(six.held["beta"].mask), large.adverts["alpha"].mask, large, "beta", "alpha"
    )


def test_the_coordinator_alone_signs_survivors_even_with_a_helper() -> None:
    six = Round(NAMES, 4)
    parties = six.until_masked(VECTORS)
    listed = Survivors(session=SESSION, keys=parties.digest.hex(), sites=NAMES)
    stranger = Signed.seal(SURVIVORS, listed, SigningKey.generate())
    refused("OF844", six.reveal, "alpha", stranger, six.survivors(NAMES, parties)[1])


def test_secrets_in_an_answer_are_sealed(six: Round) -> None:
    """The coordinator routes shares; it opens none."""
    six.share("alpha")
    held, shared = share(six.held["alpha"], six.adverts(), six.roster)
    assert isinstance(shared, Shared)
    text = shared.model_dump_json()
    assert not any(secret in text for secret in (held.seed, held.mask, held.channel, *held.kept))
    with pytest.raises(OmniFedError, match="OF847"):
        unmask(np.zeros(1, np.uint32), six.open(), 4, {"alpha": shared}, ["alpha"], {})
    assert Parties.open(six.adverts(), SESSION, six.roster, NAMES).digest == six.open().digest
