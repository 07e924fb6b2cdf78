"""Coverage-guided fuzzing of the data plane's decoders (libFuzzer, by way of atheris).

    python -m tests.fuzz --seconds 60             fuzz; what is found goes to build/fuzz
    python -m tests.fuzz build/fuzz/crash-<hash>  run one input again

What is learned stays in build/fuzz/corpus, and the next run goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lepton_inference"]):
    from tests.fuzz import targets
    from tests.inference_plane import Plane

DIRECTORY = Path("build/fuzz")
LONGEST_INPUT = 4096
LONGEST_SECONDS = 5
"""For one input; the right ones take a thousandth of it."""
MOST_MIB = 2048


def main() -> None:
    """Does not return: libFuzzer ends the process, with 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="0 for without end")
    parser.add_argument("inputs", nargs="*", type=Path, help="files to run, instead of fuzzing")
    options = parser.parse_args()
    logging.getLogger("lepton_inference").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as models:
        plane = Plane(Path(models))
    arguments = [sys.argv[0], f"-artifact_prefix={DIRECTORY}/"]
    arguments += [f"-timeout={LONGEST_SECONDS}", f"-rss_limit_mb={MOST_MIB}"]
    if options.inputs:
        arguments += map(str, options.inputs)
    else:
        seeds, corpus = DIRECTORY / "seeds", DIRECTORY / "corpus"
        for folder in (seeds, corpus):
            folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(targets.seeds()):
            (seeds / f"{number:03}").write_bytes(seed)
        arguments += [f"-max_total_time={options.seconds}", f"-max_len={LONGEST_INPUT}"]
        arguments += ["-print_final_stats=1", str(corpus), str(seeds)]
    atheris.Setup(arguments, lambda data: targets.run(plane, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
