"""Every import of Flower. Pinned to flwr 1.41: an upgrade touches this file only.

Telemetry and the update check are switched off before Flower is imported: a hospital's federation calls nobody.
"""

from __future__ import annotations

import os
from functools import partial

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import Array as Array
from flwr.app import ArrayRecord as ArrayRecord
from flwr.app import ConfigRecord as ConfigRecord
from flwr.app import Context as Context
from flwr.app import Error as Error
from flwr.app import Message as Message
from flwr.app import MetricRecord as MetricRecord
from flwr.app import RecordDict as RecordDict
from flwr.clientapp import ClientApp as ClientApp
from flwr.common.constant import ErrorCode as ErrorCode
from flwr.common.constant import SType
from flwr.serverapp import Grid as Grid
from flwr.serverapp import ServerApp as ServerApp
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.run import Run as Run
from flwr.supercore.task_identity import TaskIdentity

NUMPY = SType.NUMPY
"""Flower's name of the npy serialisation: its own strategies and mods can read such arrays too."""


def identify() -> None:
    """Gives this process the identity that ``Message()`` wants, where Flower's own worker has not done so."""
    if TaskIdentity._task_id is None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def reply_to(message: Message) -> str:
    """Id of the message that ``message`` answers."""
    return message.metadata.reply_to_message_id


def set_message_id(message: Message, message_id: str) -> None:
    """Names a message as a link state would."""
    message.metadata.__dict__["_message_id"] = message_id


UPLOAD_S = 240.0
"""Longest wait for the rest of a reply that has begun to arrive; its task is then sent again. Flower's own limit is two
hours, in which no other site is heard: all wait behind one that died while it sent."""


def bound_pulls() -> None:
    """Makes a deployed grid give up a reply whose rest does not come within :data:`UPLOAD_S`."""
    from flwr.superlink.grid import http_grid

    http_grid.pull_objects = partial(pull_objects, max_time=UPLOAD_S)
