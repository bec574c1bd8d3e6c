"""`python -m chronosae.cli`."""

import sys

from chronosae.cli.main import main

sys.exit(main())
