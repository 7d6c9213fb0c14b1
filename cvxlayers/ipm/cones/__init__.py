"""What the interior-point iteration asks of the cones, one file for each kind."""
