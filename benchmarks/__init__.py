"""What vfs promises about speed, measured by ``python -m benchmarks`` (docs/benchmarks.md)."""
