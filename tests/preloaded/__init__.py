"""Python processes with the stages' imports already loaded: forks of one server per test run."""
