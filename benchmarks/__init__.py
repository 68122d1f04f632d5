"""What performance claims are measured with; each file is a program: `python -m benchmarks.training --json FILE`."""
