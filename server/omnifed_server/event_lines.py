"""Events as plain lines for a log or a pipe, and the figures in them. No torch."""

from __future__ import annotations

from typing import Any

from omnifed.tail import plain, time_of
from omnifed_server.board_site import cause, count, number


def clock(seconds: float | None) -> str:
    """Seconds as ``h:mm:ss``, or a dash where unknown."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def mib(size: float) -> str:
    """Bytes in MiB with three figures or so; nothing for nothing."""
    value = size / 2**20
    if not size:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def lines(event: dict[str, Any]) -> str | None:
    """An event as one plain line, for a log; None if it is no news to a person."""
    text = _WORDS[name](event) if (name := str(event.get("event"))) in _WORDS else None
    if not text:
        return None
    time = time_of(event)
    return f"{time:%Y-%m-%d %H:%M:%SZ} {text}" if time else text


def _campaign(event: dict[str, Any]) -> str:
    name, state = plain(event.get("name"), 80), plain(event.get("state"), 20)
    return f"campaign {name}: {state}{_why(event)}" if name else f"campaign: {state}{_why(event)}"


def _site(event: dict[str, Any]) -> str | None:
    state = event.get("state")
    if state not in ("joined", "lost", "refused"):
        return None
    text = f"{_name(event)}: {state}{_why(event)}"
    if state == "joined":
        cases = ", ".join(f"{key} {count(event.get(key))}" for key in ("train", "val", "test"))
        text += f" (omnifed {plain(event.get('version'), 20)}, {plain(event.get('modality'), 20)}, {cases})"
    return text


def _stage_line(event: dict[str, Any]) -> str:
    return f"stage {plain(event.get('stage'), 40)} begins ({count(event.get('total'))})"


def _teach(event: dict[str, Any]) -> str:
    spent = f"{number(event.get('seconds')) or 0:.0f} s"
    return f"{_name(event)}: teacher{_dice_of(event)}, {count(event.get('cached'))} images cached, {spent}"


def _bench(event: dict[str, Any]) -> str:
    spent = f"{number(event.get('seconds')) or 0:.0f} s, {mib(count(event.get('bytes_up')))} MiB up"
    return (
        f"{_name(event)}: {count(event.get('networks'))} networks measured on {plain(event.get('device'), 60)}, {spent}"
    )


def _trial(event: dict[str, Any]) -> str:
    total, se, best = count(event.get("total")), number(event.get("se")), number(event.get("best"))
    which = f"{plain(event.get('stage'), 40)} trial {count(event.get('number'))}{f' of {total}' if total else ''}"
    error = f" (se {se:.3f})" if se is not None else ""
    spent = f"{count(event.get('steps'))} steps, {number(event.get('seconds')) or 0:.1f} s"
    so_far = f", best {best:.3f}" if best is not None else ""
    again = " (kept from before)" if event.get("again") else ""
    what = f"{plain(event.get('why'), 20)} {plain(event.get('key'), 120)}".strip()
    return f"{_name(event)}: {which}{_dice_of(event)}{error}, {spent}{so_far}{f': {what}' if what else ''}{again}"


def _search(event: dict[str, Any]) -> str:
    counts = f"{count(event.get('trials'))} trials, {count(event.get('failed'))} failed"
    text = f"{plain(event.get('stage'), 40)} done: {counts}, {clock(number(event.get('seconds')))} of the sites' work"
    chosen = event.get("chosen")
    pairs = chosen.items() if isinstance(chosen, dict) else ()
    return text + "".join(f"; {plain(name, 60)}: {plain(key, 120)}" for name, key in pairs)


def _round(event: dict[str, Any]) -> str:
    sent = f"{number(event.get('seconds')) or 0:.1f} s, {mib(count(event.get('bytes_up')))} MiB up"
    again = " (kept from before)" if event.get("again") else ""
    return f"{_name(event)}: {_arm_round(event)}{_dice_of(event)}, {sent}{again}"


def _miss(event: dict[str, Any]) -> str:
    return f"{_name(event)}: missed {_arm_round(event)}{_why(event)}"


def _aggregate(event: dict[str, Any]) -> str:
    spent = f"{number(event.get('seconds')) or 0:.1f} s"
    size = f"{mib(count(event.get('bytes_up')))} MiB up, {mib(count(event.get('bytes_down')))} MiB down"
    who = f"{count(event.get('sites'))} sites, {count(event.get('misses'))} misses"
    mean = f"{_dice_of(event)} (mean of the sites)" if _dice_of(event) else ""
    return f"{_arm_round(event)} done:{mean and f'{mean},'} {who}, {spent}, {size}"


def _evaluate(event: dict[str, Any]) -> str:
    what = f"{plain(event.get('arm'), 40)} {plain(event.get('which'), 20)} {plain(event.get('split'), 20)}"
    return f"{_name(event)}: {what}{_dice_of(event)} (n {count(event.get('n'))})"


def _export(event: dict[str, Any]) -> str:
    differs = number(event.get("max_logit_difference")) or 0.0
    size = mib(count(event.get("bytes")))
    return f"{_name(event)}: exported {plain(event.get('arm'), 40)}, {size} MiB, logits differ by {differs:.1e} at most"


def _arm_line(event: dict[str, Any]) -> str:
    return f"{plain(event.get('arm'), 40)} finished in {clock(number(event.get('seconds')))}"


def _warning(event: dict[str, Any]) -> str:
    return f"{_name(event)}: {plain(event.get('text'))}"


def _name(event: dict[str, Any]) -> str:
    return plain(event.get("site"), 64) or "?"


def _arm_round(event: dict[str, Any]) -> str:
    round_ = number(event.get("round"))
    arm = plain(event.get("arm"), 40)
    return f"{arm} round {int(round_) + 1}" if round_ is not None and round_ >= 0 else arm


def _dice_of(event: dict[str, Any]) -> str:
    dice = number(event.get("dice"))
    return f" Dice {dice:.3f}" if dice is not None else ""


def _why(event: dict[str, Any]) -> str:
    found = ": ".join(part for part in cause(event) if part)
    return f" ({found})" if found else ""


_WORDS = {
    "campaign": _campaign,
    "site": _site,
    "stage": _stage_line,
    "teach": _teach,
    "bench": _bench,
    "trial": _trial,
    "search": _search,
    "round": _round,
    "miss": _miss,
    "aggregate": _aggregate,
    "evaluate": _evaluate,
    "export": _export,
    "arm": _arm_line,
    "warning": _warning,
}
