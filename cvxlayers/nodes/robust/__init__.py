"""Robust means and pooling."""
