"""report: one HTML file of a whole run."""
