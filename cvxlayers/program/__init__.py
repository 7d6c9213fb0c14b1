"""The standard form, what is compiled for it, its solutions, and both on disk."""
