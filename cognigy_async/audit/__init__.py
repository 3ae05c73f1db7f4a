"""Records of completed updates, and where they go."""
