"""Benchmarks: ``make bench``. Figures are for one machine at one time; compare within a run."""
