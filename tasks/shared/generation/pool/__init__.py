"""A pool of vLLM servers behind the `Generator` protocol: started, asked, fed with weights and looked after."""
