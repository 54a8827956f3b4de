"""Running: the target interface, devices, executables, threads, the cache, profiles."""
