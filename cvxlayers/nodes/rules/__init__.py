"""What the ready-made nodes have in common: their arguments, their derivatives' rules, what they report."""
