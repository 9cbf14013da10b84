"""Behind `tirflow plan`: the stages of a recipe that would run, its layouts on GPUs, their memory and seconds."""
