"""`import missviz` and the first panel of each kind, each in a fresh process: the first minute of a
lecture.

    OMP_NUM_THREADS=1 python benchmarks/first_panel.py [PANEL ...]

Prints the processor's seconds, which on a quiet core are those that pass, and the seconds that
passed.
"""

import subprocess
import sys

from missviz.explore.gallery import PANELS

CODE = """
import IPython, ipykernel.kernelapp  # a notebook has these before its first cell
import time

def now():
    return time.process_time(), time.perf_counter()

started = now()
import missviz as mv
imported = now()
mv.explore.{name}()
drawn = now()
spent = [
    f"{{end[0] - start[0]:8.2f}} ({{end[1] - start[1]:.2f}})"
    for start, end in ((started, imported), (imported, drawn), (started, drawn))
]
print(f"{name:16}", *spent, sep="  ")
"""


def main() -> None:
    print("panel              import missviz    first panel     together")
    for name in sys.argv[1:] or PANELS:
        subprocess.run([sys.executable, "-c", CODE.format(name=name)], check=True)


if __name__ == "__main__":
    main()
