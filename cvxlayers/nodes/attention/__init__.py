"""Attention, and maps onto the simplex row by row."""
