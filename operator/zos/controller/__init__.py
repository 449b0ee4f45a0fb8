"""The controller: keeps the World, resolves what changed, carries the resolutions out. Read ``main`` first."""
