"""The mathematics of an update: advantages, losses, filters, the critic."""
