"""Every documented example from its raw data to its figures at the gateway: ``make examples``."""
