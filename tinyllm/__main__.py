# PYTHON_ARGCOMPLETE_OK
"""`python -m tinyllm` is the console script `tinyllm`."""

import sys

from tinyllm.cli.main import main

sys.exit(main())
