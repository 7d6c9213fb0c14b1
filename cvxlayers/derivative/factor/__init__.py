"""Factors of the derivative's systems, one file for each way, and which way is the fastest."""
