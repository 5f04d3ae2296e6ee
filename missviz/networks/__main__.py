"""`python -m missviz.networks`: fetch what the networks and their tasks are read from."""

import subprocess
import sys

from missviz.networks.packages import fetch, missing

try:
    fetch()
except (OSError, subprocess.CalledProcessError) as error:
    sys.exit(f"not all packages of missviz.networks could be fetched ({error})")
if reason := missing():
    sys.exit(reason)
print("missviz.networks has all that it reads")
