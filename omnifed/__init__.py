"""OmniFed: federated, edge-native training for medical image segmentation."""

__version__ = "0.1.0"
