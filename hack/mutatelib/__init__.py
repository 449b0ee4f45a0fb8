"""How much the tests would notice: what `hack/mutate` does."""
