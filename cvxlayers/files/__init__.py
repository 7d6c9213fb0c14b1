"""Files: written complete or not at all, and arrays in a zip file, read without trust."""
