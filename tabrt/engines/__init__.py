"""The engines, each imported only when it is asked for. `load(path, threads)` of each module returns an Engine."""
