"""Wong, Rice & Kolter 2020, "Fast is better than free"."""
