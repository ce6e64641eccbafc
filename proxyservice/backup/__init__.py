"""All of a relay's state in one file, and back: what `proxyservice backup` and `restore` do."""
