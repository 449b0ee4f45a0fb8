"""Runs the project on Debian's own kernel, in a guest of this machine: what `hack/kernel-tests` does."""
