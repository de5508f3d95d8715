"""What run folders hold, as tables and as the points of figures."""
