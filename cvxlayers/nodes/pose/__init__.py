"""Perspective-n-point."""
