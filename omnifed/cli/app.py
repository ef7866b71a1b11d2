"""`omnifed` with all its commands."""

from __future__ import annotations

from omnifed.cli import audit_privacy as audit_privacy
from omnifed.cli import bench as bench
from omnifed.cli import data as data
from omnifed.cli import describe as describe
from omnifed.cli import devices as devices
from omnifed.cli import export as export
from omnifed.cli import predict as predict
from omnifed.cli import report as report
from omnifed.cli import serve as serve
from omnifed.cli import verify as verify
from omnifed.cli.root import app as app
