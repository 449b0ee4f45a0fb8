"""Zero-OS on Kubernetes: workloads of a decentralised cloud as custom resources."""

__version__ = "0.3.0"
