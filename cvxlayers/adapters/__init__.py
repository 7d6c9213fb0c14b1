"""What the layers of all frameworks share: constructor, properties, and vmap's axes."""
