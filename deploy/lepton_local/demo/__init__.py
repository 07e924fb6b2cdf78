"""The main job from raw files to predictions, on a stack of its own: ``make demo``."""
