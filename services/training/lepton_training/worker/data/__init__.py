"""From the files of a dataset version to what a network trains on, by kind of data."""
