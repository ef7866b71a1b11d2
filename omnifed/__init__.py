"""OmniFed: federated, edge-native training for medical image segmentation."""

import os

__version__ = "0.1.0"

# ONNX Runtime collects telemetry from its import on (a device id and a database in the user's cache), unless this is
# set before. A hospital's machine tells nobody what it runs.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
