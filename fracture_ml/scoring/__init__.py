"""A bundle and images become exactly one outcome per image; studies get their place on the worklist."""
