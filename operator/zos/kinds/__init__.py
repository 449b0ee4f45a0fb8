"""Workload kinds: per folder ``resolve`` (the grid's question) and ``lower`` with ``report`` (the node's question)."""
