"""WHAT OTHERS REPORTED: figures from papers, as tables in which each row says where it is from.

| table               | what it holds                                                            |
|---------------------|--------------------------------------------------------------------------|
| `initial_gradients` | DiSHA (arXiv 2409.15371v6) Fig. 1 and §9.1: norm of the first gradient,  |
|                     | Llama2-7B, by method and rank (empty: none); read from the text or       |
|                     | digitised from the figure, ± uncertainty                                 |
| `peft_benchmark`    | PEFT's method comparison on MetaMathQA (Llama-3.2-3B, 5000 steps, one    |
|                     | run each, NVIDIA L40S): accuracy on GSM8K's 1319 questions; forgetting,  |
|                     | the rise of the loss on FineWiki text in nats; time, memory, file size   |
| `peft_history`      | all published runs of that benchmark, June 2025 to August 2026 (one      |
|                     | seed each); `family` is PEFT's folder. Bone is today's MiSS; forgetting  |
|                     | was measured in another way before July 2026; the script changed in      |
|                     | November 2025, and with it the times                                     |
| `peft_image_gen`    | PEFT's second benchmark (FLUX.2-klein, 750 steps, one cat): similarity   |
|                     | to the cat (DINO; higher is better), drift on other prompts (lower)      |
| `miss_tables`       | MiSS v12 Tables 4-6: each cell, and each average as it is printed        |
| `authors_script`    | what the script of MiSS's authors gives (the "no free lunch" figure), run |
|                     | with SEED = `seed` on torch 2.13.0+cpu, under our methods' names: loss   |
|                     | before the last of 100 steps on the training points ("final train" to   |
|                     | the script), and after it on the validation points                       |
| `peft_reruns`       | earlier runs of the same configurations; `period` names the software     |
|                     | (2025: torch 2.7.1, transformers 4.52.4), empty where the date is not    |
|                     | known                                                                    |
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent


def tables() -> list[str]:
    """Names of the tables there are."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def table(name: str) -> "pd.DataFrame":
    """One table; its column `source` says for each row where the figure was reported.

    Raises ValueError where there is no such table, or a row of it has no source.
    """
    import pandas as pd

    if name not in tables():
        raise ValueError(f"name={name!r} is no published table; choose from {', '.join(tables())}")
    found = pd.read_csv(FOLDER / f"{name}.csv")
    if "source" not in found or found["source"].isna().any():
        raise ValueError(f"{name}: every published figure needs a source")
    return found
