"""The front door: python experiment.py --out_dir=run_0

Harvests activations of the embedded language model, trains autoencoders on one stream, evaluates them, and writes the
results. Takes every option of `chronosae run`, such as --set saes.topk.k=8, --resume and --dry-run.
"""

import sys
from pathlib import Path

from chronosae.cli import main

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"

if __name__ == "__main__":
    sys.exit(main(["run", str(CONFIG), *sys.argv[1:]]))
