"""A local Prefect server and worker, and the deployments on them."""
