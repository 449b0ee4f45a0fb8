"""The agent of one node: it makes the node be what its NodeWorkloads say, and says how that went. Start with `main`."""
