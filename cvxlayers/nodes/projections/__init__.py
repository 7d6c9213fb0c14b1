"""Projections onto simplices, balls and spheres."""
