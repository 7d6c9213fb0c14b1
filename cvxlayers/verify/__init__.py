"""How far a point is from a solution, and whether a ray proves that there is none, in anyone's units."""
