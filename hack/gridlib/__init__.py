"""A whole grid on one machine: what `hack/minigrid` is made of."""
