"""Runs the tests' parts side by side: what `hack/test` without a part does."""
