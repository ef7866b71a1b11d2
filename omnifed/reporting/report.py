"""``report.html``: a run in one page that stands alone."""

from __future__ import annotations

from pathlib import Path

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.reporting.run import load_run


def write_report(run: Path) -> Path:
    """Builds ``report.html`` from a run folder; what the folder lacks is said in the page.

    The page needs nothing from outside: no script, styles and pictures within. It shows images of single cases and is
    therefore readable by its owner alone (mode 0600).

    Args:
        run: folder with ``config.json``, ``metrics.csv``, ``events.jsonl`` and what else the run wrote.

    Returns:
        Path of the page.

    Raises:
        OmniFedError: OF421 without jinja2 and matplotlib, OF422 if ``run`` is no run folder, OF423 if a file of it is
            damaged, OF103 if the page cannot be written.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        from omnifed.reporting.page import context, p_value
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise OmniFedError(
            "OF421",
            "The report needs jinja2 and matplotlib.",
            seen=str(error),
            remedy='Install them with: pip install "omnifed[sim]". The numbers are in metrics.csv without them.',
        ) from None
    loaded = load_run(run)
    environment = Environment(
        loader=PackageLoader("omnifed.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(**context(loaded), p_value=p_value)
    path = run / "report.html"
    write_atomic(path, page.lstrip().encode(), mode=0o600)
    return path
