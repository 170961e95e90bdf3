"""The workflows: each a short story told with plugins."""
