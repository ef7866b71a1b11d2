"""The one Flower application that a site runs: a few lines that point at the installed package.

Flower ships an application to every site and runs it there. Here the coordinator ships this text, and a site runs its
own installed code if the hash is that of this text, and nothing at all if it is not. The text says nothing that changes
between releases (its version is that of the text), so that compatible releases have the same hash.
"""

from __future__ import annotations

import hashlib
from typing import Any

APP = """[project]
name = "omnifed-app"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "omnifed"

[tool.flwr.app.components]
serverapp = "omnifed_server.app:app"
clientapp = "omnifed_client.app:app"
"""
"""``pyproject.toml`` of the application, its only file."""
REFUSED = ("OF814", "A site runs its installed application only, whatever it is sent.")
"""What the coordinator gets for any other one."""


def installed_hash() -> str:
    """The hash (sha256, hex) by which Flower knows the application; a pure function of :data:`APP`."""
    from flwr.cli.build import build_fab_from_files

    return hashlib.sha256(build_fab_from_files({"pyproject.toml": APP.encode()})[0]).hexdigest()


def refuse(message: Any, context: Any) -> Any:
    """Answers any message of another application with :data:`REFUSED`.

    Args:
        message: Flower's message; nothing of it is looked at.
        context: Flower's context of the node.

    Returns:
        The reply.
    """
    from omnifed.federation.replies import FailedReply
    from omnifed.transport.flower_compat import Message
    from omnifed.transport.records import to_record

    code, rule = REFUSED
    site = str(context.node_config.get("site", ""))
    return Message(to_record(FailedReply(id="unknown", site=site, code=code, rule=rule), {}), reply_to=message)
