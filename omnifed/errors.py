"""The one error a user sees: a number, the rule, the value seen and the remedy.

Every number has a page, ``docs/errors/OFnnn.md``; a test holds the pages and the code together. Ranges: 1xx
configuration and command line, 2xx site data, 30x..31x students, 32x..36x teachers and distillation, 40x training,
42x evaluation, 5xx federation, 60x..61x export, 62x prediction, 64x DICOM SEG, 65x the local page, 70x measuring and
71x profiles of devices, 73x..76x search, 80x identity, 81x transport, 82x policy, 83x audit log, 84x secure
aggregation, 85x differential privacy, 86x unusual updates, 87x signed artefacts, 88x hostile files, 89x leak report.
"""

from __future__ import annotations


class OmniFedError(Exception):
    """A failure that the user can act on.

    Args:
        code: number with a page in ``docs/errors``, for example ``"OF201"``.
        rule: what must hold, without any value of the user's; this part alone may leave a site.
        seen: the value that broke the rule. Stays at the site: it may name files.
        remedy: what to do about it.
    """

    def __init__(self, code: str, rule: str, *, seen: str = "", remedy: str = "") -> None:
        super().__init__(code, rule, seen, remedy)
        self.code, self.rule, self.seen, self.remedy = code, rule, seen, remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.code, self.rule, self.seen, self.remedy))

    def __str__(self) -> str:
        parts = [f"{self.code}: {self.rule}"]
        if self.seen:
            parts.append(f"Seen: {self.seen}")
        if self.remedy:
            parts.append(f"Remedy: {self.remedy}")
        return "\n  ".join([*parts, f"More: docs/errors/{self.code}.md"])

    @property
    def public(self) -> str:
        """The part that may leave a site: number and rule, no value."""
        return f"{self.code}: {self.rule}"


def _rebuild(code: str, rule: str, seen: str, remedy: str) -> OmniFedError:
    return OmniFedError(code, rule, seen=seen, remedy=remedy)
