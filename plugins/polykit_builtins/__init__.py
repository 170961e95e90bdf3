"""The plugins that come with polykit. They load through entry points, as anybody's do."""
