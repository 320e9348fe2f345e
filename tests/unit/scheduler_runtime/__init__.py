"""The runtimes and the runner, with real processes."""
