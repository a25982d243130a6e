"""Measurements that others can repeat: `python -m benchmarks --help`. The contract is in benchmarks/README.md."""
