"""The job's own process: the only part of the training service that imports PyTorch."""
