"""Linear systems, least squares and eigenvectors as nodes."""
