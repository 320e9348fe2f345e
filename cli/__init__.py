"""The `freecloud` command: options, one client call, one rendering. It knows the daemon only by its API."""
