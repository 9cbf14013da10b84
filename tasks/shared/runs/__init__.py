"""What a store remembers of runs: their records, tags, leases, and what nothing refers to any more."""
