"""What is a pod on a node of a Kubernetes cluster, and what outlives it: ``python -m zos.programs.node`` (ADR 0033)."""
