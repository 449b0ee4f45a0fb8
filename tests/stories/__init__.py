"""The shortest life of each feature, end to end, as tests on a minigrid and on a cluster of kubelets both run it."""
