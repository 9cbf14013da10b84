"""Python processes that begin with what stages import: forks of one server, started once for a run of tests."""
