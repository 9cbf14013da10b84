"""What holds between a stage and whoever starts it: request and result, environment, scratch, guard, code digest."""
