"""Long chaotic runs, and what must hold all the while: see `hack/torture --help`."""
